"""Dead letters: listing, requeueing, discarding. An instance's token sees and does its own."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, request

from evoflask import auditlog, configuration, deadletters, operations, schemas
from evoflask.deadletters import Filter
from evoflask.models import DeadLetter
from evoflask.reading import Loan
from evoflask.schemas import answers
from evoflask.schemas.asked import DiscardBody, LettersQuery, RequeueBody, RequeueOneBody
from evoflask.web import bodies, parts
from evoflask.web.auth import some_key, visible, who
from evoflask.web.described import described
from evoflask.web.lent import lent_json

bp = Blueprint("deadletters", __name__, url_prefix="/deadletter")

_ID = "<row:letter>"


@bp.get("")
@some_key
@described(answers.DeadLetters, query=LettersQuery, errors=(409,))
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
@described(answers.WholeLetter)
def show(letter: int) -> Response:
    """Show a dead letter with its body, `data`, to the byte; null if its entry was missing."""

    def made(loan: Loan) -> bytes:
        loan.take(deadletters.head(letter, visible(None)).size)
        found = deadletters.get(letter, visible(None))
        data = None if found.data is None else orjson.Fragment(bytes(found.data))
        return orjson.dumps({**_row(found), "meta": found.meta, "data": data})

    return lent_json(made)


@bp.post(f"/{_ID}/requeue")
@some_key
@described(answers.Requeued, body=RequeueOneBody, example={}, body_required=False, errors=(409,))
def requeue(letter: int) -> dict[str, Any]:
    """Deliver one again, by the same event id; 409 where its subscription is gone.
    `{"onto": "<subscription>"}`: to another one of its instance."""
    asked = bodies.json_body(schemas.requeue_one_body) if _has_body() else {}
    row = deadletters.requeue(parts().manager, letter, visible(None), onto=asked.get("onto"))
    facts = {"letter": letter, "event_id": row.event_id, **asked}
    _note("deadletter.requeue", row.instance_id, row.subscription_name, **facts)
    return {"requeued": 1, "left": 0}


@bp.post("/requeue")
@some_key
@described(
    answers.Requeued,
    also={202: answers.Requeued},
    body=RequeueBody,
    example={"instance": "support"},
    errors=(404, 409),
)
def requeue_many() -> tuple[dict[str, Any], int]:
    """Deliver the dead letters of a filter again, or all that the key may see (`"all": true`).

    400 if neither is named. The events of a lane go in the order of their acceptance.

    Half a second of it at once: 200 where that was all; else 202, and `operation` goes on.
    `left` are still there: not reached yet, or without subscription or body. `dryRun`: how
    many it `would` be; `onto`: to another subscription of the instance.
    """
    return _many("requeue", bodies.optional_json_body(schemas.requeue_body))


@bp.delete(f"/{_ID}")
@some_key
@described(answers.Discarded)
def discard(letter: int) -> dict[str, Any]:
    """Give one up for good."""
    row = deadletters.discard(letter, visible(None))
    facts = {"letter": letter, "event_id": row.event_id}
    _note("deadletter.discard", row.instance_id, row.subscription_name, **facts)
    return {"discarded": 1, "left": 0}


@bp.post("/discard")
@some_key
@described(
    answers.Discarded,
    also={202: answers.Discarded},
    body=DiscardBody,
    example={"instance": "support", "dryRun": True},
    errors=(404, 409),
)
def discard_many() -> tuple[dict[str, Any], int]:
    """Discard the dead letters of a filter, or all that the key may see (`"all": true`).

    It works as `requeue` does. 400 if neither is named."""
    return _many("discard", bodies.optional_json_body(schemas.letters_body))


def _many(kind: str, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """`requeue` or `discard`, of many."""
    dry, onto = asked.pop("dryRun", None), asked.pop("onto", None)
    words = dict(asked)
    limit, _ = asked.pop("limit", None), asked.pop("all", None)
    wanted = _filter(asked)
    target = None if onto is None else deadletters.target(wanted.instances, onto)
    operation = deadletters.plan(kind, wanted, who(words.get("instance")), limit=limit, onto=target)
    done = {"requeue": "requeued", "discard": "discarded"}[kind]
    if dry:
        would = operations.count(operation)
        return {done: 0, "would": would, "left": deadletters.count(wanted), "operation": None}, 200
    operations.start(parts().manager, operation)
    _note(
        f"deadletter.{kind}",
        operation.scope_instance_id,
        words.get("subscription"),
        wanted=words,
        done=operation.done,
        **{} if onto is None else {"onto": onto},
        **{} if operation.id is None else {"operation": operation.id},
    )
    answer = {
        done: operation.done,
        "left": deadletters.count(wanted),
        "operation": operation.id,
    }
    return answer, 200 if operation.id is None else 202


def _filter(asked: dict[str, Any]) -> Filter:
    instances = visible(asked.pop("instance", None))
    wanted = Filter(instances=instances, **asked)
    deadletters.refuse_websocket(wanted)
    return wanted


def _has_body() -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _note(action: str, instance: int | None, subscription: str | None, **facts: Any) -> None:
    home = None if instance is None else configuration.by_id(instance)
    by = who(None if home is None else home.name)
    auditlog.note(by, action, home, subscription, **facts)


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
