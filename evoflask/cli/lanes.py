"""Lanes: how they are, and what to do about one."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click
from flask.cli import AppGroup

from evoflask.cli.speech import CLI, columns, instances, spoken, table
from evoflask.errors import BadInput, Unavailable
from evoflask.plurals import counted

if TYPE_CHECKING:
    from evoflask.lanes import Lane

lane = AppGroup("lane", help="One lane, by hand: pause, resume, probe, skip, purge.")

_LANES = (
    "lane", "sink", "state", "waiting", "dying", "bytes", "oldest", "tries", "last minute",
    "next attempt", "last error",
)  # fmt: skip


@click.command("lanes")
@click.option("--instance", help="Of this instance only.")
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C: those that work first.")
@click.option(
    "--every",
    type=click.FloatRange(0.2, 60),
    default=2.0,
    show_default=True,
    help="Seconds between looks of --watch.",
)
@spoken
def lanes(instance: str | None, watch: bool, every: float) -> None:
    """What waits on each lane, and whether it moves."""
    from evoflask import lanes
    from evoflask.web import parts

    def look() -> Iterator[Lane]:
        return lanes.every(parts().outbox, instances(instance))

    if not watch:
        return table(_LANES, (_lane_row(lane) for lane in look()))
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            _screen(look)
            time.sleep(every)


def _lane_row(lane: Lane) -> Sequence[object]:
    from evoflask.web.bodies import iso

    view = lane.view
    return (
        f"{lane.instance}/{lane.name}",
        lane.sink,
        lane.state,
        view.waiting,
        view.dying,
        view.weight,
        None if lane.age is None else f"{lane.age:.0f} s",
        view.head_tries or None,
        view.last_minute or None,
        None if lane.next_attempt is None else iso(lane.next_attempt),
        _last_error(lane),
    )


def _last_error(lane: Lane) -> str | None:
    from evoflask.web.bodies import iso

    if lane.last_error is None or lane.last_error_at is None:
        return lane.last_error
    return f"{iso(lane.last_error_at)} {lane.last_error}"


def _screen(look: Callable[[], Iterator[Lane]]) -> None:
    """One look, as far as it fits on the terminal; what fails is said, and looked at again."""
    width, height = shutil.get_terminal_size()
    terminal = sys.stdout.isatty()
    try:
        # Memory is bounded by the screen: the others are only counted.
        seen = waiting = 0
        first: list[Lane] = []
        for lane in look():
            seen, waiting = seen + 1, waiting + lane.view.waiting
            first.append(lane)
            if len(first) > 2 * height:
                first = _busiest(first)[:height]
        lines = list(columns(_LANES, map(_lane_row, _busiest(first)[: max(1, height - 3)])))
        waits = counted(waiting, "waits", "wait")
        lines.append(f"{waits} on {counted(seen, 'lane')} at {time.strftime('%H:%M:%S')}.")
    except Unavailable as error:
        lines = [f"evoflask: {' '.join(error.messages)}"]
    if terminal:
        click.clear()
        lines = [line[:width] for line in lines]
    click.echo("\n".join(lines))


def _busiest(found: Iterable[Lane]) -> list[Lane]:
    """Those first where something waits, then those that delivered most."""
    return sorted(found, key=lambda lane: (-lane.view.waiting, -lane.view.last_minute, lane.id))


@lane.command("pause")
@click.argument("instance")
@click.argument("name")
@spoken
def pause_lane(instance: str, name: str) -> None:
    """Deliver nothing until resume; what comes is kept."""
    _stop(instance, name, stopped=True)


@lane.command("resume")
@click.argument("instance")
@click.argument("name")
@spoken
def resume_lane(instance: str, name: str) -> None:
    """Go on at once, also where failures had paused the lane."""
    _stop(instance, name, stopped=False)


def _stop(instance: str, name: str, *, stopped: bool) -> None:
    from evoflask import lanes
    from evoflask.web import parts

    made = parts()
    found = lanes.stop(made.configuration, made.outbox, instance, name, stopped, by=CLI)
    click.echo(
        f"{instance}/{name} is {found.state}, {counted(found.view.waiting, 'waits', 'wait')}."
    )


@lane.command("probe")
@click.argument("instance")
@click.argument("name")
@spoken
def probe_lane(instance: str, name: str) -> None:
    """Try one delivery now, whatever the lane's pause or the date of its next try."""
    from evoflask import lanes
    from evoflask.web import parts

    found = lanes.probe(parts().outbox, instance, name, by=CLI)
    click.echo(
        f"{instance}/{name} is {found.state}, {counted(found.view.waiting, 'waits', 'wait')}."
    )


@lane.command("skip")
@click.argument("instance")
@click.argument("name")
@click.option("--event-id", help="Only if the head is this event.")
@spoken
def skip_head(instance: str, name: str, event_id: str | None) -> None:
    """Make the head of the lane, what holds it up, a dead letter."""
    from evoflask import lanes
    from evoflask.web import parts

    done = lanes.skip(parts().outbox, instance, name, event_id=event_id, by=CLI)
    click.echo(
        f"{done.event_id} ({done.event}, {counted(done.tries, 'try')}) becomes a dead letter."
    )


@lane.command("purge")
@click.argument("instance")
@click.argument("name")
@click.option("--confirm", type=click.IntRange(min=0), help="The backlog that you mean.")
@spoken
def purge_lane(instance: str, name: str, confirm: int | None) -> None:
    """Discard all that waits on the lane. Pause it first, else the number changes."""
    from evoflask import lanes
    from evoflask.web import parts

    outbox = parts().outbox
    if confirm is None:
        n = lanes.one(outbox, instance, name).view.waiting
        waits = counted(n, "event waits", "events wait")
        them = "it" if n == 1 else "them"
        raise BadInput(f"{waits} on {instance}/{name}. To discard {them}: --confirm {n}.")
    done = lanes.purge(outbox, instance, name, confirm, by=CLI)
    click.echo(f"{done.count} discarded.")
