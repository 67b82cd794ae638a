"""Dead letters: listing, requeueing, discarding. An instance's token sees and does its own."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, request

from evoflask import deadletters, schemas
from evoflask.deadletters import Filter, Requeued
from evoflask.errors import BadInput
from evoflask.models import DeadLetter
from evoflask.web import bodies, parts
from evoflask.web.auth import some_key, visible
from evoflask.web.errors import reason_of

bp = Blueprint("deadletters", __name__, url_prefix="/deadletter")

_ID = "<int(max=9007199254740991):letter>"


@bp.get("")
@some_key
def index() -> dict[str, Any]:
    """Newest first, by filter; how many there are by reason; `next` is the `after` of the next
    page, or null."""
    asked = schemas.letters_query(request.args)
    after, limit = asked.pop("after", None), asked.pop("limit", 100)
    wanted = _filter(asked)
    letters = deadletters.find(wanted, before=after, limit=limit + 1)
    page = letters[:limit]
    reasons = deadletters.reasons(wanted)
    return {
        "letters": [_row(letter) for letter in page],
        "total": sum(reasons.values()),
        "reasons": reasons,
        "next": str(page[-1].id) if len(letters) > limit else None,
    }


@bp.get(f"/{_ID}")
@some_key
def show(letter: int) -> Response:
    """One with its body, `data`, to the byte; null where the entry was missing."""
    found = deadletters.get(letter, visible(None))
    data = None if found.data is None else orjson.Fragment(bytes(found.data))
    body = orjson.dumps({**_row(found), "meta": found.meta, "data": data})
    return Response(body, mimetype="application/json")


@bp.post(f"/{_ID}/requeue")
@some_key
def requeue(letter: int) -> dict[str, Any]:
    """Deliver one again, by the same event id; 409 where its subscription is gone."""
    deadletters.requeue(parts().manager, letter, visible(None))
    return {"requeued": 1, "left": 0}


@bp.post("/requeue")
@some_key
def requeue_many() -> dict[str, Any]:
    """Deliver those of a filter again, those of a lane in the order of their acceptance;
    `left` are still there: not reached in time, or without subscription or body."""
    asked = bodies.json_body(schemas.letters_body)
    limit = asked.pop("limit", deadletters.MANY)
    return _requeued(deadletters.requeue_many(parts().manager, _filter(asked), limit=limit))


@bp.delete(f"/{_ID}")
@some_key
def discard(letter: int) -> dict[str, Any]:
    """Give one up for good."""
    deadletters.discard(letter, visible(None))
    return {"discarded": 1, "left": 0}


@bp.post("/discard")
@some_key
def discard_many() -> dict[str, Any]:
    """Give those of a filter up for good; a body that names nothing is 400."""
    asked = bodies.json_body(schemas.letters_body)
    limit = asked.pop("limit", deadletters.MANY)
    if not asked:
        raise BadInput("Name what is to be discarded, an instance for example.")
    discarded, left = deadletters.discard_many(_filter(asked), limit=limit)
    return {"discarded": discarded, "left": left}


def _filter(asked: dict[str, Any]) -> Filter:
    instances = visible(asked.pop("instance", None))
    wanted = Filter(instances=instances, **asked)
    deadletters.refuse_websocket(wanted)
    return wanted


def _requeued(done: Requeued) -> dict[str, Any]:
    answer: dict[str, Any] = {"requeued": done.requeued, "left": done.left}
    if done.stopped:
        answer["stopped"] = {"status": done.stopped.status, "reason": reason_of(done.stopped)}
    return answer


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "instance": letter.instance_name,
        "subscription": letter.subscription_name,
        "sink": letter.sink,
        "event": letter.event,
        "eventId": letter.event_id,
        "reason": letter.reason,
        "code": letter.code or None,
        "detail": letter.detail,
        "tries": letter.tries,
        "size": letter.size,
        "acceptedAt": bodies.iso(letter.at),
        "deadAt": bodies.iso(letter.created_at),
    }
