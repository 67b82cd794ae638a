"""What is asked for: queries, and bodies that change no configuration."""
# ruff: noqa: N815 - fields carry the contract's own names

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from marshmallow import EXCLUDE, Schema, fields, validate

from evoflask.errors import BadInput
from evoflask.ids import EVENT_ID
from evoflask.schemas.faults import load
from evoflask.schemas.fields import (
    MAX_EVENTS,
    TOKEN,
    Event,
    Flag,
    Matching,
    Moment,
    Seconds,
    Whole,
    name,
)
from evoflask.schemas.sinks import SINKS
from evoflask.signing import KINDS


class LanesQuery(Schema):
    instance = fields.String(validate=name)
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


class LettersFilter(Schema):
    instance = fields.String(validate=name)
    subscription = fields.String(validate=name)
    sink = fields.String(validate=validate.OneOf(SINKS))
    event = Event()
    reason = fields.String(validate=Matching(TOKEN, "Not a reason."))
    code = fields.String(validate=validate.Length(max=40))
    since = Moment()
    until = Moment()
    text = fields.String(validate=validate.Length(1, 200))


FILTER: Final = tuple(LettersFilter().fields)


class LettersQuery(LettersFilter):
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


class SkipBody(Schema):
    eventId = fields.String(validate=validate.Length(1, 128))


class PurgeBody(Schema):
    confirm = Whole(required=True, validate=validate.Range(0, 2**53))


class AuditLogQuery(Schema):
    instance = fields.String(validate=name)
    subscription = fields.String(validate=name)
    action = fields.String(validate=Matching(TOKEN, "Not an action."))
    by = fields.String(validate=validate.Length(1, 120))
    since = Moment()
    until = Moment()
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


class ManyLetters(LettersFilter):
    limit = Whole(validate=validate.Range(1, 10_000_000))
    dryRun = Flag()


class DiscardBody(ManyLetters):
    class Meta:
        json: ClassVar = {"anyOf": [{"required": [each]} for each in FILTER]}


class RequeueBody(ManyLetters):
    onto = fields.String(validate=name)


class RequeueOneBody(Schema):
    onto = fields.String(validate=name)


class OperationsQuery(Schema):
    instance = fields.String(validate=name)
    state = fields.String(validate=validate.OneOf(("running", "done", "cancelled", "failed")))
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


OUTCOMES: Final = ("delivered", "refused", "rejected", "unreachable", "ambiguous")
"""What an attempt may have come to."""


class AttemptsQuery(Schema):
    instance = fields.String(validate=name)
    subscription = fields.String(validate=name)
    event = Event()
    event_id = fields.String(data_key="id", validate=Matching(EVENT_ID, "Not the id of an event."))
    outcome = fields.String(validate=validate.OneOf(OUTCOMES))
    since = Moment()
    until = Moment()
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


def attempts_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /attempt`: a filter, `after` and `limit`. Raises `BadInput`."""
    return load(AttemptsQuery(), query, "")


def lanes_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /lane`: `instance`, `after`, `limit`. Raises `BadInput`, also for what it is not."""
    return load(LanesQuery(), query, "")


def skip_body(body: Mapping[str, Any]) -> str | None:
    """`POST /lane/<instance>/<name>/skip`: the event id that the head must have, if any. Raises
    `BadInput`."""
    given = load(SkipBody(), body, "")
    return None if not given else str(given["eventId"])


def purge_body(body: Mapping[str, Any]) -> int:
    """`POST /lane/<instance>/<name>/purge`: the backlog that is meant. Raises `BadInput`."""
    return int(load(PurgeBody(), body, "")["confirm"])


def audit_log_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /audit-log`: a filter, `after` and `limit`. Raises `BadInput`."""
    return load(AuditLogQuery(), query, "")


def letters_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /deadletter`: a filter, `after` and `limit`. Raises `BadInput`."""
    return load(LettersQuery(), query, "")


def letters_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /deadletter/discard`: a filter, `limit`, `dryRun`. Raises `BadInput`."""
    return load(DiscardBody(), body, "")


def requeue_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /deadletter/requeue`: the same, and `onto`. Raises `BadInput`."""
    return load(RequeueBody(), body, "")


def requeue_one_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /deadletter/<id>/requeue`: `onto`. Raises `BadInput`."""
    return load(RequeueOneBody(), body, "")


def operations_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /operation`: `instance`, `state`, `after`, `limit`. Raises `BadInput`."""
    return load(OperationsQuery(), query, "")


class ReplayBody(Schema):
    class Meta:
        json: ClassVar = {
            "oneOf": [
                {"required": ["ids"]},
                {"anyOf": [{"required": ["since"]}, {"required": ["until"]}]},
            ]
        }

    instance = fields.String(required=True, validate=name)
    onto = fields.String(required=True, validate=name)
    ids = fields.List(
        fields.String(validate=Matching(EVENT_ID, "Not an event's id.")),
        validate=validate.Length(1, 500),
    )
    since = Moment()
    until = Moment()
    events = fields.List(Event(), validate=validate.Length(1, MAX_EVENTS))
    rate = Seconds(validate=validate.Range(0.1, 10_000))
    dryRun = Flag()


def replay_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /replay`: `instance`, `onto`, and `ids` or a time; `events`, `rate`, `dryRun`. Raises
    `BadInput`."""
    asked = load(ReplayBody(), body, "")
    timed = "since" in asked or "until" in asked
    if ("ids" in asked) == timed:
        raise BadInput("Name the events by ids, or by the time since and until which they came.")
    if "ids" in asked:
        asked["ids"] = list(dict.fromkeys(asked["ids"]))
    return asked


class DrawKeyBody(Schema):
    kind = fields.String(load_default="symmetric", validate=validate.OneOf(KINDS))
    graceSeconds = Seconds(load_default=86_400.0, validate=validate.Range(0, 2_592_000))


def draw_key_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /subscription/<i>/<name>/secret`: `kind`, `graceSeconds`. Raises `BadInput`."""
    return load(DrawKeyBody(), body, "")


class KindQuery(Schema):
    kind = fields.String(validate=validate.OneOf(KINDS))


def kind_query(query: Mapping[str, Any]) -> tuple[str, ...]:
    """`DELETE /subscription/<i>/<name>/secret`: `kind`, or both. Raises `BadInput`."""
    kind = load(KindQuery(), query, "").get("kind")
    return KINDS if kind is None else (kind,)


class InstancesQuery(Schema):
    class Meta:
        unknown = EXCLUDE  # as Evolution API

    instanceName = fields.String()
    instanceId = fields.String()
    number = fields.String()


def instances_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /instance/fetchInstances`: a name, an id or a number. Raises `BadInput`."""
    return load(InstancesQuery(), query, "")


class TrialBody(Schema):
    event = Event()
    data = fields.Raw(allow_none=True)


def trial(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /subscription/<i>/<name>/test`: `event` and `data`, or neither. Raises `BadInput`."""
    return load(TrialBody(), body, "")


class TrialQuery(Schema):
    wait = fields.Float(validate=validate.Range(0, 35))


def trial_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """Its query: `wait`, how many seconds to wait for the answer. Raises `BadInput`."""
    return load(TrialQuery(), query, "")
