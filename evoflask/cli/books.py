"""The whole: whether the books balance, what is reachable, who did what."""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from evoflask.cli.speech import spoken, table
from evoflask.plurals import counted


@click.command("audit")
@click.option("--deep", is_flag=True, help="Look at every entry too.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@spoken
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
            table(("what", "where", "does not hold"), rows)
        for each in report.unchecked:
            click.echo(f"Not compared, it changed all the while: {each}.")
        looked = f"{counted(report.lanes, 'lane')} of {counted(report.instances, 'instance')}"
        looked += f", {counted(report.entries, 'delivery')}" if deep else ""
        click.echo(f"{looked}: {counted(report.found, 'finding')}.")
    sys.exit(1 if report.found else 0)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@spoken
def doctor(as_json: bool) -> None:
    """What is reachable, durable and misconfigured; status 1 where something fails."""
    from evoflask import health
    from evoflask.web import parts

    looked = health.doctor(parts().outbox, parts().settings)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(part) for part in looked], indent=2))
    else:
        table(("part", "is", ""), [(part.name, part.state, part.words) for part in looked])
    sys.exit(1 if health.failed(looked) else 0)


@click.command("audit-log")
@click.option("--instance", help="Of this instance, also of one that was deleted.")
@click.option("--subscription", help="Of subscriptions with this name.")
@click.option("--action", help="lane.purge; or lane for all that was done to lanes.")
@click.option("--by", help="The name of a key: global, instance:a, cli, dashboard, clock.")
@click.option("--since", help="ISO 8601 or Unix seconds.")
@click.option("--until", help="Before that.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@spoken
def audit_log(limit: int, **options: str | None) -> None:
    """What was done by hand, newest first."""
    from evoflask import auditlog, schemas
    from evoflask.web.bodies import iso

    given = schemas.audit_log_query({name: value for name, value in options.items() if value})
    table(
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
