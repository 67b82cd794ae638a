"""Threads for a client library that blocks, bounded so that what hangs makes nobody else wait.

A call that hangs holds its thread until its own timeout. So there are many threads, each
destination may have a few of them, and only what is younger than `YOUNG` counts among the
calls that run side by side when all is well. Nothing here knows what the calls do.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import ExitStack, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakValueDictionary

YOUNG = 1.0
"""Seconds after which a call no longer counts as one of those that run side by side."""
CLOSE_SECONDS = 2.0
"""How long `close` waits for calls under way."""

T = TypeVar("T")


class Threads:
    """Up to `most` calls under way, up to `young` of them younger than `YOUNG`.

    A thread is started when it is needed and kept. Daemons, which `ThreadPoolExecutor` has not:
    a call that hangs must not keep a process from ending.
    """

    def __init__(self, name: str, *, young: int, most: int) -> None:
        self._name = name
        self._most = most
        self._young = asyncio.Semaphore(young)
        self._gates: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()
        """Whoever waits at one or is inside keeps it."""
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopped = False

    async def run(self, work: Callable[[], T], *gates: tuple[Hashable, int]) -> T:
        """What `work` returns or raises, in a thread.

        `gates`: where to wait first, in this order; a name, and how many may be inside. They
        are left when the thread has ended, which giving up to wait does not make it do.
        Raises `RuntimeError` when closed.
        """
        loop = asyncio.get_running_loop()
        with ExitStack() as held:
            for name, width in gates:
                gate = self._gates.setdefault(name, asyncio.Semaphore(width))
                await gate.acquire()
                held.callback(gate.release)
            # Last and shortest: nobody holds one of these while he waits for something else.
            await self._young.acquire()
            young = held.enter_context(ExitStack())  # which is released once, here or there
            young.callback(self._young.release)
            held.callback(loop.call_later(YOUNG, young.close).cancel)
            self._need_one()
            answer: asyncio.Future[T] = loop.create_future()
            # The future alone would not do: it is over when nobody waits, the thread is not.
            self._jobs.put(partial(_do, work, loop, partial(_end, answer, held.pop_all())))
        try:
            return await answer
        finally:
            del answer  # whose error refers to this frame, and so to `work`

    async def close(self) -> None:
        """Ends the threads, each after what it does; what hangs is waited for a while only."""
        if not self._stopped:
            self._stopped = True
            for _ in self._threads:
                self._jobs.put(None)
        end = time.monotonic() + CLOSE_SECONDS
        # Threads that end set no event of the loop's.
        while any(each.is_alive() for each in self._threads):
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.005)

    def _need_one(self) -> None:
        """Counts on an idle thread, or starts one; at `most`, the next that is done will do."""
        if self._stopped:
            raise RuntimeError("the threads are closed")
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._most:
                thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def _serve(self) -> None:
        while job := self._jobs.get():
            job()
            del job  # and what it refers to, while this thread waits
            with self._lock:
                self._idle += 1


def _do(
    work: Callable[[], T],
    loop: asyncio.AbstractEventLoop,
    end: Callable[[object, BaseException | None], None],
) -> None:
    """In a thread."""
    try:
        told = partial(end, work(), None)
    except BaseException as error:
        told = partial(end, None, error)
    with suppress(RuntimeError):  # the loop has gone
        loop.call_soon_threadsafe(told)
    del told, end  # whose error refers to this frame


def _end(
    answer: asyncio.Future[Any], held: ExitStack, result: object, error: BaseException | None
) -> None:
    """In the loop."""
    held.close()
    if answer.done():  # nobody waits any more
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
