"""Tests of subscriptions: one marked event each, sent now by the sink's own client.

Beside the lanes, not through them: no hold, no slot, no book, no letter. So a test goes while
its lane is paused or disabled and while this drain works off a backlog, and a worker hears of
it between its jobs too, without a bell. Each is sent once at most: whoever took it and is
killed leaves it unanswered, and who asked is told so.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from evoflask import vault
from evoflask.configuration import LaneSettings
from evoflask.delivery.verdicts import verdict
from evoflask.errors import Unavailable
from evoflask.net import story
from evoflask.outbox import AsyncOutbox, trials, verbs
from evoflask.outbox.trials import Asked
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink

log = logging.getLogger(__name__)

AT_ONCE = 256
"""Tests under way in a drain. An instance has four open at most, so no tenant fills it."""
LOOK = 5.0
"""Seconds between looks when nothing told of a test: for a word that was lost."""
FULL = 1.0
"""Seconds until the next look while there is no room."""
LONGEST = 30.0
"""Seconds for one, whatever its subscription's own timeout."""
LATE = 60.0
"""Seconds after which nobody asks for it any more, and it is not sent."""
BOUNDS = verbs.Bounds()

Rows = Callable[[list[str]], Awaitable[dict[str, LaneSettings | None]]]


class Trials:
    """Of one drain; all methods are for its loop."""

    def __init__(self, outbox: AsyncOutbox, sinks: Mapping[str, Sink], rows: Rows) -> None:
        self._outbox = outbox
        self._sinks = sinks
        self._rows = rows
        self._heard = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()

    def nudge(self) -> None:
        """There may be one."""
        self._heard.set()

    async def look(self, partitions: Sequence[int]) -> None:
        """Waits until one is told of, `LOOK` seconds at most, and begins those that there are."""
        try:
            async with asyncio.timeout(LOOK):
                await self._heard.wait()
        except TimeoutError:
            pass
        self._heard.clear()
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            self._heard.set()
            await asyncio.sleep(FULL)
            return
        for asked in await trials.take(self._outbox, partitions, list(self._sinks), room):
            task = asyncio.create_task(self._answer(asked))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def close(self, grace: float) -> None:
        """Lets those under way end, at most `grace` seconds."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=grace)
        for task in self._under_way:
            task.cancel()

    async def _answer(self, asked: Asked) -> None:
        try:
            told = orjson.dumps(await self._try(asked))
        except Exception as error:
            log.exception("a test of a subscription failed here")
            word = type(error).__name__
            told = orjson.dumps(failed("bug", f"The test failed inside the worker: {word}."))
        call = verbs.answer(asked.partition, asked.sink, asked.id, told, BOUNDS)
        for wait in (0.2, 1.0, 0.0):
            try:
                await self._outbox.run(call)
                return
            except Unavailable:
                await asyncio.sleep(wait)  # and then it stays unanswered

    async def _try(self, asked: Asked) -> dict[str, Any]:
        if time.time() - asked.at > LATE:
            return failed("late", f"No worker took it within {LATE:g} seconds; it was not sent.")
        try:
            rows = await self._rows([asked.lane])
        except Unavailable:
            return failed("database", "The worker cannot read its database; nothing was sent.")
        if asked.lane not in rows:
            return failed("deleted", "The subscription was deleted meanwhile; nothing was sent.")
        found = rows[asked.lane]
        if found is None:
            return failed("sealed", f"{vault.CLOSED} Nothing was sent.")
        return await send(self._sinks[asked.sink], _delivery(asked, found))


def failed(code: str, words: str) -> dict[str, Any]:
    """The story of what was not sent."""
    return {"delivered": False, "verdict": words, "outcome": None, "code": code, "detail": ""}


async def send(sink: Sink, delivery: Delivery) -> dict[str, Any]:
    """Sends it and tells the whole story."""
    with story.telling() as told:
        try:
            async with asyncio.timeout(delivery.target.timeout + 5):
                [attempt] = await sink.deliver([delivery])
        except Exception as error:
            attempt = Attempt(Outcome.AMBIGUOUS, "bug", f"the sink raised {type(error).__name__}")
        facts = told.told()
    return {
        "delivered": attempt.outcome is Outcome.DELIVERED,
        "verdict": verdict(delivery.target.sink, attempt, facts),
        "outcome": attempt.outcome.value,
        "code": attempt.code,
        "detail": attempt.detail,
        **facts,
    }


def _delivery(asked: Asked, settings: LaneSettings) -> Delivery:
    target = settings.target
    request = orjson.loads(asked.request)
    return Delivery(
        target=dataclasses.replace(target, timeout=min(target.timeout, LONGEST)),
        event_id=asked.id,
        event=request["event"],
        data=request["data"].encode(),
        at=asked.at,
        tries=0,
        key=asked.id,
        mark="test",
    )
