"""Named subscriptions: any number of destinations an instance."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, request

from evoflask import auditlog, configuration, schemas, signing, trials
from evoflask.schemas import answers
from evoflask.schemas.asked import DrawKeyBody, KindQuery, TrialBody, TrialQuery
from evoflask.trials import Trial
from evoflask.web import bodies, parts
from evoflask.web.auth import instance_key, who
from evoflask.web.described import Either, Many, described
from evoflask.web.openapi.bodies import CHANGED, CHANGED_EXAMPLE, NEW, NEW_EXAMPLE

bp = Blueprint("subscriptions", __name__, url_prefix="/subscription")

ROW = Either(answers.SUBSCRIPTIONS)


@bp.get("/<instance>")
@instance_key
@described(Many(ROW))
def index(instance: str) -> list[dict[str, Any]]:
    """All of them, in the order of their creation."""
    return bodies.subscription_rows(configuration.get(instance).subscriptions)


@bp.post("/<instance>")
@instance_key
@described(ROW, 201, body=NEW, example=NEW_EXAMPLE, errors=(409,))
def add(instance: str) -> tuple[dict[str, Any], int]:
    """A new one; 409 where the name is taken."""
    new = bodies.json_body(schemas.new_subscription)
    added = parts().configuration.add(instance, new, by=who(instance))
    return bodies.subscription_row(added), 201


@bp.get("/<instance>/<name>")
@instance_key
@described(ROW)
def show(instance: str, name: str) -> dict[str, Any]:
    """One."""
    return bodies.subscription_row(configuration.get_subscription(instance, name))


@bp.put("/<instance>/<name>")
@instance_key
@described(ROW, body=CHANGED, example=CHANGED_EXAMPLE)
def change(instance: str, name: str) -> dict[str, Any]:
    """Change what the body names; the rest stays."""
    stored = configuration.get_subscription(instance, name)
    patch = bodies.json_body(partial(schemas.subscription_patch, name, stored.sink))
    changed = parts().configuration.change(instance, name, patch, by=who(instance))
    return bodies.subscription_row(changed)


@bp.delete("/<instance>/<name>")
@instance_key
@described(answers.Gone)
def remove(instance: str, name: str) -> dict[str, int]:
    """Delete one with its backlog; how many deliveries that discarded."""
    return {"discarded": parts().configuration.remove(instance, name, by=who(instance))}


@bp.post("/<instance>/<name>/secret")
@instance_key
@described(
    Either((answers.Secret, answers.PublicKey)),
    body=DrawKeyBody,
    example={"kind": "symmetric", "graceSeconds": 3600},
    body_required=False,
    errors=(409,),
)
def draw_key(instance: str, name: str) -> dict[str, Any]:
    """Another key to sign with, drawn here. A secret is shown in this answer and never again; of
    an ed25519 key only the public part, here and with the subscription. The one before signs
    beside it for `graceSeconds` (a day)."""
    wanted = bodies.optional_json_body(schemas.draw_key_body)
    kind, grace = wanted["kind"], wanted["graceSeconds"]
    drawn = parts().configuration.draw_key(instance, name, kind, grace, by=who(instance))
    if kind == signing.ED25519:
        return {"kind": kind, "publicKey": signing.public_key(drawn)}
    return {"kind": kind, "secret": drawn}


@bp.delete("/<instance>/<name>/secret")
@instance_key
@described(ROW, query=KindQuery, errors=(409,))
def drop_keys(instance: str, name: str) -> dict[str, Any]:
    """Sign no more with keys of a `?kind=`, or with none at all; at once."""
    kinds = schemas.kind_query(request.args)
    parts().configuration.drop_keys(instance, name, kinds, by=who(instance))
    return bodies.subscription_row(configuration.get_subscription(instance, name))


@bp.post("/<instance>/<name>/test")
@instance_key
@described(
    answers.Trial,
    also={202: answers.Trial},
    query=TrialQuery,
    body=TrialBody,
    example={"event": "MESSAGES_UPSERT", "data": {"hello": "world"}},
    body_required=False,
    errors=(409,),
)
def try_out(instance: str, name: str) -> tuple[dict[str, Any], int]:
    """Sends one marked event now and answers the whole story; 202 where that takes longer than
    `?wait=` seconds (35), or where many requests wait here already: ask for it by its id."""
    seconds = schemas.trial_query(request.args).get("wait", trials.WAIT)
    wanted = bodies.optional_json_body(schemas.trial)
    trial = trials.ask(parts().outbox, instance, name, **wanted)
    state = configuration.get(instance)
    auditlog.note(who(instance), "subscription.test", state.instance, name, trial=trial.id)
    return _told(_waited(trial, seconds))


@bp.get("/<instance>/<name>/test/<trial>")
@instance_key
@described(answers.Trial, also={202: answers.Trial})
def look_at_trial(instance: str, name: str, trial: str) -> tuple[dict[str, Any], int]:
    """What came of a test: its story, or 202 while there is none."""
    return _told(trials.get(parts().outbox, instance, name, trial))


_waiting: set[str] = set()
"""Tests that requests of this process wait for: each holds one of its threads."""


def _waited(asked: Trial, seconds: float) -> Trial:
    if len(_waiting) >= parts().settings.web_threads // 4:
        return asked
    _waiting.add(asked.id)
    try:
        return trials.wait(parts().outbox, asked, seconds)
    finally:
        _waiting.discard(asked.id)


def _told(trial: Trial) -> tuple[dict[str, Any], int]:
    return trial.row, 202 if trial.story is None else 200
