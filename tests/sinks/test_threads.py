"""Threads for clients that block: who waits for whom, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref

import pytest

from evoflask.sinks._threads import Threads


def test_what_was_given_up_keeps_its_place_until_its_thread_has_ended() -> None:
    let_go = threading.Event()
    order: list[str] = []

    def hang() -> None:
        let_go.wait(10)
        order.append("first")

    async def run() -> None:
        threads = Threads("t", young=4, most=4)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await threads.run(hang, ("gate", 1))
        gc.collect()  # a gate lasts as long as somebody is inside
        second = asyncio.create_task(threads.run(lambda: order.append("second"), ("gate", 1)))
        await threads.run(lambda: order.append("elsewhere"), ("other", 1))
        let_go.set()
        async with asyncio.timeout(10):
            await second
        await threads.close()

    asyncio.run(run())

    assert order == ["elsewhere", "first", "second"]


def test_what_a_thread_raises_is_raised_and_what_is_left_stays_usable() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def run() -> int:
        threads = Threads("t", young=1, most=1)
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                await threads.run(fail, ("gate", 1))
        got = await threads.run(lambda: 7, ("gate", 1))
        await threads.close()
        await threads.close()
        return got

    assert asyncio.run(asyncio.wait_for(run(), 10)) == 7


def test_a_failure_leaves_nothing_for_the_collector() -> None:
    """Its bodies would stay until it comes by."""

    class Work:
        def __call__(self) -> None:
            raise ValueError("no")

    async def run() -> object:
        threads = Threads("t", young=1, most=1)
        work = Work()
        gone = weakref.ref(work)
        with contextlib.suppress(ValueError):
            await threads.run(work)
        del work
        await threads.close()
        return gone()

    gc.disable()
    try:
        assert asyncio.run(run()) is None
    finally:
        gc.enable()


def test_threads_are_used_again_and_no_more_than_the_most() -> None:
    seen: set[int] = set()

    def work() -> None:
        seen.add(threading.get_ident())
        time.sleep(0.001)

    async def run() -> int:
        threads = Threads("bounded", young=9, most=3)
        await asyncio.gather(*(threads.run(work) for _ in range(40)))
        alive = sum(each.name == "bounded" for each in threading.enumerate())
        await threads.close()
        return alive

    alive = asyncio.run(run())

    assert 1 <= len(seen) == alive <= 3
    assert not [each for each in threading.enumerate() if each.name == "bounded"]


def test_a_closed_one_says_so() -> None:
    async def run() -> None:
        threads = Threads("t", young=1, most=1)
        await threads.close()
        with pytest.raises(RuntimeError, match="closed"):
            await threads.run(lambda: None)

    asyncio.run(run())
