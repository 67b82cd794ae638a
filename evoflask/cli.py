"""`flask --app app ...`: each command calls one function.

Exit status: 0 as it should be, 1 something was found or failed, 2 it could not be looked at or
done. Commands import what they need when they run, so that the web process, which registers
them, does not load it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from flask import Flask
from flask.cli import AppGroup, with_appcontext

from evoflask.errors import BadInput, EvoflaskError, NotFound

if TYPE_CHECKING:
    from evoflask.deadletters import Filter

Command = TypeVar("Command", bound=Callable[..., Any])

db = AppGroup("db", help="The database's schema and identity.")
deadletters = AppGroup("deadletters", help="Deliveries that were given up.")


def register(app: Flask) -> None:
    """Gives the application its commands."""
    for command in (db, deadletters, audit, doctor, emit, lanes, receive):
        app.cli.add_command(command)


def _spoken(command: Command) -> Command:
    """Within the application; what evoflask raises becomes sentences and status 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except EvoflaskError as error:
            for sentence in error.messages:
                click.echo(f"evoflask: {sentence}", err=True)
            sys.exit(2)

    return with_appcontext(run)  # type: ignore[return-value]  # the same signature, by wraps


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as they must be; the last one is left as it is."""
    lines = [tuple(head), *(tuple(_cell(each) for each in row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head) - 1)]
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=False)]
        click.echo("  ".join([*cells, line[-1]]).rstrip())


def _cell(value: object) -> str:
    text = "-" if value is None or value == "" else str(value)
    return "".join(each if each.isprintable() else "?" for each in text)


# -- the whole ------------------------------------------------------------------------------


@click.command("audit")
@click.option("--deep", is_flag=True, help="Look at every entry too.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@_spoken
def audit(deep: bool, as_json: bool) -> None:
    """Whether the books balance; status 1 where they do not."""
    from evoflask.audit import audit
    from evoflask.web import parts

    report = audit(parts().outbox, deep=deep)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        if report.findings:
            rows = [(each.kind, each.where, each.words) for each in report.findings]
            _table(("what", "where", "does not hold"), rows)
        for each in report.unchecked:
            click.echo(f"Not compared, it changed all the while: {each}.")
        looked = f"{report.lanes} lanes of {report.instances} instances"
        looked += f", {report.entries} deliveries" if deep else ""
        click.echo(f"{looked}: {report.found} findings.")
    sys.exit(1 if report.found else 0)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@_spoken
def doctor(as_json: bool) -> None:
    """What is reachable, durable and misconfigured; status 1 where something fails."""
    from evoflask import health
    from evoflask.web import parts

    looked = health.doctor(parts().outbox, parts().settings)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(part) for part in looked], indent=2))
    else:
        _table(("part", "is", ""), [(part.name, part.state, part.words) for part in looked])
    sys.exit(1 if health.failed(looked) else 0)


@click.command("lanes")
@click.option("--instance", help="Of this instance only.")
@_spoken
def lanes(instance: str | None) -> None:
    """What waits on each lane, and whether it moves."""
    from evoflask import lanes
    from evoflask.web import parts
    from evoflask.web.bodies import iso

    _table(
        ("lane", "sink", "state", "waiting", "dying", "oldest", "next attempt", "last error"),
        (
            (
                f"{lane.instance}/{lane.name}",
                lane.sink,
                lane.state,
                lane.view.waiting,
                lane.view.dying,
                None if lane.age is None else f"{lane.age:.0f} s",
                None if lane.next_attempt is None else iso(lane.next_attempt),
                lane.last_error,
            )
            for lane in lanes.every(parts().outbox, _instances(instance))
        ),
    )


@click.command("emit")
@click.argument("instance")
@click.argument("event")
@click.argument("data")
@click.option("--id", "event_id", help="The event's id; a repeat of it appends nothing.")
@_spoken
def emit(instance: str, event: str, data: str, event_id: str | None) -> None:
    """Emit one event. DATA is JSON, or - to read it from standard input."""
    import orjson

    from evoflask.web import parts

    text = sys.stdin.read() if data == "-" else data
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"data: is not JSON: {error}.") from error
    # A fragment: it arrives as it was written, to the byte.
    value = orjson.Fragment(text.strip())
    accepted = parts().manager.emit(instance, event, value, id=event_id)
    words = "was accepted before" if accepted.duplicate else "is accepted"
    to = ", ".join(accepted.subscriptions) or "nobody"
    click.echo(f"{accepted.id} {words}, for {to}.")


@click.command("receive")
@click.option("--port", default=9000, show_default=True, help="Where to listen, on loopback.")
def receive(port: int) -> None:
    """Print every webhook that arrives, until Ctrl-C."""
    from evoflask.dev.receiver import main

    main(port)


# -- dead letters ---------------------------------------------------------------------------

_FILTERS = {
    "instance": "Of this instance.",
    "subscription": "Of subscriptions with this name.",
    "sink": "Of this sink.",
    "event": "Of this event.",
    "reason": "Given up for this reason.",
    "code": "With this code, 410 for example.",
    "since": "Given up since: ISO 8601 or Unix seconds.",
    "until": "Given up before.",
}


def _filtered(command: Command) -> Command:
    """Gives a command the filter's options."""
    for name, words in reversed(_FILTERS.items()):
        command = click.option(f"--{name}", help=words)(command)
    return command


def _filter(options: dict[str, Any]) -> Filter:
    from evoflask import schemas
    from evoflask.deadletters import Filter, refuse_websocket

    given = schemas.letters_query({name: value for name, value in options.items() if value})
    wanted = Filter(instances=_instances(given.pop("instance", None)), **given)
    refuse_websocket(wanted)
    return wanted


def _instances(name: str | None) -> tuple[int, ...] | None:
    from evoflask import configuration

    return None if name is None else (configuration.get(name).instance.id,)


@deadletters.command("list")
@_filtered
@click.option("--limit", default=100, show_default=True, help="The newest so many.")
@_spoken
def list_letters(limit: int, **options: str | None) -> None:
    """The newest letters of a filter, and how many there are by reason."""
    from evoflask import deadletters
    from evoflask.web.bodies import iso

    wanted = _filter(options)
    head = ("id", "dead at", "lane", "event", "event id", "reason", "code", "tries", "detail")
    _table(
        head,
        (
            (
                letter.id,
                iso(letter.created_at),
                f"{letter.instance_name}/{letter.subscription_name}",
                letter.event,
                letter.event_id,
                letter.reason,
                letter.code,
                letter.tries,
                letter.detail,
            )
            for letter in deadletters.find(wanted, limit=limit)
        ),
    )
    reasons = deadletters.reasons(wanted)
    words = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
    click.echo(f"{sum(reasons.values())} letters{': ' if words else ''}{words}.")


def _chosen(letters: Sequence[int], all_: bool, options: dict[str, str | None]) -> None:
    """Raises `BadInput` where it is not clear which letters are meant."""
    if sum((bool(letters), all_, any(options.values()))) != 1:
        raise BadInput("Name letters by their ids, or by a filter, or all of them with --all.")


def _each(letters: Sequence[int], do: Callable[[int], object], done: str) -> None:
    """Status 1 where one is not there or cannot be."""
    refused = 0
    for letter in letters:
        try:
            do(letter)
        except EvoflaskError as error:
            if not isinstance(error, NotFound) and error.status != 409:
                raise
            refused += 1
            click.echo(f"evoflask: {' '.join(error.messages)}", err=True)
    click.echo(f"{len(letters) - refused} {done}, {refused} refused.")
    sys.exit(1 if refused else 0)


@deadletters.command("requeue")
@click.argument("letters", nargs=-1, type=int)
@_filtered
@click.option("--all", "all_", is_flag=True, help="All letters of all instances.")
@click.option("--limit", type=int, help="At most so many of the filter.")
@_spoken
def requeue_letters(
    letters: Sequence[int], all_: bool, limit: int | None, **options: str | None
) -> None:
    """Deliver letters again, by ids or by filter; those of a lane in their order."""
    from evoflask import deadletters
    from evoflask.web import parts

    _chosen(letters, all_, options)
    manager = parts().manager
    if letters:
        _each(letters, lambda letter: deadletters.requeue(manager, letter), "requeued")
    done = deadletters.requeue_many(manager, _filter(options), limit=limit)
    click.echo(f"{done.requeued} requeued, {done.left} left.")
    if done.stopped:
        raise done.stopped


@deadletters.command("discard")
@click.argument("letters", nargs=-1, type=int)
@_filtered
@click.option("--all", "all_", is_flag=True, help="All letters of all instances.")
@click.option("--limit", type=int, help="At most so many of the filter, the oldest.")
@_spoken
def discard_letters(
    letters: Sequence[int], all_: bool, limit: int | None, **options: str | None
) -> None:
    """Give letters up for good, by ids or by filter."""
    from evoflask import deadletters

    _chosen(letters, all_, options)
    if letters:
        _each(letters, deadletters.discard, "discarded")
    discarded, left = deadletters.discard_many(_filter(options), limit=limit)
    click.echo(f"{discarded} discarded, {left} left.")


# -- the database ---------------------------------------------------------------------------


@db.command("upgrade")
def upgrade() -> None:
    """Run the migrations that this database does not have yet."""
    from evoflask.db import upgrade

    for name in upgrade():
        click.echo(name)


@db.command("adopt")
@_spoken
def adopt() -> None:
    """Give a restored database a new epoch, and bring Redis in line with it."""
    from evoflask import configuration
    from evoflask.web import parts

    click.echo(f"The database's epoch is {configuration.adopt()} now.")
    pushed = configuration.push_all(parts().outbox)
    click.echo(f"{pushed} instances were pushed to Redis.")
