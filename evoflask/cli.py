"""`flask --app app ...`: each command calls one function.

Exit status: 0 as it should be, 1 something was found or failed, 2 it could not be looked at or
done. Commands import what they need when they run, so that the web process, which registers
them, does not load it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from flask import Flask
from flask.cli import AppGroup, with_appcontext

from evoflask.errors import BadInput, EvoflaskError, NotFound, Unavailable

if TYPE_CHECKING:
    from evoflask.deadletters import Filter
    from evoflask.lanes import Lane

Command = TypeVar("Command", bound=Callable[..., Any])

db = AppGroup("db", help="The database's schema and identity.")
deadletters = AppGroup("deadletters", help="Deliveries that were given up.")
operations = AppGroup("operations", help="Long actions by hand.")
lane = AppGroup("lane", help="One lane, by hand: pause, resume, probe, skip, purge.")

CLI = "cli"
"""Who does what is done here, in the audit log."""


def register(app: Flask) -> None:
    """Gives the application its commands."""
    groups = (db, deadletters, lane, operations)
    commands = (attempts, audit, audit_log, doctor, emit, explain, lanes, receive)
    for command in (*groups, *commands, replay, test_subscription):
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
    for line in _columns(head, rows):
        click.echo(line)


def _columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Columns as wide as they must be; the last one is left as it is."""
    lines = [tuple(head), *(tuple(_cell(each) for each in row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head) - 1)]
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=False)]
        yield "  ".join([*cells, line[-1]]).rstrip()


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


# -- lanes ----------------------------------------------------------------------------------

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
@_spoken
def lanes(instance: str | None, watch: bool, every: float) -> None:
    """What waits on each lane, and whether it moves."""
    from evoflask import lanes
    from evoflask.web import parts

    def look() -> Iterator[Lane]:
        return lanes.every(parts().outbox, _instances(instance))

    if not watch:
        return _table(_LANES, (_lane_row(lane) for lane in look()))
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
        lane.last_error,
    )


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
        lines = list(_columns(_LANES, map(_lane_row, _busiest(first)[: max(1, height - 3)])))
        lines.append(f"{waiting} wait on {seen} lanes at {time.strftime('%H:%M:%S')}.")
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
@_spoken
def pause_lane(instance: str, name: str) -> None:
    """Deliver nothing until resume; what comes is kept."""
    _stop(instance, name, stopped=True)


@lane.command("resume")
@click.argument("instance")
@click.argument("name")
@_spoken
def resume_lane(instance: str, name: str) -> None:
    """Go on at once, also where failures had paused the lane."""
    _stop(instance, name, stopped=False)


def _stop(instance: str, name: str, *, stopped: bool) -> None:
    from evoflask import lanes
    from evoflask.web import parts

    made = parts()
    found = lanes.stop(made.configuration, made.outbox, instance, name, stopped, by=CLI)
    click.echo(f"{instance}/{name} is {found.state}, {found.view.waiting} wait.")


@lane.command("probe")
@click.argument("instance")
@click.argument("name")
@_spoken
def probe_lane(instance: str, name: str) -> None:
    """Try one delivery now, whatever the lane's pause or the date of its next try."""
    from evoflask import lanes
    from evoflask.web import parts

    found = lanes.probe(parts().outbox, instance, name, by=CLI)
    click.echo(f"{instance}/{name} is {found.state}, {found.view.waiting} wait.")


@lane.command("skip")
@click.argument("instance")
@click.argument("name")
@click.option("--event-id", help="Only if the head is this event.")
@_spoken
def skip_head(instance: str, name: str, event_id: str | None) -> None:
    """Make the head of the lane, what holds it up, a dead letter."""
    from evoflask import lanes
    from evoflask.web import parts

    done = lanes.skip(parts().outbox, instance, name, event_id=event_id, by=CLI)
    click.echo(f"{done.event_id} ({done.event}, {done.tries} tries) becomes a dead letter.")


@lane.command("purge")
@click.argument("instance")
@click.argument("name")
@click.option("--confirm", type=click.IntRange(min=0), help="The backlog that you mean.")
@_spoken
def purge_lane(instance: str, name: str, confirm: int | None) -> None:
    """Discard all that waits on the lane. Pause it first, else the number changes."""
    from evoflask import lanes
    from evoflask.web import parts

    outbox = parts().outbox
    if confirm is None:
        n = lanes.one(outbox, instance, name).view.waiting
        raise BadInput(f"{n} events wait on {instance}/{name}. To discard them: --confirm {n}.")
    done = lanes.purge(outbox, instance, name, confirm, by=CLI)
    click.echo(f"{done.count} discarded.")


@click.command("audit-log")
@click.option("--instance", help="Of this instance, also of one that was deleted.")
@click.option("--subscription", help="Of subscriptions with this name.")
@click.option("--action", help="lane.purge; or lane for all that was done to lanes.")
@click.option("--by", help="The name of a key: global, instance:a, cli, dashboard, clock.")
@click.option("--since", help="ISO 8601 or Unix seconds.")
@click.option("--until", help="Before that.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@_spoken
def audit_log(limit: int, **options: str | None) -> None:
    """What was done by hand, newest first."""
    from evoflask import auditlog, schemas
    from evoflask.web.bodies import iso

    given = schemas.audit_log_query({name: value for name, value in options.items() if value})
    _table(
        ("at", "by", "action", "instance", "subscription", "facts"),
        (
            (
                iso(entry.at),
                entry.by,
                entry.action,
                entry.instance_name,
                entry.subscription_name,
                json.dumps(entry.facts) if entry.facts else None,
            )
            for entry in auditlog.find(auditlog.Filter(**given), limit=limit)
        ),
    )


_ASKED = {
    "instance": "Of this instance.",
    "subscription": "Of subscriptions with this name.",
    "event": "Of this event.",
    "id": "Of the event with this id.",
    "outcome": "With this outcome: delivered, refused, rejected, unreachable, ambiguous.",
    "since": "Begun since: ISO 8601 or Unix seconds.",
    "until": "Begun before.",
    "after": "After the attempt with this number, the last one of the page before.",
    "limit": "At most so many; 100 unless told otherwise.",
}


def _asked(command: Command) -> Command:
    """Gives a command the options of the delivery log's filter."""
    for name, words in reversed(_ASKED.items()):
        command = click.option(f"--{name}", help=words)(command)
    return command


@click.command("attempts")
@_asked
@_spoken
def attempts(**options: str | None) -> None:
    """What was tried, and what came of it; the last one first."""
    from evoflask import attempts, schemas
    from evoflask.attempts import Filter
    from evoflask.web.bodies import iso

    given = schemas.attempts_query({k: v for k, v in options.items() if v is not None})
    after, limit = given.pop("after", None), given.pop("limit", 100)
    wanted = Filter(instances=_instances(given.pop("instance", None)), **given)
    _table(
        ("id", "at", "lane", "event id", "try", "took", "outcome", "code", "host", "reason"),
        (
            (
                each.id,
                iso(each.at),
                f"{each.instance_name}/{each.subscription_name}",
                each.event_id,
                each.number,
                f"{each.seconds * 1000:.0f} ms",
                each.outcome,
                each.code,
                each.host,
                each.detail or each.answer,
            )
            for each in attempts.find(wanted, before=after, limit=limit)
        ),
    )


# -- events ---------------------------------------------------------------------------------


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


@click.command("explain")
@click.argument("instance")
@click.argument("event_id")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@_spoken
def explain(instance: str, event_id: str, as_json: bool) -> None:
    """What became of an event at each subscription."""
    from evoflask import explain
    from evoflask.web import parts
    from evoflask.web.bodies import iso
    from evoflask.web.events import told

    found = explain.explain(parts().outbox, instance, event_id)
    if as_json:
        click.echo(json.dumps([told(each) for each in found.told], indent=2))
        return
    click.echo(f"{found.event} {found.id}, accepted at {iso(found.at)}.")
    _table(
        ("subscription", "sink", "state", "tries", "behind", "next try", "letter", "why"),
        (
            (
                each.subscription,
                each.sink,
                each.state,
                each.tries,
                each.before,
                None if each.next_try is None else iso(each.next_try),
                each.letter,
                " ".join(filter(None, (each.why, each.reason, each.code, each.detail))),
            )
            for each in found.told
        ),
    )
    for each in found.told:
        for one in each.attempts:
            took = f"{one.seconds * 1000:.0f} ms"
            words = " ".join(filter(None, (one.code, one.detail or one.answer)))
            click.echo(
                f"{each.subscription} try {one.number} at {iso(one.at)}, {took}, "
                f"{one.host}: {one.outcome} {words}".rstrip()
            )


@click.command("receive")
@click.option("--port", default=9000, show_default=True, help="Where to listen, on loopback.")
def receive(port: int) -> None:
    """Print every webhook that arrives, until Ctrl-C."""
    from evoflask.dev.receiver import main

    main(port)


@click.command("replay")
@click.argument("instance")
@click.option("--onto", required=True, help="The subscription that gets them.")
@click.option("--id", "ids", multiple=True, help="This event; more than once for several.")
@click.option("--since", help="Accepted since: ISO 8601 or Unix seconds.")
@click.option("--until", help="Accepted before.")
@click.option("--event", "events", multiple=True, help="Of this event only.")
@click.option("--rate", type=float, help="At most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@_spoken
def replay(instance: str, onto: str, dry_run: bool, **options: Any) -> None:
    """Deliver events once more that are still on the outbox; the clock goes on with many."""
    from evoflask import auditlog, configuration, operations, replay, schemas
    from evoflask.web import parts

    given = {name: value for name, value in options.items() if value}
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
    asked = schemas.replay_body({"instance": instance, "onto": onto, **given})
    rate = asked.pop("rate", None)
    wanted = replay.Wanted(**{k: v for k, v in asked.items() if k not in ("instance", "onto")})
    planned = replay.plan(parts().outbox, instance, wanted, onto, by=CLI, rate=rate)
    found = planned.total
    if wanted.ids and found < len(wanted.ids):
        click.echo(f"{len(wanted.ids) - found} ids are not on the outbox.", err=True)
    if dry_run:
        click.echo(f"{found} events would be replayed onto {instance}/{onto}.")
        return
    operations.start(parts().manager, planned)
    home = configuration.get(instance).instance
    facts = {"total": found, "operation": planned.id}
    auditlog.note(CLI, "event.replay", home, onto, **facts)
    more = "" if planned.id is None else f", operation {planned.id} goes on with the rest"
    click.echo(f"{planned.done} of {found} replayed onto {instance}/{onto}{more}.")


@click.command("test-subscription")
@click.argument("instance")
@click.argument("name")
@click.option("--event", help="Which event it shall look like.")
@click.option("--data", help="Its data, JSON.")
@click.option("--json", "as_json", is_flag=True, help="The whole story, for programs.")
@_spoken
def test_subscription(
    instance: str, name: str, event: str | None, data: str | None, as_json: bool
) -> None:
    """Send one marked event now and tell what came of it; status 1 where it did not arrive."""
    from evoflask import auditlog, configuration, schemas, trials
    from evoflask.web import parts

    wanted: dict[str, Any] = {} if event is None else {"event": event}
    if data is not None:
        try:
            wanted["data"] = json.loads(data)
        except ValueError as error:
            raise BadInput(f"data: is not JSON: {error}.") from error
    asked = trials.ask(parts().outbox, instance, name, **schemas.trial(wanted))
    row = configuration.get(instance).instance
    auditlog.note(CLI, "subscription.test", row, name, trial=asked.id)
    told = trials.wait(parts().outbox, asked, trials.LATE).row
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        _table(("", ""), _story(told))
    sys.exit(0 if told.get("delivered") else 1)


def _story(told: dict[str, Any]) -> Iterable[tuple[str, object]]:
    """A test's story as lines."""
    yield "test", told["id"]
    yield "verdict", told.get("verdict", "There is no answer yet: is a worker running?")
    for name in ("outcome", "code", "detail", "server", "address"):
        if told.get(name):
            yield name, told[name]
    for each in told.get("addresses") or ():
        yield "resolved", f"{each['address']} {each['refused'] or ''}"
    if tls := told.get("tls"):
        known = tls.get("certificate") or {}
        words = (tls.get("version"), known.get("subject"), known.get("notAfter"))
        yield "tls", ", ".join(str(each) for each in words if each)
    yield from _exchanged("request", told.get("request") or {})
    yield from _exchanged("answer", told.get("answer") or {})
    for step, seconds in (told.get("timing") or {}).items():
        yield f"seconds {step}", f"{seconds:.3f}"


def _exchanged(what: str, said: dict[str, Any]) -> Iterable[tuple[str, object]]:
    for name, value in said.items():
        if name == "headers":
            yield from ((f"{what} {header}", text) for header, text in value.items())
        elif value not in ("", None):
            yield f"{what} {name}", value


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
    "text": "With this somewhere in the detail.",
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


def _chosen(letters: Sequence[int], all_: bool, options: dict[str, str | None], dry: bool) -> None:
    """Raises `BadInput` where it is not clear which letters are meant."""
    if letters and dry:
        raise BadInput("--dry-run counts the letters of a filter.")
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
@click.option("--onto", help="To this subscription of their instance instead.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@_spoken
def requeue_letters(
    letters: Sequence[int],
    all_: bool,
    limit: int | None,
    onto: str | None,
    dry_run: bool,
    **options: str | None,
) -> None:
    """Deliver letters again, by ids or by filter; those of a lane in their order."""
    from evoflask import deadletters
    from evoflask.web import parts

    _chosen(letters, all_, options, dry_run)
    manager = parts().manager
    if letters:
        facts = {"letters": list(letters), **({} if onto is None else {"onto": onto})}
        _noted("deadletter.requeue", options, facts)
        _each(letters, lambda each: deadletters.requeue(manager, each, onto=onto), "requeued")
    wanted = _filter(options)
    target = None if onto is None else deadletters.target(wanted.instances, onto)
    if dry_run:
        _would("requeue", wanted, limit, target)
    done = deadletters.requeue_many(
        manager, wanted, limit=limit, onto=target, tell=_progress("requeued")
    )
    _noted(
        "deadletter.requeue", options, {"done": done.requeued} | ({"onto": onto} if onto else {})
    )
    click.echo(f"{done.requeued} requeued, {done.left} left.")
    if done.stopped:
        raise done.stopped


@deadletters.command("discard")
@click.argument("letters", nargs=-1, type=int)
@_filtered
@click.option("--all", "all_", is_flag=True, help="All letters of all instances.")
@click.option("--limit", type=int, help="At most so many of the filter, the oldest of a lane.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@_spoken
def discard_letters(
    letters: Sequence[int],
    all_: bool,
    limit: int | None,
    dry_run: bool,
    **options: str | None,
) -> None:
    """Give letters up for good, by ids or by filter."""
    from evoflask import deadletters

    _chosen(letters, all_, options, dry_run)
    if letters:
        _noted("deadletter.discard", options, {"letters": list(letters)})
        _each(letters, deadletters.discard, "discarded")
    wanted = _filter(options)
    if dry_run:
        _would("discard", wanted, limit, None)
    discarded, left = deadletters.discard_many(wanted, limit=limit, tell=_progress("discarded"))
    _noted("deadletter.discard", options, {"done": discarded})
    click.echo(f"{discarded} discarded, {left} left.")


def _would(kind: str, wanted: Filter, limit: int | None, onto: dict[str, str] | None) -> None:
    """Ends the command with the count."""
    from evoflask import deadletters, operations

    plan = deadletters.plan(kind, wanted, CLI, limit=limit, onto=onto)
    done = {"requeue": "requeued", "discard": "discarded"}[kind]
    click.echo(f"{operations.count(plan)} would be {done}; {deadletters.count(wanted)} found.")
    sys.exit(0)


def _progress(done: str) -> Callable[[int], None]:
    """Tells a person, on standard error, every two seconds."""
    last = time.monotonic()

    def tell(n: int) -> None:
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            click.echo(f"{n} {done} ...", err=True)

    return tell


def _noted(action: str, options: dict[str, str | None], facts: dict[str, Any]) -> None:
    """In the audit log, by whoever may run commands here."""
    from evoflask import auditlog, configuration

    name = options.get("instance")
    home = None if name is None else configuration.get(name).instance
    wanted = {k: v for k, v in options.items() if v is not None}
    told = {"wanted": wanted} if wanted else {}
    auditlog.note(CLI, action, home, options.get("subscription"), **told, **facts)


# -- operations -----------------------------------------------------------------------------


@operations.command("list")
@click.option("--instance", help="Of this instance only.")
@click.option("--state", help="running, done, cancelled or failed.")
@click.option("--limit", default=100, show_default=True, help="The newest so many.")
@_spoken
def list_operations(instance: str | None, state: str | None, limit: int) -> None:
    """Long actions by hand that the clock goes on with, and how far they are."""
    from evoflask import operations, schemas
    from evoflask.web.bodies import iso

    given = {"state": state} if state else {}
    asked = schemas.operations_query(given)
    found = operations.find(_instances(instance), state=asked.get("state"), limit=limit)
    _table(
        ("id", "begun at", "kind", "by", "state", "done", "of", "failed", "error"),
        (
            (
                each.id,
                iso(each.created_at),
                each.kind,
                each.by,
                each.state,
                each.done,
                each.total,
                each.failed,
                each.error,
            )
            for each in found
        ),
    )


@operations.command("cancel")
@click.argument("operation", type=int)
@_spoken
def cancel_operation(operation: int) -> None:
    """End one; what is done stays done."""
    from evoflask import operations

    row = operations.cancel(operation, CLI)
    click.echo(f"{row.done} of {row.total} were done.")


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
