"""The audit log: who did what, and when. Written by whoever acts for somebody, read by the route.

`audit.py` is another thing: it checks the books.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evoflask import db
from evoflask.errors import DatabaseDown
from evoflask.models import AuditLog, Instance

log = logging.getLogger(__name__)

PIECE = 1000
"""Rows that are deleted in one transaction."""


def note(
    by: str,
    action: str,
    instance: Instance | None = None,
    subscription: str | None = None,
    **facts: Any,
) -> AuditLog:
    """Write that it was done, in the table and as a line of the log. `facts`: what else one
    would ask, counts and ids, never a payload or a secret. Raises `DatabaseDown`."""
    name = None if instance is None else instance.name
    told = {"by": by, "action": action, "instance": name, "subscription": subscription} | facts
    log.info("noted in the audit log", extra={k: v for k, v in told.items() if v is not None})
    with db.writing():
        row: AuditLog = AuditLog.create(
            by=by,
            action=action,
            instance_id=None if instance is None else instance.id,
            instance_name=name,
            subscription_name=subscription,
            facts=facts,
        )
    return row


def note_done(
    by: str, action: str, instance: Instance, subscription: str | None = None, **facts: Any
) -> None:
    """The same for what cannot be taken back: where the table does not take it, the line of the
    log is all there is, and whoever did it hears that it was done."""
    try:
        note(by, action, instance, subscription, **facts)
    except DatabaseDown:
        log.warning("what was done by hand is in this log only", extra={"action": action})


def add(row: AuditLog, **facts: Any) -> None:
    """Say more about what was noted, where that is known only afterwards."""
    log.info(
        "noted in the audit log",
        extra={"action": row.action, "instance": row.instance_name} | facts,
    )
    try:
        with db.writing():
            AuditLog.update(facts=row.facts | facts).where(AuditLog.id == row.id).execute()
    except DatabaseDown:
        log.warning("what was done by hand is in this log only", extra={"action": row.action})


# -- reading --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows. None: any. `since` and `until` are Unix seconds."""

    instances: Sequence[int] | None = None
    """Ids of rows, for who may see only these: a name may have been another tenant's."""
    instance: str | None = None
    """By name, also of one that was deleted."""
    subscription: str | None = None
    action: str | None = None
    """`lane.purge`, or `lane` for all that was done to lanes."""
    by: str | None = None
    since: float | None = None
    until: float | None = None


def find(wanted: Filter, *, before: int | None = None, limit: int = 100) -> list[AuditLog]:
    """Rows, newest first. `before`: the id of the last one of the page before."""
    where: Any = AuditLog.id > 0
    columns = {
        AuditLog.instance_name: wanted.instance,
        AuditLog.subscription_name: wanted.subscription,
        AuditLog.by: wanted.by,
    }
    for column, value in columns.items():
        if value is not None:
            where &= column == value
    if wanted.action is not None:
        where &= (AuditLog.action == wanted.action) | AuditLog.action.startswith(
            f"{wanted.action}."
        )
    if wanted.instances is not None:
        where &= AuditLog.instance_id.in_(list(wanted.instances))
    if wanted.since is not None:
        where &= AuditLog.at >= wanted.since
    if wanted.until is not None:
        where &= AuditLog.at < wanted.until
    if before is not None:
        where &= AuditLog.id < before
    with db.translate():
        return list(AuditLog.select().where(where).order_by(AuditLog.id.desc()).limit(limit))


def forget(before: float) -> int:
    """Delete some rows older than that (Unix seconds), the oldest; how many."""
    # By id, which is the order of time: the table needs no index for it.
    with db.translate():
        oldest = list(AuditLog.select(AuditLog.id, AuditLog.at).order_by(AuditLog.id).limit(PIECE))
    ids = [row.id for row in oldest if row.at < before]
    if not ids:
        return 0
    with db.writing():
        return int(AuditLog.delete().where(AuditLog.id.in_(ids)).execute())
