"""Alive, ready, and the numbers."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response

from evoflask import deadletters, health, metrics, rotation
from evoflask.errors import DatabaseDown
from evoflask.outbox import totals
from evoflask.outbox.timetable import Timetable
from evoflask.schemas import answers
from evoflask.sinks import SINKS
from evoflask.web import parts
from evoflask.web.auth import caller_from_request, unauthorized
from evoflask.web.described import Text, Who, described

bp = Blueprint("health", __name__)

_LANES = [name for name in SINKS if name != "websocket"]


@bp.get("/healthz")
@described(answers.Alive)
def healthz() -> dict[str, str]:
    """This process answers. Asks nobody else."""
    return {"status": "alive"}


@bp.get("/readyz")
@described(answers.Ready, also={503: answers.Ready})
def readyz() -> tuple[dict[str, Any], int]:
    """503 where something that a request needs fails; warnings are 200 and say what to do."""
    looked = health.ready(parts().outbox, parts().settings)
    failed = health.failed(looked)
    body = {
        "status": "not ready" if failed else "ready",
        "parts": {
            part.name: {"state": part.state, "message": part.words, **part.facts} for part in looked
        },
    }
    return body, 503 if failed else 200


@bp.get("/metrics")
@described(Text("text/plain"), key=Who.OPERATOR)
def numbers() -> Response:
    """For Prometheus: behind an operator's key, unless `METRICS_OPEN`."""
    if not parts().settings.metrics_open and not caller_from_request().global_:
        raise unauthorized()
    outbox = parts().outbox
    found = totals.read(outbox, _LANES, parts().settings.outbox_partitions)
    settings = parts().settings
    limits = settings.deadletter_retain_seconds, settings.deadletter_retain_entries
    letters: metrics.Letters | None
    closed: int | None
    try:
        expiring = deadletters.expiring(*limits, time.time())
        letters = metrics.Letters(deadletters.by_sink(), expiring)
        closed = rotation.sample().closed
    except DatabaseDown:
        letters = closed = None  # the rest is worth telling all the more
    text = metrics.render(found, _LANES, letters, Timetable(outbox).last_done(), closed)
    return Response(text, content_type=metrics.CONTENT_TYPE)
