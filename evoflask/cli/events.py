"""Events: emitting, testing and replaying them, and what became of one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from evoflask.cli.speech import CLI, instances, spoken, table, with_options
from evoflask.errors import BadInput
from evoflask.plurals import counted

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


@click.command("attempts")
@with_options(_ASKED)
@spoken
def attempts(**options: str | None) -> None:
    """What was tried, and what came of it; the last one first."""
    from evoflask import attempts, schemas
    from evoflask.attempts import Filter
    from evoflask.web.bodies import iso

    given = schemas.attempts_query({k: v for k, v in options.items() if v is not None})
    after, limit = given.pop("after", None), given.pop("limit", 100)
    wanted = Filter(instances=instances(given.pop("instance", None)), **given)
    table(
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


@click.command("emit")
@click.argument("instance")
@click.argument("event")
@click.argument("data")
@click.option("--id", "event_id", help="The event's id; a repeat of it appends nothing.")
@spoken
def emit(instance: str, event: str, data: str, event_id: str | None) -> None:
    """Emit one event. DATA is JSON, or - to read it from standard input."""
    import orjson

    from evoflask import jsonspans
    from evoflask.web import parts

    text = sys.stdin.read() if data == "-" else data
    try:
        orjson.loads(jsonspans.readable(text.encode()))
    except ValueError as error:
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
@spoken
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
    if found.why:
        click.echo(found.why)
    table(
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
@click.option("--events", type=click.IntRange(1), help="Exit after this many events.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="Exit with status 1 if they take longer.",
)
def receive(port: int, events: int | None, seconds: float | None) -> None:
    """Print every webhook that arrives, until Ctrl-C."""
    from evoflask.dev.receiver import main

    main(port, events=events, seconds=seconds)


@click.command("replay")
@click.argument("instance")
@click.option("--onto", required=True, help="The subscription that gets them.")
@click.option("--id", "ids", multiple=True, help="This event; more than once for several.")
@click.option("--since", help="Accepted since: ISO 8601 or Unix seconds.")
@click.option("--until", help="Accepted before.")
@click.option("--event", "events", multiple=True, help="Of this event only.")
@click.option("--all", "all", is_flag=True, help="All retained events, instead of a filter.")
@click.option("--rate", type=float, help="At most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@spoken
def replay(instance: str, onto: str, dry_run: bool, **options: Any) -> None:
    """Deliver events once more that are still on the outbox; the clock goes on with many."""
    from evoflask import auditlog, configuration, operations, replay, schemas
    from evoflask.schemas.asked import check_named
    from evoflask.web import parts

    given = {name: value for name, value in options.items() if value}
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
    named = bool(given.keys() & {"ids", "since", "until"})
    check_named(named, bool(given.get("all")), "--id, or --since and --until", "--all")
    asked = schemas.replay_body({"instance": instance, "onto": onto, **given})
    rate = asked.pop("rate", None)
    wanted = replay.Wanted(**{k: v for k, v in asked.items() if k not in ("instance", "onto")})
    planned = replay.plan(parts().outbox, instance, wanted, onto, by=CLI, rate=rate)
    found = planned.total
    if wanted.ids and found < len(wanted.ids):
        missing = counted(len(wanted.ids) - found, "id is", "ids are")
        click.echo(f"{missing} not on the outbox.", err=True)
    if dry_run:
        click.echo(f"{counted(found, 'event')} would be replayed onto {instance}/{onto}.")
        return
    operations.start(parts().manager, planned)
    home = configuration.get(instance).instance
    facts = {"wanted": wanted.words, "total": found, "operation": planned.id}
    auditlog.note(CLI, "event.replay", home, onto, **facts)
    more = "" if planned.id is None else f", operation {planned.id} goes on with the rest"
    click.echo(f"{planned.done} of {found} replayed onto {instance}/{onto}{more}.")


@click.command("test-subscription")
@click.argument("instance")
@click.argument("name")
@click.option("--event", help="Which event it shall look like.")
@click.option("--data", help="Its data, JSON.")
@click.option("--json", "as_json", is_flag=True, help="The whole story, for programs.")
@spoken
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
        table(("", ""), _story(told))
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
