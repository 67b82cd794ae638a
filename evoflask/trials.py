"""Testing a subscription: asking a worker for it, and what came of it. For the route and the CLI.

A test is one marked event that a worker sends at once by the sink's own client. It is on no
lane, in no book and becomes no letter.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import orjson

from evoflask import configuration
from evoflask.errors import Conflict, NotFound, OutboxFull, TooLarge
from evoflask.ids import random_id
from evoflask.models import Subscription
from evoflask.outbox import Outbox, trials, verbs
from evoflask.plurals import counted
from evoflask.sinks import delivering

BOUNDS = verbs.Bounds()
MAX_DATA = 65_536
"""Bytes of `data` of a test."""
WAIT = 35.0
"""Seconds that an answer is waited for at most."""
LATE = 60.0
"""Seconds after which a test that nobody answered will have no answer."""
EVENT = "MESSAGES_UPSERT"
"""What is sent where neither the request nor the subscription names an event."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A test of a subscription. `story` None: there is no answer yet."""

    id: str
    instance: str
    subscription: str
    sink: str
    event: str
    story: dict[str, Any] | None

    @property
    def row(self) -> dict[str, Any]:
        """As it is answered."""
        state = "waiting" if self.story is None else "done"
        return {
            "id": self.id,
            "state": state,
            "instance": self.instance,
            "subscription": self.subscription,
            "sink": self.sink,
            "event": self.event,
            **(self.story or {}),
        }


def ask(
    outbox: Outbox, instance: str, name: str, *, event: str | None = None, data: Any = None
) -> Trial:
    """Ask a worker to send one marked event now. `data` None: something of ours.

    Raises `NotFound`, `Conflict` for a websocket and where too many are
    under way, `TooLarge`, `Unavailable`.
    """
    row = configuration.get_subscription(instance, name)
    if row.sink not in delivering():
        raise Conflict(f"A {row.sink} subscription sends to nobody: there is nothing to test.")
    event = event or next(iter(row.events or ()), EVENT)
    text = json.dumps(_sample(name) if data is None else data, ensure_ascii=False)
    if len(text.encode()) > MAX_DATA:
        raise TooLarge(f"The data of a test may have {MAX_DATA} bytes at most.")
    trial = f"test-{random_id()}"
    request = orjson.dumps({"event": event, "data": text})
    answer = outbox.run(
        verbs.ask(
            row.instance.partition,
            row.instance.outbox,
            row.lane,
            row.sink,
            trial,
            event,
            request,
            BOUNDS,
        )
    )
    if answer == "instance":
        raise Conflict(
            f"{counted(BOUNDS.instance, 'test')} of this instance are under way; wait for their "
            "answers."
        )
    if answer != "ok":
        raise OutboxFull(f"Too many tests are under way for {row.sink}; repeat.")
    return Trial(trial, instance, name, row.sink, event, None)


def get(outbox: Outbox, instance: str, name: str, trial: str) -> Trial:
    """A test of the last minutes. Raises `NotFound`, `Unavailable`."""
    row = configuration.get_subscription(instance, name)
    return _read(outbox, row, instance, Trial(trial, instance, name, row.sink, "", None))


def wait(outbox: Outbox, asked: Trial, seconds: float = WAIT) -> Trial:
    """The test with its story, or as it is after that long."""
    row = configuration.get_subscription(asked.instance, asked.subscription)
    end = time.monotonic() + seconds
    pause = 0.01
    while True:
        found = _read(outbox, row, asked.instance, asked)
        if found.story is not None or time.monotonic() >= end:
            return found
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(pause * 1.5, 0.25)


def _read(outbox: Outbox, row: Subscription, instance: str, asked: Trial) -> Trial:
    kept = trials.read(outbox, row.instance.partition, asked.id)
    if kept is None or (kept.i, kept.lane) != (row.instance.outbox, row.lane):
        raise NotFound(
            f'There is no test "{asked.id}" of subscription "{asked.subscription}" of the '
            f'"{instance}" instance; one is remembered for {BOUNDS.kept_seconds / 60:g} minutes.'
        )
    story = None if kept.story is None else orjson.loads(kept.story)
    if story is None and time.time() - kept.at > LATE:
        words = (
            f"No answer came within {LATE:g} seconds: no worker serves {row.sink}, or the one "
            "that sent it has ended."
        )
        story = {"delivered": False, "verdict": words, "outcome": None, "code": "no-worker"}
    return Trial(asked.id, instance, asked.subscription, row.sink, kept.event, story)


def _sample(name: str) -> dict[str, Any]:
    return {"test": True, "message": f'A test of the subscription "{name}".'}
