"""The worker's event loop, in a thread of its own, with the drain that lives on it.

RQ runs in the main thread and asks for a drain per bell; the loop outlives the jobs as its
connections do. While RQ is silent the loop looks for work by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import Protocol

import redis

from evoflask.log import Repeats

log = logging.getLogger("evoflask.worker")

SILENCE = 10.0
"""Seconds without a word of RQ's Redis after which bells count as lost."""

PULSE = 5.0
"""Seconds that the loops may take to turn once."""

LOOK_EVERY = 5.0
"""Seconds between looks while they do."""


class Draining(Protocol):
    """What the engine asks of a drain; all of it on the engine's loop."""

    async def start(self) -> None:
        """Connects. May fail, and is asked again."""

    async def drain_until_quiet(self, max_seconds: float, quiet_seconds: float) -> None:
        """Works until nothing was due for `quiet_seconds`, at most `max_seconds`."""

    async def pulse(self) -> None:
        """Returns when whatever loops it has of its own have turned once."""

    async def stop(self, grace: float) -> None:
        """Ends `drain_until_quiet` and lets what is under way end, at most `grace` seconds."""


class Engine:
    """Owns the loop's thread. Its methods are for the main thread.

    `heard`, `stop` and `stopping` take no lock, so a signal handler may use them.
    """

    def __init__(self, drain: Draining) -> None:
        self._drain = drain
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._busy = asyncio.Lock()
        self._connecting = asyncio.Lock()
        self._started = False
        self._ready = asyncio.Event()
        self._heard = time.monotonic()
        self._failures = Repeats(log, expected=(redis.RedisError,))
        self.stopping = False

    def start(self) -> None:
        """Starts the loop, which connects and looks for work that no bell told of."""
        self._thread.start()

    def heard(self) -> None:
        """RQ's Redis answered."""
        self._heard = time.monotonic()

    def drain(self, max_seconds: float, quiet_seconds: float) -> None:
        """Drains and returns when it is quiet, or when the engine stops. Never raises."""
        if self.stopping:
            return  # the loop may have ended: nobody would answer
        work = self._turn(max_seconds, quiet_seconds)
        asyncio.run_coroutine_threadsafe(work, self._loop).result()
        self.heard()

    def responds(self) -> bool:
        """Whether all loops turn. Takes `PULSE` seconds at most."""
        try:
            work = asyncio.run_coroutine_threadsafe(self._drain.pulse(), self._loop)
        except RuntimeError:  # it ended
            return False
        try:
            work.result(PULSE)
        except Exception:
            work.cancel()
            return False
        return True

    def stop(self, grace: float) -> None:
        """Asks the drain to end within `grace` seconds, and returns at once."""
        if not self.stopping:
            self.stopping = True
            asyncio.run_coroutine_threadsafe(self._stop(grace), self._loop)

    def join(self, timeout: float) -> bool:
        """Waits for the end of the loop; whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        life = self._loop.create_task(self._live())
        self._loop.run_forever()
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(life)
        self._loop.close()

    async def _live(self) -> None:
        await self._connect()
        await self._turn(LOOK_EVERY, 1)
        while not self.stopping:
            await asyncio.sleep(1)
            if time.monotonic() - self._heard > SILENCE and not self._busy.locked():
                await self._turn(LOOK_EVERY, 1)
                await asyncio.sleep(LOOK_EVERY - 1)

    async def _connect(self) -> None:
        while not self._started:
            async with self._connecting:
                if self.stopping:
                    return
                try:
                    await self._drain.start()
                    self._started = True
                except Exception as error:
                    self._failures.tell("the drain cannot start", error)
            if not self._started:
                await asyncio.sleep(1)
        self._ready.set()
        self._failures.over("the drain started")

    async def _turn(self, max_seconds: float, quiet_seconds: float) -> None:
        """One drain at a time: a bell that comes while the loop looks waits for its end."""
        async with self._busy:
            await self._ready.wait()
            if self.stopping:
                return
            try:
                await self._drain.drain_until_quiet(max_seconds, quiet_seconds)
            except Exception as error:
                self._failures.tell("the drain failed", error)
                await asyncio.sleep(0.2)  # bells ring on: not in a tight loop
            else:
                self._failures.over("the drain works again")

    async def _stop(self, grace: float) -> None:
        async with self._connecting:  # a drain that is half started cannot be stopped
            self._ready.set()
            try:
                if self._started:
                    await asyncio.wait_for(self._drain.stop(grace), grace + 1)
            except Exception as error:
                self._failures.tell("the drain did not stop in order", error)
        async with self._busy:  # a job that waits for its turn gets its answer first
            self._loop.call_later(0.05, self._loop.stop)
