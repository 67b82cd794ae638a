"""What rows cost: settings changed, letters written and counted, attempts logged."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.stage import Cost, stage
from evoflask import attempts, configuration, deadletters
from evoflask.configuration import Configuration
from evoflask.deadletters import Filter, writing
from evoflask.models import Instance, Subscription
from evoflask.outbox.attempts import Batch, Place, Tried
from evoflask.outbox.entries import Dying
from evoflask.schemas import Patch

BODY = b"x" * 1000


def run(database: str, single: int, many: int) -> list[Cost]:
    """One thread, each row a commit of its own or one of a batch, as the product has it."""
    with stage(database) as here:
        here.tenants(1, "webhook", here.webhook)
        lane, name = Subscription.get().lane, Instance.get().name
        changes = Configuration(here.outbox, here.settings)
        return [
            _cost("routes read", single, 1, lambda _: configuration.read_route(name)),
            _cost("settings changed", single, 1, lambda n: _change(changes, name, n)),
            _cost("letters written, 100 at once", many, 100, lambda n: _bury(lane, n)),
            _cost("letters listed and counted", single, 1, lambda _: _look()),
            _cost("attempts logged, 2,000 at once", many, 2_000, lambda n: _log(lane, n)),
        ]


def _cost(name: str, events: int, each: int, work: Callable[[int], object]) -> Cost:
    events = max(each, events // each * each)
    wall, cpu = time.perf_counter(), time.process_time()
    for n in range(0, events, each):
        work(n)
    return Cost(name, events, time.perf_counter() - wall, time.process_time() - cpu)


def _change(changes: Configuration, name: str, n: int) -> None:
    changes.change(name, "webhook", Patch("webhook", {"concurrency": n % 8 + 1}, ""))


def _bury(lane: str, n: int) -> None:
    why = ("exhausted", "503", "the receiver answered: there is no such order")
    writing._write(lane, [_dying(n + k, why) for k in range(100)])


def _dying(n: int, why: tuple[str, str, str]) -> Dying:
    return Dying(
        member=f"{n:013d}-0000000000:1000:-",
        event_id=f"e{n}",
        event="CALL",
        at=1.0,
        data=BODY,
        meta=b"{}",
        reason=why[0],
        code=why[1],
        detail=why[2],
        tries=7,
    )


def _look() -> None:
    wanted = Filter(reason="exhausted")
    deadletters.find(wanted)
    deadletters.count(wanted)


def _log(lane: str, n: int) -> None:
    row = Tried(lane, "1-0", "e", "CALL", 1, 0.5, 0.1, "refused", "503", "busy", "h.com", "no")
    place = {lane: Place(1, "a", "webhook", "webhook")}
    attempts._write(0, [Batch(f"{n}-0", f"batch-{n}", place, [row] * 2_000)])
