"""What is answered: a schema each, for the API's own documentation and for whoever checks an
answer against it. Views make their rows without them; tests hold the two together.
"""
# ruff: noqa: N815 - fields carry the contract's own names

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from marshmallow import EXCLUDE, Schema, fields, validate

from evoflask import signing
from evoflask.schemas.asked import OUTCOMES
from evoflask.schemas.bodies import INTEGRATIONS
from evoflask.schemas.fields import OrderBy, Statuses
from evoflask.schemas.sinks import FORMATS, SCHEMAS, SINKS, guarantee, setting_names


def _text(**how: Any) -> fields.String:
    return fields.String(required=True, **how)


def _one_of(*words: str, **how: Any) -> fields.String:
    return fields.String(required=True, validate=validate.OneOf(words), **how)


def _whole(least: int = 0, **how: Any) -> fields.Integer:
    return fields.Integer(required=True, validate=validate.Range(least), **how)


def _number(**how: Any) -> fields.Float:
    return fields.Float(required=True, **how)


def _flag(**how: Any) -> fields.Boolean:
    return fields.Boolean(required=True, **how)


def _moment(about: str = "", **how: Any) -> fields.String:
    """ISO 8601, UTC, milliseconds, as Evolution API writes dates."""
    said = {"format": "date-time", "example": "2026-11-24T09:30:00.000Z"}
    if about:
        said["description"] = about
    return fields.String(required=True, metadata=said, **how)


def _null() -> fields.Raw:
    return fields.Raw(required=True, metadata={"type": "null"})


def _many(of: type[Schema] | fields.Field[Any], **how: Any) -> fields.List[Any]:
    inner = of if isinstance(of, fields.Field) else fields.Nested(of)
    return fields.List(inner, required=True, **how)


def _one(of: type[Schema], **how: Any) -> fields.Nested:
    return fields.Nested(of, required=True, **how)


class Answer(Schema):
    """Clients pass over what they do not know: fields may be added."""

    class Meta:
        unknown = EXCLUDE


# -- errors ---------------------------------------------------------------------------------


class Sentences(Answer):
    message = _many(fields.String())


class Error(Answer):
    """What went wrong, in sentences."""

    status = _whole(400)
    error = _text(metadata={"description": "The status' own phrase."})
    response = _one(Sentences)


class Accepted(Answer):
    """An event that is kept."""

    id = _text()
    event = _text()
    subscriptions = _many(fields.String())
    duplicate = _flag(metadata={"description": "It had been accepted before, and was not again."})
    warnings = fields.List(
        fields.String(), metadata={"description": "Fields that were ignored, if there are any."}
    )


class Rejected(Answer):
    """An event of a batch that was not taken."""

    status = _whole(400)
    error = _text()
    message = _many(fields.String())


class Result(Answer):
    """Accepted or rejected."""

    class Meta:
        unknown = EXCLUDE
        either = (Accepted, Rejected)


class Stopped(Answer):
    """Where the reading of a batch ended. `at`: the position of the first event not kept."""

    at = _whole()
    status = _whole(400)
    reason = _text()


class Batch(Answer):
    """Results in the order given."""

    accepted = _whole()
    rejected = _whole()
    results = _many(Result)
    stopped = fields.Nested(Stopped)


class Refused(Error):
    """400 to an emit: `results` where it was a batch without a single good event."""

    results = fields.List(fields.Nested(Result))


# -- configuration --------------------------------------------------------------------------


class Row(Answer):
    """A sink's configuration. Secrets are masked; the mask may be sent back."""

    id = _text()
    enabled = _flag()
    events = _many(fields.String(), metadata={"description": "Empty: all."})
    format = _one_of(*FORMATS)
    concurrency = _whole(1)
    orderBy = OrderBy(required=True, allow_none=True)
    onFailure = _one_of("pass", "wait")
    retry = _many(fields.Float(), allow_none=True)
    timeout = _number(metadata={"description": "Seconds."})
    createdAt = _moment()
    updatedAt = _moment()
    instanceId = _text()
    error = fields.String(
        metadata={"description": "Its secrets cannot be opened: what only its sink has is null."}
    )


class SignedRow(Row):
    """Of a sink whose messages can be signed. `publicKey`: of an ed25519 key in use."""

    secretSet = _flag()
    publicKey = _text(allow_none=True)


def _answered(given: fields.Field[Any]) -> fields.Field[Any]:
    """A field of a sink as it is shown: null where the row's secrets do not open."""
    choices = [each for each in given.validators if isinstance(each, validate.OneOf)]
    how: dict[str, Any] = {"required": True, "allow_none": True, "validate": choices}
    if isinstance(given, fields.Dict):
        return fields.Dict(keys=fields.String(), values=fields.String(), **how)
    if isinstance(given, Statuses):
        return fields.List(fields.Integer(), **how)
    kind = next(kind for kind in _KINDS if isinstance(given, kind))
    return kind(**how)


_KINDS: Final = (fields.Boolean, fields.Integer, fields.Float, fields.String)


def _row(sink: str) -> type[Row]:
    """What the sink's own schema has, as it is answered."""
    own: dict[str, Any] = {
        name: _answered(SCHEMAS[sink].fields[name]) for name in setting_names(sink)
    }
    if guarantee(sink, {}) is not None:
        own["delivery"] = _one_of("at-least-once", "at-most-once", allow_none=True)
    base = SignedRow if sink in signing.SINKS else Row
    return type(f"{sink.capitalize()}Row", (base,), own)


_PLAIN: Final = {sink: _row(sink) for sink in SINKS}


_evolution: Mapping[str, Any] = {
    "__doc__": "With the two names that Evolution API's own row has.",
    "webhookByEvents": _flag(allow_none=True),
    "webhookBase64": _flag(allow_none=True),
}
EvolutionWebhookRow: Final[type[Row]] = type(
    "EvolutionWebhookRow", (_PLAIN["webhook"],), dict(_evolution)
)

ROWS: Final[Mapping[str, type[Row]]] = _PLAIN | {"webhook": EvolutionWebhookRow}
"""What `/<sink>/find` answers."""


def _warnings() -> fields.List[Any]:
    about = "Fields that were ignored, and why. Absent if there are none."
    return fields.List(fields.String(), metadata={"description": about})


SET_ROWS: Final[Mapping[str, type[Row]]] = {
    sink: type(f"Set{row.__name__}", (row,), {"warnings": _warnings()})
    for sink, row in ROWS.items()
}
"""The answers of `/<sink>/set`."""


def _subscription(sink: str, row: type[Row]) -> type[Row]:
    named: Mapping[str, Any] = {"name": _text(), "sink": _one_of(sink)}
    return type(f"{sink.capitalize()}Subscription", (row,), dict(named))


SUBSCRIPTIONS: Final[tuple[type[Row], ...]] = tuple(
    _subscription(sink, row) for sink, row in _PLAIN.items()
)
"""What `/subscription` answers."""


def _all_six(title: str, row: Mapping[str, type[Row]], names: Mapping[str, str]) -> type[Answer]:
    each = {names[sink]: _one(row[sink], allow_none=True) for sink in SINKS}
    return type(title, (Answer,), each)


Rows: Final = _all_six("Rows", ROWS, {sink: sink for sink in SINKS})
"""All six sinks, row or null."""


SetRows: Final = type("SetRows", (Rows,), {"warnings": _warnings()})
"""The rows of all six sinks, and the ignored fields."""


class Named(Answer):
    instanceName = _text()
    instanceId = _text()
    integration = _one_of(*INTEGRATIONS)
    webhookWaBusiness = _null()
    accessTokenWaBusiness = _text()
    status = _text()


class CreatedWebhook(Answer):
    webhookUrl = fields.String(allow_none=True)
    webhookHeaders = fields.Dict(allow_none=True)
    webhookByEvents = fields.Boolean(allow_none=True)
    webhookBase64 = fields.Boolean(allow_none=True)


class CreatedSink(Answer):
    enabled = fields.Boolean()


class Created(Answer):
    """A new instance. `hash` is its token; an object is empty where there is no such sink."""

    instance = _one(Named)
    hash = _text()
    webhook = _one(CreatedWebhook)
    websocket = _one(CreatedSink)
    rabbitmq = _one(CreatedSink)
    nats = _one(CreatedSink)
    sqs = _one(CreatedSink)
    pusher = _one(CreatedSink)
    settings = fields.Dict(required=True)
    warnings = _warnings()


class Counts(Answer):
    Message = _whole()
    Contact = _whole()
    Chat = _whole()


class Instance(Answer):
    """As Evolution API lists one; what only a gateway would know is null."""

    id = _text()
    name = _text()
    connectionStatus = _text()
    ownerJid = _null()
    profileName = _null()
    profilePicUrl = _null()
    integration = _one_of(*INTEGRATIONS)
    number = _text(allow_none=True)
    businessId = _null()
    token = _text(allow_none=True, metadata={"description": "Null unless EXPOSE_TOKENS."})
    clientName = _text()
    disconnectionReasonCode = _null()
    disconnectionObject = _null()
    disconnectionAt = _null()
    createdAt = _moment()
    updatedAt = _moment()
    Chatwoot = _null()
    Proxy = _null()
    Webhook = _one(EvolutionWebhookRow, allow_none=True)
    Rabbitmq = _one(ROWS["rabbitmq"], allow_none=True)
    Nats = _one(ROWS["nats"], allow_none=True)
    Sqs = _one(ROWS["sqs"], allow_none=True)
    Websocket = _one(ROWS["websocket"], allow_none=True)
    Pusher = _one(ROWS["pusher"], allow_none=True)
    Setting = _null()
    _count = fields.Nested(Counts, required=True)


class InstanceName(Answer):
    instanceName = _text()


class Rotated(Answer):
    """`hash`: the new token."""

    instance = _one(InstanceName)
    hash = _text()


class ConnectedInstance(InstanceName):
    state = _one_of("open")


class ConnectionState(Answer):
    instance = _one(ConnectedInstance)


class Message(Answer):
    message = _text()


class Success(Answer):
    status = _one_of("SUCCESS")
    error = _flag()
    response = _one(Message)


class Secret(Answer):
    """A new signing secret, shown once."""

    kind = _one_of("symmetric")
    secret = _text()


class PublicKey(Answer):
    """The public part of a new ed25519 key."""

    kind = _one_of("ed25519")
    publicKey = _text()


class Gone(Answer):
    discarded = _whole(metadata={"description": "Deliveries that waited."})


# -- what happened --------------------------------------------------------------------------


class Try(Answer):
    """What came of one attempt."""

    at = _moment()
    seconds = _number()
    outcome = _one_of(*OUTCOMES)
    code = _text(allow_none=True)
    reason = _text(allow_none=True)
    host = _text(allow_none=True)
    answer = _text(allow_none=True)
    number = fields.Integer(required=True, data_key="try", validate=validate.Range(0))
    queuedAt = _moment("Acceptance, requeue or replay; each of them counts its tries from 1.")


class Attempt(Try):
    """A line of the delivery log."""

    id = _whole()
    instance = _text()
    subscription = _text()
    sink = _one_of(*SINKS)
    event = _text()
    eventId = _text()


def _page(title: str, name: str, of: type[Schema], **more: Any) -> type[Answer]:
    after = _text(allow_none=True, metadata={"description": "The `after` of the next page."})
    page: Mapping[str, Any] = {name: _many(of), **more, "next": after}
    return type(title, (Answer,), dict(page))


Attempts: Final = _page("Attempts", "attempts", Attempt)


class Entry(Answer):
    """What was done by hand. `by`: a key's name, or `instance:<name>`."""

    id = _whole()
    at = _moment()
    by = _text()
    action = _text()
    instance = _text(allow_none=True)
    subscription = _text(allow_none=True)
    facts = fields.Dict(required=True)


AuditLog: Final = _page("AuditLog", "entries", Entry)


class DeadLetter(Answer):
    """A delivery that was given up, and why."""

    id = _whole()
    instance = _text()
    subscription = _text()
    sink = _one_of(*SINKS)
    event = _text()
    eventId = _text()
    reason = _text()
    code = _text(allow_none=True)
    detail = _text()
    tries = _whole()
    size = _whole(metadata={"description": "Bytes of `data`."})
    acceptedAt = _moment()
    deadAt = _moment()


DeadLetters: Final = _page(
    "DeadLetters",
    "letters",
    DeadLetter,
    total=_whole(),
    reasons=fields.Dict(keys=fields.String(), values=fields.Integer(), required=True),
)


class WholeLetter(DeadLetter):
    """With its body. `data` null: the entry was missing."""

    meta = fields.Dict(required=True)
    data = fields.Raw(required=True, allow_none=True)


class Requeued(Answer):
    """`left`: letters of the filter that are still there. `operation`: goes on with the rest."""

    requeued = _whole()
    left = _whole()
    would = fields.Integer(validate=validate.Range(0))
    operation = fields.Integer(allow_none=True)


class Discarded(Answer):
    """As `Requeued`."""

    discarded = _whole()
    left = _whole()
    would = fields.Integer(validate=validate.Range(0))
    operation = fields.Integer(allow_none=True)


class Replayed(Answer):
    """`missing`: ids that are not on the outbox any more."""

    replayed = _whole()
    left = fields.Integer(validate=validate.Range(0))
    would = fields.Integer(validate=validate.Range(0))
    missing = fields.Integer(validate=validate.Range(0))
    operation = fields.Integer(required=True, allow_none=True)


class Operation(Answer):
    """A long action by hand."""

    id = _whole()
    kind = _text()
    instance = _text(allow_none=True)
    wanted = fields.Dict(required=True)
    onto = _text(allow_none=True)
    rate = _number(allow_none=True)
    by = _text()
    state = _one_of("running", "done", "cancelled", "failed")
    total = _whole()
    done = _whole()
    failed = _whole()
    error = _text(allow_none=True)
    createdAt = _moment()
    updatedAt = _moment()
    endedAt = _moment(allow_none=True)


Operations: Final = _page("Operations", "operations", Operation)

LANE_STATES: Final = (
    "unknown", "disabled", "stopped", "quarantined", "paused", "active", "retrying", "idle",
)  # fmt: skip


class Lane(Answer):
    """The deliveries of one subscription that wait, and how it goes. Ages are seconds, sizes
    bytes."""

    id = _text()
    instance = _text()
    subscription = _text()
    sink = _one_of(*SINKS)
    delivery = fields.String(validate=validate.OneOf(("at-least-once", "at-most-once")))
    state = _one_of(*LANE_STATES)
    backlog = _whole()
    retrying = _whole()
    dying = _whole()
    bytes = _whole()
    headTries = _whole(allow_none=True)
    headAcceptedAt = _moment(allow_none=True)
    lastMinute = _whole(metadata={"description": "Deliveries of the last minute."})
    oldestAge = _number(allow_none=True)
    nextAttempt = _moment(allow_none=True)
    pausedUntil = _moment(allow_none=True)
    lastError = _text(
        allow_none=True,
        metadata={"description": "null once a delivery succeeded after it and no retry waits."},
    )
    lastErrorAt = _moment(allow_none=True)
    lastDeliveredAt = _moment(allow_none=True)
    failures = _whole()
    lostHolds = _whole()
    books = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)


Lanes: Final = _page("Lanes", "lanes", Lane)


class Skipped(Answer):
    skipped = _whole()
    eventId = _text()
    event = _text()
    tries = _whole()


class Purged(Answer):
    discarded = _whole()
    bytes = _whole()


class Told(Answer):
    """What became of an event at a subscription; `explain` in the manual has the states."""

    subscription = _text(allow_none=True)
    sink = _one_of(*SINKS, allow_none=True)
    state = _one_of(
        "skipped", "live", "waiting", "retrying", "dying", "dead", "delivered", "discarded",
        "settled", "unknown",
    )  # fmt: skip
    why = _text(allow_none=True)
    tries = _whole()
    waitingBehind = _whole(allow_none=True)
    nextTry = _moment(allow_none=True)
    lane = _text(allow_none=True)
    deliveredAt = _moment(allow_none=True)
    letter = _whole(allow_none=True)
    reason = _text(allow_none=True)
    code = _text(allow_none=True)
    detail = _text(allow_none=True)
    attempts = _many(Try)


class Event(Answer):
    """An event in the standard format, and what became of it."""

    event = _text()
    instance = _text()
    data = fields.Raw(required=True, allow_none=True)
    timestamp = _text()
    sender = _text(allow_none=True)
    id = _text()
    replay = fields.Boolean(
        metadata={"description": "true where only a copy that was replayed is still there."}
    )
    retained = _flag(metadata={"description": "Its body is still on the outbox."})
    why = _text(
        allow_none=True, metadata={"description": "Why no subscription got it; null: one did."}
    )
    subscriptions = _many(Told)


class Trial(Answer):
    """A test of a subscription. What follows `event` is there once it is `done`."""

    id = _text()
    state = _one_of("waiting", "done")
    instance = _text()
    subscription = _text()
    sink = _one_of(*SINKS)
    event = _text()
    delivered = fields.Boolean()
    verdict = fields.String(metadata={"description": "What came of it, in a sentence or two."})
    outcome = fields.String(allow_none=True, validate=validate.OneOf(OUTCOMES))
    code = fields.String()
    detail = fields.String()
    server = fields.String(allow_none=True)
    addresses = fields.List(fields.Dict())
    address = fields.String(allow_none=True)
    tls = fields.Dict(allow_none=True)
    request = fields.Dict(allow_none=True)
    answer = fields.Dict(allow_none=True)
    redirects = fields.List(fields.Dict())
    timing = fields.Dict(keys=fields.String(), values=fields.Float())


class Alive(Answer):
    status = _one_of("alive")


class Part(Answer):
    """One thing that was looked at, and its own facts."""

    class Meta:
        unknown = EXCLUDE
        open = True

    state = _one_of("ok", "warning", "failure")
    message = _text()


class Ready(Answer):
    status = _one_of("ready", "not ready")
    parts = fields.Dict(keys=fields.String(), values=fields.Nested(Part), required=True)
