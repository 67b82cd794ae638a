"""Dead letters and the operations that handle many of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from flask.cli import AppGroup

from evoflask.cli.speech import CLI, instances, spoken, table, with_options
from evoflask.errors import BadInput, EvoflaskError, NotFound
from evoflask.plurals import counted

if TYPE_CHECKING:
    from evoflask.deadletters import Filter

deadletters = AppGroup("deadletters", help="Deliveries that were given up.")
operations = AppGroup("operations", help="Long actions by hand.")

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


def _filter(options: dict[str, Any]) -> Filter:
    from evoflask import schemas
    from evoflask.deadletters import Filter, refuse_websocket

    given = schemas.letters_query({name: value for name, value in options.items() if value})
    wanted = Filter(instances=instances(given.pop("instance", None)), **given)
    refuse_websocket(wanted)
    return wanted


@deadletters.command("list")
@with_options(_FILTERS)
@click.option("--limit", default=100, show_default=True, help="The newest so many.")
@spoken
def list_letters(limit: int, **options: str | None) -> None:
    """The newest letters of a filter, and how many there are by reason."""
    from evoflask import deadletters
    from evoflask.web.bodies import iso

    wanted = _filter(options)
    head = ("id", "dead at", "lane", "event", "event id", "reason", "code", "tries", "detail")
    table(
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
    click.echo(f"{counted(sum(reasons.values()), 'letter')}{': ' if words else ''}{words}.")


def _chosen(letters: Sequence[int], all_: bool, options: dict[str, str | None], dry: bool) -> None:
    """Raises `BadInput` where it is not clear which letters are meant."""
    from evoflask.schemas.asked import check_named

    if letters and dry:
        raise BadInput("--dry-run counts the letters of a filter.")
    by_filter = any(options.values())
    if letters and (by_filter or all_):
        raise BadInput("Name letters by their ids, or by a filter, or all of them with --all.")
    if not letters:
        check_named(by_filter, all_, "ids, or by a filter such as --instance", "--all")


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
@with_options(_FILTERS)
@click.option("--all", "all_", is_flag=True, help="All letters of all instances.")
@click.option("--limit", type=int, help="At most so many of the filter.")
@click.option("--onto", help="To this subscription of their instance instead.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@spoken
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
@with_options(_FILTERS)
@click.option("--all", "all_", is_flag=True, help="All letters of all instances.")
@click.option("--limit", type=int, help="At most so many of the filter, the oldest of a lane.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@spoken
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
    wanted: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    if not wanted and "letters" not in facts:
        wanted = {"all": True}
    told = {"wanted": wanted} if wanted else {}
    auditlog.note(CLI, action, home, options.get("subscription"), **told, **facts)


@operations.command("list")
@click.option("--instance", help="Of this instance only.")
@click.option("--state", help="running, done, cancelled or failed.")
@click.option("--limit", default=100, show_default=True, help="The newest so many.")
@spoken
def list_operations(instance: str | None, state: str | None, limit: int) -> None:
    """Long actions by hand that the clock goes on with, and how far they are."""
    from evoflask import operations, schemas
    from evoflask.web.bodies import iso

    given = {"state": state} if state else {}
    asked = schemas.operations_query(given)
    found = operations.find(instances(instance), state=asked.get("state"), limit=limit)
    table(
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
@spoken
def cancel_operation(operation: int) -> None:
    """End one; what is done stays done."""
    from evoflask import operations

    row = operations.cancel(operation, CLI)
    click.echo(f"{row.done} of {row.total} {'was' if row.done == 1 else 'were'} done.")
