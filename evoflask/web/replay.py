"""Replay: events that are still on the outbox, delivered once more."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from evoflask import auditlog, configuration, operations, replay, schemas
from evoflask.replay import Wanted
from evoflask.schemas import answers
from evoflask.schemas.asked import ReplayBody
from evoflask.web import bodies, parts
from evoflask.web.auth import some_key, visible, who
from evoflask.web.described import described

bp = Blueprint("replay", __name__)


@bp.post("/replay")
@some_key
@described(
    answers.Replayed,
    also={202: answers.Replayed},
    body=ReplayBody,
    example={"instance": "support", "onto": "archive", "since": "2026-01-01"},
    errors=(404, 409),
)
def begin() -> tuple[dict[str, Any], int]:
    """Deliver events of an instance once more onto one of its subscriptions.

    The body names them by ids or by time, or names all retained events (`"all": true`).

    Half a second of it at once: 200 where that was all; else 202, and `operation` goes on.
    `dryRun`: how many it `would` be. `missing`: ids that are not on the outbox.
    """
    asked = bodies.json_body(schemas.replay_body)
    instance, onto, rate = asked.pop("instance"), asked.pop("onto"), asked.pop("rate", None)
    visible(instance)
    dry = asked.pop("dryRun", False)
    wanted = Wanted(**asked)
    planned = replay.plan(parts().outbox, instance, wanted, onto, by=who(instance), rate=rate)
    found = planned.total
    missing = {"missing": len(wanted.ids) - found} if wanted.ids else {}
    if dry:
        return {"replayed": 0, "would": found, **missing, "operation": None}, 200
    operations.start(parts().manager, planned)
    facts = {"wanted": wanted.words, "total": found, "operation": planned.id}
    home = configuration.get(instance).instance
    auditlog.note(who(instance), "event.replay", home, onto, **facts)
    left = max(0, planned.total - planned.done - planned.failed)
    answer = {"replayed": planned.done, "left": left, **missing, "operation": planned.id}
    return answer, 200 if planned.id is None else 202
