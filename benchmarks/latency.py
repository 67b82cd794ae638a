"""From sending an event to its arrival at the receiver, through web process, Redis and worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.measures import Run
from benchmarks.mix import Event, events
from benchmarks.ours import House, Sent, house
from benchmarks.scene import percentile, scene

HEADING = "From sending to arrival, ms"
SHARES = (0.5, 0.9, 0.99, 0.999)
NAMES = ("what", "events/s", *(f"p{share * 100:g}" for share in SHARES), "events")
CONNECTIONS = 16
LONE = 20.0
"""Events a second that do not meet each other."""


def section(run: Run) -> None:
    """Alone, and at half of what was delivered at most, on one house in turns."""
    tenth = 1 if run.full else 4
    with scene(2, 100) as here, house(here, web=1) as ours:
        ours.start()
        names = list(here.tenants)
        warm(ours, events(2_000, names, run="warm"))
        here.receiver.control(record=True)
        for n in range(run.rounds):
            some = events(400 // tenth, names, run=f"lone{n}")
            lone = delays(ours, some, LONE, "sent")
            tell(run, "alone", LONE, lone)
            run.tell("lone_p50", percentile(lone, 0.5))
            run.tell("lone_p99", percentile(lone, 0.99))
            top = capacity(ours, events(8_000 // tenth, names, run=f"top{n}"))
            some = events(int(top / 2 * 20 / tenth), names, run=f"half{n}")
            half = delays(ours, some, top / 2, "due")
            tell(run, "at 50 % load", top / 2, half)
            run.tell("half_p99", percentile(half, 0.99))


def tell(run: Run, what: str, rate: float, delays: Sequence[float]) -> None:
    """A row of percentiles."""
    run.row(HEADING, NAMES, what, rate, *(percentile(delays, s) for s in SHARES), len(delays))


def capacity(ours: House, wanted: Sequence[Event]) -> float:
    """Events a second, one by one, from the first that is sent to the last that arrived."""
    receiver = ours.scene.receiver
    receiver.take()
    came = receiver.count()
    sent = ours.load(wanted, connections=CONNECTIONS)
    receiver.wait_for(came + len(wanted), 120)
    return len(wanted) / (max(one.at for one in receiver.take()) - min(sent.sent))


def delays(ours: House, wanted: Sequence[Event], rate: float, since: str) -> list[float]:
    """Milliseconds of each. `since`: "sent", or "due", which counts the wait for a free
    connection too."""
    receiver = ours.scene.receiver
    receiver.take()
    came = receiver.count()
    sent = ours.load(wanted, connections=CONNECTIONS, rate=rate)
    receiver.wait_for(came + len(wanted), 120)
    return list(matched(wanted, sent, since, {x.id: x.at for x in receiver.take()}).values())


def matched(
    wanted: Sequence[Event], sent: Sent, since: str, arrived: Mapping[str, float]
) -> dict[str, float]:
    """Milliseconds by event id. Raises KeyError for one that never arrived."""
    begun: list[float] = getattr(sent, since)
    return {e.id: (arrived[e.id] - at) * 1000 for e, at in zip(wanted, begun, strict=True)}


def warm(ours: House, wanted: Sequence[Event]) -> None:
    """All of them, to warm it up."""
    came = ours.scene.receiver.count()
    ours.load(wanted, connections=CONNECTIONS)
    ours.scene.receiver.wait_for(came + len(wanted), 120)
