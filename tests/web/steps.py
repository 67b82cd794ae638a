"""What a drain and the clock would do, a step at a time, for tests that look at the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from evoflask import deadletters
from evoflask.ids import random_id
from evoflask.outbox import Ended, Held, Outbox, verbs
from evoflask.outbox.timetable import Timetable

HOLD = 30.0


def take(outbox: Outbox) -> list[Held]:
    """Every lane that is due."""
    taken = outbox.run(verbs.take(0, "webhook", random_id(), hold=HOLD, lanes=100, ids=256))
    return list(taken.lanes)


def settle(outbox: Outbox, held: Held, how: Callable[[str, int], Ended], **facts: int) -> None:
    """End each attempt of a hold in one way, and give the lane up."""
    ended = [how(member, tries) for member, tries in held.ids]
    outbox.run(verbs.settle(0, held.lane, held.token, ended, hold=0, facts=facts))


def end_some(outbox: Outbox, how: Callable[[str, int], Ended], n: int) -> None:
    """Of every lane that is due, end the first `n`."""
    for held in take(outbox):
        settle(outbox, replace(held, ids=held.ids[:n]), how)


def end_all(outbox: Outbox, how: Callable[[str, int], Ended]) -> int:
    """Take and settle until nothing is due. Answers how many ended."""
    n = 0
    while lanes := take(outbox):
        for held in lanes:
            settle(outbox, held, how)
            n += len(held.ids)
    return n


def delivered(member: str, tries: int) -> Ended:
    return Ended("d", member, tries + 1)


def failed(member: str, tries: int) -> Ended:
    return Ended("r", member, tries + 1, delay=600)


def rejected(member: str, tries: int) -> Ended:
    why = {"reason": "rejected", "code": "410", "detail": "gone for good"}
    return Ended("x", member, tries + 1, why=json.dumps(why))


def exhausted(member: str, tries: int) -> Ended:
    why = {"reason": "exhausted", "code": "500", "detail": "it failed to the end"}
    return Ended("x", member, tries + 1, why=json.dumps(why))


def bury(outbox: Outbox) -> int:
    """Write the letters of all that was given up."""
    n = 0
    for lane in Timetable(outbox).graves(0, 1000):
        while written := deadletters.bury(outbox, 0, lane):
            n += written
    return n


def kill(outbox: Outbox, how: Callable[[str, int], Ended] = rejected) -> int:
    """All that is due becomes letters."""
    end_all(outbox, how)
    return bury(outbox)
