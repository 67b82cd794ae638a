"""A drain for each sink, each on an event loop and in a thread of its own, as one.

What is new passes some ten turns of a loop before it is delivered. On one loop for all sinks a
lone event shared each of those turns with whoever was saturated, and nothing that was tried to
keep turns short brought it below the length of a turn times ten. Threads share the interpreter
instead, which goes from one to the next after `SWITCH` seconds at most, and a sink whose loop
stands still stops no other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from evoflask.delivery.drain import Drain
from evoflask.errors import Unavailable
from evoflask.log import Repeats
from evoflask.settings import Settings

log = logging.getLogger(__name__)

SWITCH = 0.0005
"""Seconds after which a thread that computes lets another one go on; Python's own is 5 ms."""

AGAIN = 0.5
"""Seconds, on average, after which a drain that failed is put to work again."""

LAST = 2.0
"""Seconds that a drain's work may take to end after the drain was stopped."""


def _raise(results: Sequence[BaseException | None]) -> None:
    """The first error among results."""
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _nothing() -> None:
    pass


class _Berth:
    """A drain, its loop and its thread."""

    def __init__(self, name: str, drain: Drain) -> None:
        self.name = name
        self.drain = drain
        self.started = False
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"drain-{name}", daemon=True)

    def open(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Something of the drain's, on its loop, awaited on ours."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed before
            self.loop.call_soon_threadsafe(self.loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        # Whoever waits for one of these hears of its end.
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.loop.close()


class Fleet:
    """All methods are for one loop, which is none of the drains'."""

    def __init__(self, settings: Settings, served: Sequence[str]) -> None:
        # One of them does the clock's chores where the clock does not.
        self._berths = [
            _Berth(name, Drain(settings, [name], chores=n == 0)) for n, name in enumerate(served)
        ]
        self._works: set[asyncio.Task[None]] = set()
        self._failing: set[str] = set()
        """Sinks whose drain failed and waits to be put to work again."""
        self._stopping = False
        self._failures = Repeats(log, expected=(Unavailable,))

    @property
    def drains(self) -> Mapping[str, Drain]:
        """By sink."""
        return {berth.name: berth.drain for berth in self._berths}

    async def start(self) -> None:
        """Connects all. Raises the first error; asked again, it starts what did not start."""
        sys.setswitchinterval(SWITCH)
        for berth in self._berths:
            if not berth.started:
                berth.open()
                await berth.run(berth.drain.start())
                berth.started = True

    async def drain_until_quiet(self, max_seconds: float, quiet_seconds: float) -> None:
        """Works until nothing was due at any sink for `quiet_seconds`, at most `max_seconds`.

        One that fails is put to work again in the same job: the others may be at work for all
        of it, and nobody else looks after this sink meanwhile. Raises the first error of those
        that still failed at the end.
        """
        until = time.monotonic() + max_seconds
        works = [
            asyncio.ensure_future(self._keep_at_work(berth, until, quiet_seconds))
            for berth in self._berths
        ]
        self._works.update(works)
        try:
            _raise(await asyncio.gather(*works, return_exceptions=True))
        finally:
            self._works.difference_update(works)

    async def _keep_at_work(self, berth: _Berth, until: float, quiet_seconds: float) -> None:
        while True:
            left = until - time.monotonic()
            try:
                await berth.run(berth.drain.drain_until_quiet(left, quiet_seconds, self._last_work))
                return
            except Exception as error:
                wait = AGAIN * (0.5 + random.random())
                if self._stopping or time.monotonic() + wait >= until:
                    raise
                self._failures.tell(f"the drain of {berth.name} failed", error)
            self._failing.add(berth.name)
            try:
                await asyncio.sleep(wait)
            finally:
                self._failing.discard(berth.name)

    async def pulse(self) -> None:
        """Returns when every loop has turned once."""
        await asyncio.gather(*(berth.run(_nothing()) for berth in self._berths if berth.started))

    async def stop(self, grace: float) -> None:
        """As `Drain.stop`, all at once; then their threads end."""
        self._stopping = True
        stops = (berth.run(berth.drain.stop(grace)) for berth in self._berths if berth.started)
        try:
            results = await asyncio.gather(*stops, return_exceptions=True)
            if self._works:
                # They end by themselves now; a loop that ends before would leave them open.
                await asyncio.wait(set(self._works), timeout=LAST)
        finally:
            for berth in self._berths:
                berth.close()
        _raise(results)

    def _last_work(self) -> float:
        """When any of them last had something to do: they go to sleep together. One that
        slept while its worker's job goes on for another sink would need a bell that this
        worker cannot hear. One that fails did not look: it may have something to do."""
        if self._failing:
            return time.monotonic()
        return max(berth.drain.worked for berth in self._berths)
