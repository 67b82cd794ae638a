"""Lanes: how they are, and what may be done to one by hand. A websocket has none."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from evoflask import lanes, schemas
from evoflask.lanes import Lane
from evoflask.schemas import answers
from evoflask.schemas.asked import LanesQuery, PurgeBody, SkipBody
from evoflask.web import bodies, parts
from evoflask.web.auth import instance_key, some_key, visible, who
from evoflask.web.bodies import iso
from evoflask.web.described import described

bp = Blueprint("lanes", __name__, url_prefix="/lane")


@bp.get("")
@some_key
@described(answers.Lanes, query=LanesQuery)
def index() -> dict[str, Any]:
    """`?instance=&after=&limit=`: all lanes for the global key, its own for a token; `next` is
    the `after` of the next page, or null."""
    asked = schemas.lanes_query(request.args)
    found = lanes.page(
        parts().outbox,
        visible(asked.get("instance")),
        after=asked.get("after", 0),
        limit=asked.get("limit", 100),
    )
    return {
        "lanes": [row(lane) for lane in found.lanes],
        "next": None if found.after is None else str(found.after),
    }


@bp.post("/<instance>/<name>/pause")
@instance_key
@described(answers.Lane, errors=(409,))
def pause(instance: str, name: str) -> dict[str, Any]:
    """Nothing is delivered until `resume`; what comes is kept."""
    return row(_stop(instance, name, True))


@bp.post("/<instance>/<name>/resume")
@instance_key
@described(answers.Lane, errors=(409,))
def resume(instance: str, name: str) -> dict[str, Any]:
    """Goes on at once, also where failures had paused it."""
    return row(_stop(instance, name, False))


@bp.post("/<instance>/<name>/probe")
@instance_key
@described(answers.Lane, errors=(409,))
def probe(instance: str, name: str) -> dict[str, Any]:
    """One try now, though it pauses or the next try has a later date; 409 where none can be."""
    return row(lanes.probe(parts().outbox, instance, name, by=who(instance)))


@bp.post("/<instance>/<name>/skip")
@instance_key
@described(answers.Skipped, body=SkipBody, example={}, body_required=False, errors=(409,))
def skip(instance: str, name: str) -> dict[str, Any]:
    """The head becomes a dead letter, `skipped`. `{"eventId"}`: only if it is that event."""
    wanted = bodies.optional_json_body(schemas.skip_body)
    done = lanes.skip(parts().outbox, instance, name, event_id=wanted, by=who(instance))
    return {"skipped": 1, "eventId": done.event_id, "event": done.event, "tries": done.tries}


@bp.post("/<instance>/<name>/purge")
@instance_key
@described(answers.Purged, body=PurgeBody, example={"confirm": 1}, errors=(409,))
def purge(instance: str, name: str) -> dict[str, Any]:
    """Discard all that waits. `{"confirm": <backlog>}`: 409 if another number waits."""
    backlog = bodies.optional_json_body(schemas.purge_body)
    done = lanes.purge(parts().outbox, instance, name, backlog, by=who(instance))
    return {"discarded": done.count, "bytes": done.bytes}


def _stop(instance: str, name: str, stopped: bool) -> Lane:
    changes, outbox = parts().configuration, parts().outbox
    return lanes.stop(changes, outbox, instance, name, stopped, by=who(instance))


def row(lane: Lane) -> dict[str, Any]:
    """A lane as its routes answer it. Ages are seconds, sizes bytes."""
    view = lane.view
    promised = {} if lane.guarantee is None else {"delivery": lane.guarantee}
    return {
        "id": lane.lane,
        "instance": lane.instance,
        "subscription": lane.name,
        "sink": lane.sink,
        **promised,
        "state": lane.state,
        "backlog": view.waiting,
        "retrying": view.retrying,
        "dying": view.dying,
        "bytes": view.weight,
        "headTries": view.head_tries if view.head else None,
        "headAcceptedAt": _iso(lane.head_at),
        "lastMinute": view.last_minute,
        "oldestAge": None if lane.age is None else round(lane.age, 3),
        "nextAttempt": _iso(lane.next_attempt),
        "pausedUntil": _iso(lane.paused_until),
        "lastError": lane.last_error,
        "lastErrorAt": _iso(lane.last_error_at),
        "lastDeliveredAt": _iso(lane.last_delivered_at),
        "failures": view.count("failures"),
        "lostHolds": view.count("lost"),
        "books": lane.books,
    }


def _iso(at: float | None) -> str | None:
    return None if at is None else iso(at)
