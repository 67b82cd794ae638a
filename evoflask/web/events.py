"""Emit: one event, an array, or NDJSON; and one event back, with what became of it.

In a batch each event stands for itself: a bad one is rejected by its position. Batches go
in chunks, each kept whole or not at all; where one cannot be kept, reading ends and the
answer says how far it came.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import orjson
from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import MethodNotAllowed

from evoflask import configuration, envelope, explain, traces
from evoflask.envelope import Event
from evoflask.errors import (
    BadInput,
    Conflict,
    EvoflaskError,
    NotFound,
    TooLarge,
    Unauthorized,
)
from evoflask.explain import Explained, Told
from evoflask.manager import Accepted, May
from evoflask.plurals import counted
from evoflask.reading import Loan
from evoflask.schemas import answers
from evoflask.web import attempts, parts
from evoflask.web.auth import caller_from_request, instance_key, missing_key
from evoflask.web.bodies import body_pieces, iso, refuse_type
from evoflask.web.described import Either, Who, described
from evoflask.web.errors import AllBad, reason_of
from evoflask.web.lent import lent_json
from evoflask.web.openapi.bodies import EMIT, EMIT_EXAMPLE

bp = Blueprint("events", __name__)
NDJSON = "application/x-ndjson"
View = Callable[..., ResponseReturnValue]
_VERBS = frozenset({"emit", "set"})
"""The verbs of `/event/<verb>/<instance>` that only take POST."""


@bp.post("/event/emit/<instance>")
@described(
    Either((answers.Accepted, answers.Batch)),
    202,
    also={200: answers.Accepted},
    key=Who.INSTANCE,
    body=EMIT,
    example=EMIT_EXAMPLE,
    bad=answers.Refused,
    errors=(409,),
    headers={"traceparent": "A W3C trace, which the deliveries go on with."},
)
def emit(instance: str) -> ResponseReturnValue:
    """Accept one event, an array of them, or one in each line (`application/x-ndjson`).

    202 once the outbox holds it. An id that was accepted before is 200 if event name and bytes of
    `data` are equal, and 409 otherwise."""
    caller = caller_from_request()
    may = caller.may
    if caller.token_sha256 is None:
        raise missing_key()
    parts().manager.check(instance, may)
    traces.follow(request.headers.get("traceparent"))
    refuse_type("application/json", NDJSON)
    if request.mimetype == NDJSON:
        return _many(instance, _lines(), may)
    body = b"".join(body_pieces())
    if body.lstrip()[:1] == b"[":
        elements = envelope.split(body)
        _check_count(len(elements))
        return _many(instance, iter(elements), may)
    event = envelope.parse(body)
    accepted = parts().manager.accept(instance, [event], may)[0]
    if isinstance(accepted, Conflict):
        raise accepted
    return _json(_row(accepted, event), 200 if accepted.duplicate else 202)


def _or_wrong_method(view: View) -> View:
    """Answer 405 where the path reads as `POST /event/emit/<instance>` with another method.

    An instance may be called `emit`. Keys that may see it get its events. All other callers get
    405, so they do not learn if it exists.
    """

    @functools.wraps(view)
    def guarded(instance: str, event_id: str) -> ResponseReturnValue:
        try:
            return view(instance=instance, event_id=event_id)
        except (NotFound, Unauthorized) as error:
            here = isinstance(error, NotFound) and configuration.find(instance) is not None
            if instance not in _VERBS or here:
                raise
            raise MethodNotAllowed(valid_methods=["POST"]) from error

    return guarded


@bp.get("/event/<instance>/<path:event_id>", merge_slashes=False)
@_or_wrong_method
@instance_key
@described(answers.Event)
def get(instance: str, event_id: str) -> ResponseReturnValue:
    """200 and the event in the standard format, with what became of it at each subscription.

    `data` is null and `retained` false where no entry has it: letters or attempts know it, or no
    subscription got it, and `why` says so. 404: nothing is known of it. An id may have slashes, so
    this takes every path that no other route has."""
    return lent_json(lambda loan: _explained(instance, event_id, loan))


def _explained(instance: str, event_id: str, loan: Loan) -> bytes:
    found = explain.explain(parts().outbox, instance, event_id, loan.take)
    subscriptions = orjson.dumps([told(each) for each in found.told])
    retained = b"false" if found.body is None else b"true"
    body = found.body or _bare(found)
    why = orjson.dumps(found.why)
    # The body is not parsed and written again, so `data` stays as it is, to the byte.
    body = body[:-1] + b',"retained":' + retained + b',"why":' + why
    return body + b',"subscriptions":' + subscriptions + b"}"


def _bare(found: Explained) -> bytes:
    return orjson.dumps(
        {
            "event": found.event,
            "instance": found.instance,
            "data": None,
            "timestamp": iso(found.at),
            "sender": None,
            "id": found.id,
        }
    )


def told(each: Told) -> dict[str, Any]:
    """What became of an event at a subscription, as the route answers it."""
    return {
        "subscription": each.subscription,
        "sink": each.sink,
        "state": each.state,
        "why": each.why,
        "tries": each.tries,
        "waitingBehind": each.before,
        "nextTry": None if each.next_try is None else iso(each.next_try),
        "lane": each.lane_state,
        "deliveredAt": None if each.delivered_at is None else iso(each.delivered_at),
        "letter": each.letter,
        "reason": each.reason,
        "code": each.code,
        "detail": each.detail,
        "attempts": [attempts.brief(one) for one in each.attempts],
    }


def _json(value: dict[str, Any], status: int) -> Response:
    """By orjson: for a batch the usual encoder takes as long as reading it did."""
    return Response(orjson.dumps(value) + b"\n", status, mimetype="application/json")


def _row(accepted: Accepted, event: Event) -> dict[str, Any]:
    row = {
        "id": accepted.id,
        "event": accepted.event,
        "subscriptions": list(accepted.subscriptions),
        "duplicate": accepted.duplicate,
    }
    if event.warnings:
        row["warnings"] = event.warnings
    return row


def _rejected(error: EvoflaskError) -> dict[str, Any]:
    """Return the result of an element that was refused."""
    return {
        "status": error.status,
        "error": HTTPStatus(error.status).phrase,
        "message": list(error.messages),
    }


def _check_count(count: int) -> None:
    limit = parts().settings.max_batch
    if count > limit:
        raise TooLarge(f"The batch has more than {counted(limit, 'event')}.")


def _lines() -> Iterator[bytes]:
    """The lines of the body as they come in, without the empty ones. Bounded: a line is at
    most as long as a body may be."""
    rest: list[bytes] = []
    for piece in body_pieces():
        first, *more = piece.split(b"\n")
        rest.append(first)
        if not more:
            continue
        whole = [b"".join(rest), *more[:-1]]
        rest = more[-1:]
        yield from (line for line in whole if line and not line.isspace())
    last = b"".join(rest)
    if last and not last.isspace():
        yield last


def _many(instance: str, bodies: Iterator[bytes], may: May) -> ResponseReturnValue:
    batch = _Batch(instance, may)
    try:
        for n, body in enumerate(bodies):
            _check_count(n + 1)
            batch.add(n, body)
        batch.flush()
    except (NotFound, Unauthorized):
        raise
    except EvoflaskError as error:
        # What came before is kept, and the caller must know which.
        if not batch.accepted:
            raise
        return batch.answer(error)
    if batch.results and not batch.accepted:
        raise AllBad(batch.results)
    return batch.answer(None)


class _Batch:
    """Results in the order given, and the events that wait for their append."""

    def __init__(self, instance: str, may: May) -> None:
        self.results: list[Any] = []
        self.accepted = 0
        self._instance, self._may = instance, may
        self._waiting: list[tuple[int, Event]] = []
        self._bytes = 0

    def add(self, position: int, body: bytes) -> None:
        self.results.append(None)
        try:
            event = envelope.parse(body)
        except BadInput as error:
            self.results[position] = _rejected(error)
            return
        if self._waiting and self._full(event):
            self.flush()
        self._waiting.append((position, event))
        self._bytes += len(event.data)

    def _full(self, event: Event) -> bool:
        return parts().manager.full(len(self._waiting), self._bytes + len(event.data))

    def flush(self) -> None:
        if not self._waiting:
            return
        events = [event for _, event in self._waiting]
        accepted = parts().manager.accept(self._instance, events, self._may)
        for (position, event), row in zip(self._waiting, accepted, strict=True):
            if isinstance(row, Conflict):
                self.results[position] = _rejected(row)
            else:
                self.results[position] = _row(row, event)
                self.accepted += 1
        self._waiting, self._bytes = [], 0

    def answer(self, error: EvoflaskError | None) -> ResponseReturnValue:
        """What was read; where an event could not be kept, reading ended there."""
        at = self._waiting[0][0] if self._waiting else len(self.results)
        results = self.results[:at] if error else self.results
        body: dict[str, Any] = {
            "accepted": self.accepted,
            "rejected": sum("status" in row for row in results),
            "results": results,
        }
        if error:
            reason = {"at": at, "status": error.status, "reason": reason_of(error)}
            body["stopped"] = reason
        return _json(body, 202)
