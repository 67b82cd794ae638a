"""What is asked for: queries, and bodies that change no configuration."""
# ruff: noqa: N815 - fields carry the contract's own names

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from marshmallow import EXCLUDE, Schema, fields, validate

from evoflask.errors import BadInput
from evoflask.ids import EVENT_ID
from evoflask.schemas.faults import load, sentence, unknown_field
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
from evoflask.spelling import nearest, shown


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


_ABOUT_ALL: Final = {"description": "true: all that the key may see. Needed without a filter."}


class ManyLetters(LettersFilter):
    limit = Whole(validate=validate.Range(1, 10_000_000))
    dryRun = Flag()


_ALL: Final = {"required": ["all"], "properties": {"all": {"const": True}}}
_SOME: Final = {"anyOf": [{"required": [each]} for each in FILTER]}


class DiscardBody(ManyLetters):
    class Meta:
        json: ClassVar = {"oneOf": [_ALL, _SOME]}

    all = Flag(metadata=_ABOUT_ALL)


class RequeueBody(DiscardBody):
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


PURGE_NEEDS: Final = (
    "confirm: Missing data for required field. Send the number of events that wait, such as "
    '{"confirm": 12}; GET /lane shows it as backlog. Pause the lane first, else it changes.'
)


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
    if "confirm" not in body:
        extra = "".join(f" {each}: Unknown field." for each in map(shown, list(body)[:3]))
        raise BadInput(f"{PURGE_NEEDS}{extra}")
    return int(load(PurgeBody(), body, "")["confirm"])


def audit_log_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /audit-log`: a filter, `after` and `limit`. Raises `BadInput`."""
    return load(AuditLogQuery(), query, "")


def letters_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /deadletter`: a filter, `after` and `limit`. Raises `BadInput`."""
    return load(LettersQuery(), query, "")


def letters_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /deadletter/discard`: a filter, `limit`, `dryRun`. Raises `BadInput`."""
    return _named(load(DiscardBody(), body, ""))


def requeue_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /deadletter/requeue`: the same, and `onto`. Raises `BadInput`."""
    return _named(load(RequeueBody(), body, ""))


def _named(asked: dict[str, Any]) -> dict[str, Any]:
    check_named(any(each in asked for each in FILTER), asked.get("all", False))
    if not asked.get("all"):
        asked.pop("all", None)
    return asked


def check_named(
    by_filter: bool,
    all_: bool,
    what: str = "instance, subscription, sink, event, reason, code, since, until or text",
    how: str = '"all": true',
) -> None:
    """Check an action on many things: it needs a filter or "all", and not both.

    An empty filter would mean everything, and a forgotten field leaves one. `what` names the
    filters, `how` is the way to say "all". Raises `BadInput`.
    """
    if by_filter == all_:
        fault = "A filter and {how} contradict each other." if all_ else "The filter is empty."
        raise BadInput(
            f"{fault.format(how=how)} Name what is meant by {what}; or send {how} for everything."
        )


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
                {"required": ["all"], "properties": {"all": {"const": True}}},
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
    all = Flag(metadata=_ABOUT_ALL)
    rate = Seconds(validate=validate.Range(0.1, 10_000))
    dryRun = Flag()


def replay_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /replay`: `instance`, `onto`, and `ids` or a time; `events`, `rate`, `dryRun`. Raises
    `BadInput`."""
    asked = load(ReplayBody(), body, "")
    timed = "since" in asked or "until" in asked
    all_ = asked.pop("all", False)
    check_named("ids" in asked or timed, all_, "ids, or since and until")
    if "ids" in asked and timed:
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
    """`GET /instance/fetchInstances`: a name, an id or a number. Raises `BadInput`.

    Other parameters are ignored, as in Evolution API. One that resembles these is refused:
    `?instancename=a` would else return all instances.
    """
    names = tuple(InstancesQuery().fields)
    for given in list(query)[:100]:
        if given not in names and nearest(given, names):
            raise BadInput(sentence(shown(given), unknown_field(given, names)))
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
