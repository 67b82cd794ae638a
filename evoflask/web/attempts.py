"""The delivery log: what was tried, and what came of it. An instance's token sees its own."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from evoflask import attempts, schemas
from evoflask.attempts import Filter
from evoflask.models import DeliveryLog
from evoflask.schemas import answers
from evoflask.schemas.asked import AttemptsQuery
from evoflask.web.auth import some_key, visible
from evoflask.web.bodies import iso
from evoflask.web.described import described

bp = Blueprint("attempts", __name__, url_prefix="/attempt")


@bp.get("")
@some_key
@described(answers.Attempts, query=AttemptsQuery)
def index() -> dict[str, Any]:
    """By filter, the last one first; `next` is the `after` of the next page, or null."""
    asked = schemas.attempts_query(request.args)
    after, limit = asked.pop("after", None), asked.pop("limit", 100)
    wanted = Filter(instances=visible(asked.pop("instance", None)), **asked)
    found = attempts.find(wanted, before=after, limit=limit + 1)
    page = found[:limit]
    return {
        "attempts": [row(each) for each in page],
        "next": str(page[-1].id) if len(found) > limit else None,
    }


def row(attempt: DeliveryLog) -> dict[str, Any]:
    """An attempt as its routes answer it."""
    return {
        "id": attempt.id,
        "instance": attempt.instance_name,
        "subscription": attempt.subscription_name,
        "sink": attempt.sink,
        "event": attempt.event,
        "eventId": attempt.event_id,
        **brief(attempt),
    }


def brief(attempt: DeliveryLog) -> dict[str, Any]:
    """The end of an attempt. `queuedAt` dates the acceptance, requeue or replay that it belongs to:
    each of them counts its tries from 1. `seconds` is how long the attempt took."""
    return {
        "try": attempt.number,
        "queuedAt": iso(attempt.queued_at),
        "at": iso(attempt.at),
        "seconds": round(attempt.seconds, 3),
        "outcome": attempt.outcome,
        "code": attempt.code or None,
        "reason": attempt.detail or None,
        "host": attempt.host or None,
        "answer": attempt.answer or None,
    }
