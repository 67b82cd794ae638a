"""The audit log: who did what by hand, and when. An instance's token sees its own."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from evoflask import auditlog, schemas
from evoflask.auditlog import Filter
from evoflask.models import AuditLog
from evoflask.schemas import answers
from evoflask.schemas.asked import AuditLogQuery
from evoflask.web import bodies
from evoflask.web.auth import some_key, visible
from evoflask.web.described import described

bp = Blueprint("auditlog", __name__, url_prefix="/audit-log")


@bp.get("")
@some_key
@described(answers.AuditLog, query=AuditLogQuery)
def index() -> dict[str, Any]:
    """Newest first, by filter; `next` is the `after` of the next page, or null."""
    asked = schemas.audit_log_query(request.args)
    after, limit = asked.pop("after", None), asked.pop("limit", 100)
    found = auditlog.find(Filter(instances=visible(None), **asked), before=after, limit=limit + 1)
    page = found[:limit]
    return {
        "entries": [row(each) for each in page],
        "next": str(page[-1].id) if len(found) > limit else None,
    }


def row(entry: AuditLog) -> dict[str, Any]:
    """What was done, as the route answers it."""
    return {
        "id": entry.id,
        "at": bodies.iso(entry.at),
        "by": entry.by,
        "action": entry.action,
        "instance": entry.instance_name,
        "subscription": entry.subscription_name,
        "facts": entry.facts,
    }
