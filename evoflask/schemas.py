"""Every body that changes configuration: one marshmallow schema a sink, and what surrounds it.

Bodies arrive nested (`{"webhook": {"url": ...}}`), flat (`{"url": ...}`) or under the names
that clients of Evolution API use (`webhookUrl`, `webhook_by_events`); `_gather` makes one of
them all. A schema then checks the fields that were given, `merge` lays them over what is
stored and checks what must hold together. Nothing here asks the database.

Wrong words raise `BadInput` with a sentence a fault: "webhook.url: Not a valid URL.".
"""
# ruff: noqa: N815 - fields carry the contract's own names

from __future__ import annotations

import base64 as b64
import binascii
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, fields, missing, validate

from evoflask import events, masks
from evoflask.errors import BadInput
from evoflask.ids import EVENT_ID, NAME
from evoflask.net import guard
from evoflask.signing import KINDS

FORMATS: Final = ("standard",)
INTEGRATIONS: Final = ("WHATSAPP-BAILEYS", "WHATSAPP-BUSINESS", "EVOLUTION")
READ_ONLY: Final = frozenset(
    {"id", "secretSet", "publicKey", "createdAt", "updatedAt", "instanceId", "delivery"}
)
"""Fields of an answer that may be sent back and are not looked at."""

REQUIRED: Final = "Missing data for required field."
MAX_FAULTS: Final = 20
"""How many faults of one body are told."""

_MAX_URL: Final = 2048
_MAX_HEADERS: Final = 50
_MAX_HEADER_VALUE: Final = 4096
_MAX_RETRIES: Final = 20
_MAX_RETRY_SECONDS: Final = 604_800
_MAX_EVENTS: Final = 1_000

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9._\-]{1,253}", re.ASCII)
_EXCHANGE: Final = re.compile(r"[A-Za-z0-9\-_.:]{1,127}", re.ASCII)
_SUBJECT: Final = re.compile(r"[!-~]{1,255}", re.ASCII)
_TOKEN: Final = re.compile(r"[!-~]{1,128}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+[.@\w\-]*", re.ASCII)
_ORDER_BY: Final = re.compile(r"data(\.[^.\x00-\x1f\x7f-\x9f]+)*")


# --- fields: as strict as JSON is, where marshmallow would take "yes" for true ---------------


class Flag(fields.Boolean):
    """`true` or `false`, nothing that resembles them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Whole(fields.Integer):
    """A JSON number without a fraction."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid", input=value)
        return value


class Seconds(fields.Float):
    """A JSON number that is finite."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        # An integer may have 4,000 digits and be no float.
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not -1e15 < value < 1e15 or math.isnan(value):
            raise self.make_error("invalid", input=value)
        return float(value)


class Events(fields.List[str]):
    """Names out of the catalogue in any spelling, kept in the order given, each once."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(fields.String(), validate=validate.Length(max=_MAX_EVENTS), **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> list[str | None]:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        if len(value) > _MAX_EVENTS:
            raise ValidationError(f"Longer than maximum length {_MAX_EVENTS}.")
        names = [events.canonical(each) if isinstance(each, str) else None for each in value]
        wrong = {
            at: [f"Not an event: {_shown(value[at])}."]
            for at, name in enumerate(names)
            if name is None
        }
        if wrong:
            raise ValidationError(wrong)
        return list(dict.fromkeys(name for name in names if name))


class Headers(fields.Dict):
    """Custom headers of a webhook: text to text, and nothing that could end a line."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if len(value) > _MAX_HEADERS:
            raise ValidationError(f"Longer than maximum length {_MAX_HEADERS}.")
        wrong = {name: [fault] for name, fault in _header_faults(value) if fault}
        if wrong:
            raise ValidationError(wrong)
        return value


def _header_faults(headers: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    seen: set[str] = set()
    for name, value in headers.items():
        lower = name.lower()
        twice = "Given twice." if lower in seen else None
        yield _shown(name), _name_fault(name) or _value_fault(value) or twice
        seen.add(lower)


def _name_fault(name: str) -> str | None:
    if not _HEADER_NAME.fullmatch(name):
        return "Not a valid header name."
    lower = name.lower()
    if lower in guard.RESERVED_HEADERS or lower.startswith(("webhook-", "proxy-")):
        return "This header is the server's own."
    return None


def _value_fault(value: Any) -> str | None:
    if not isinstance(value, str):
        return "Not a valid string."
    if len(value) > _MAX_HEADER_VALUE:
        return f"Longer than maximum length {_MAX_HEADER_VALUE}."
    if _CONTROL.search(value):
        return "Must not contain control characters."
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return "Must be Latin-1, which is all that a header can carry."
    return None


# --- validators ------------------------------------------------------------------------------


def web_url(value: str) -> None:
    """http or https, with a host, without credentials, control characters or fragment."""
    if len(value) > _MAX_URL:
        raise ValidationError(f"Longer than maximum length {_MAX_URL}.")
    if _CONTROL.search(value) or any(each.isspace() for each in value) or "\\" in value:
        raise ValidationError("Not a valid URL.")
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and parts.port != 0 and _is_host(parts.hostname)
        after = parts.netloc.rpartition("]")
        good = good and (not after[1] or re.fullmatch(r"(:[0-9]*)?", after[2]) is not None)
    except ValueError:
        good = False
    if not good:
        raise ValidationError("Not a valid URL.")
    if "@" in parts.netloc and not masks.is_masked(value):  # that one stands for what is stored
        raise ValidationError("Must not carry a user name or a password.")
    if parts.fragment:
        raise ValidationError("Must not have a fragment.")


def _is_host(host: str | None) -> bool:
    """An address in brackets, or a name that DNS could carry. Raises `ValueError`."""
    if not host or ":" in host:
        return bool(host)
    return bool(_HOST.fullmatch(host.encode("idna").decode()))


def matching(pattern: re.Pattern[str], fault: str) -> validate.Validator:
    """A validator of the whole string."""

    class Matching(validate.Validator):
        def __call__(self, value: str) -> str:
            if not pattern.fullmatch(value):
                raise ValidationError(fault)
            return value

    return Matching()


name = matching(
    NAME,
    "Must be 1 to 100 letters, digits, _, - or ., beginning with a letter or a digit.",
)


def exchange(value: str) -> None:
    """An exchange that one may declare: within AMQP's limits, none of the broker's."""
    if not _EXCHANGE.fullmatch(value):
        raise ValidationError("Must be 1 to 127 letters, digits, -, _, . or :.")
    if value.startswith("amq."):
        raise ValidationError("Exchanges that begin with amq. are the broker's own.")


def subject(value: str) -> None:
    """A subject that one may publish to, with placeholders: no wildcards, nothing of the
    server's own, whatever stands for the placeholders."""
    plain = value.replace("{instance}", "a").replace("{event}", "a")
    if {"{", "}"} & set(plain):
        raise ValidationError("Only {instance} and {event} may stand in braces.")
    parts = plain.split(".")
    good = _SUBJECT.fullmatch(value) and all(parts) and not {"*", ">"} & set(plain)
    if not good:
        raise ValidationError("Not a valid subject.")
    fixed, brace, _ = value.partition("{")
    inbox = fixed.startswith("_INBOX") or (brace and fixed and "_INBOX".startswith(fixed))
    if inbox or value.startswith("$"):
        raise ValidationError("This subject is the server's own.")


def signing_secret(value: str) -> None:
    """`whsec_` and base64 of 24 to 64 bytes, as Standard Webhooks has it."""
    try:
        key = b64.b64decode(value.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not value.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValidationError("Must be whsec_ and the base64 of 24 to 64 bytes.")


def order_by(value: str) -> None:
    """A dotted path that begins with `data`."""
    if len(value) > 200 or not _ORDER_BY.fullmatch(value):
        raise ValidationError("Must be a dotted path into data, such as data.key.remoteJid.")


# --- one schema a sink -----------------------------------------------------------------------


class Common(Schema):
    """What every subscription has."""

    class Meta:
        unknown = EXCLUDE  # as Evolution API; `_gather` is strict where we are

    needed: ClassVar[tuple[str, ...]] = ()
    """Fields without which it cannot be enabled."""
    together: ClassVar[tuple[str, ...]] = ()
    """Fields of which there are all or none."""

    enabled = Flag()
    events = Events(allow_none=True, load_default=list)
    format = fields.String(
        allow_none=True, load_default="standard", validate=validate.OneOf(FORMATS)
    )
    concurrency = Whole(allow_none=True, load_default=8, validate=validate.Range(1, 64))
    orderBy = fields.String(allow_none=True, load_default="data.key.remoteJid", validate=order_by)
    onFailure = fields.String(
        allow_none=True, load_default="pass", validate=validate.OneOf(("pass", "wait"))
    )
    retry = fields.List(
        Seconds(validate=validate.Range(0, _MAX_RETRY_SECONDS)),
        allow_none=True,
        load_default=None,
        validate=validate.Length(max=_MAX_RETRIES),
    )
    timeout = Seconds(allow_none=True, load_default=30.0, validate=validate.Range(1, 60))


class Webhook(Common):
    """An HTTP POST."""

    needed = ("url",)

    url = fields.String(allow_none=True, load_default=None, validate=web_url)
    headers = Headers(allow_none=True, load_default=dict)
    byEvents = Flag(allow_none=True, load_default=False)
    base64 = Flag(allow_none=True, load_default=False)
    secret = fields.String(allow_none=True, load_default=None, validate=signing_secret)


class Websocket(Common):
    """Whoever is connected."""


class Rabbitmq(Common):
    """A topic exchange."""

    exchange = fields.String(allow_none=True, load_default="evolution-events", validate=exchange)
    mandatory = Flag(allow_none=True, load_default=True)


class Nats(Common):
    """A subject; `{instance}` and `{event}` in it are filled in."""

    subject = fields.String(allow_none=True, load_default="evolution.events", validate=subject)
    jetstream = Flag(allow_none=True, load_default=True)
    createStream = Flag(allow_none=True, load_default=False)


_WORD: Final = matching(_TOKEN, "Must be 1 to 128 printable characters without space.")


def guarantee(sink: str, settings: Mapping[str, Any]) -> str | None:
    """What a sink whose guarantee depends on its settings promises; None for all others."""
    if sink != "nats":
        return None
    return "at-least-once" if settings.get("jetstream", True) else "at-most-once"


class Sqs(Common):
    """A queue. Without keys of its own it is reached with the server's."""

    needed = ("queueUrl",)
    together = ("accessKeyId", "secretAccessKey")

    queueUrl = fields.String(allow_none=True, load_default=None, validate=web_url)
    accessKeyId = fields.String(allow_none=True, load_default=None, validate=_WORD)
    secretAccessKey = fields.String(allow_none=True, load_default=None, validate=_WORD)


class Pusher(Common):
    """Channels of an app."""

    needed = ("appId", "key", "secret", "cluster")

    appId = fields.String(
        allow_none=True,
        load_default=None,
        validate=matching(re.compile(r"[0-9]{1,40}", re.ASCII), "Must be digits."),
    )
    key = fields.String(allow_none=True, load_default=None, validate=_WORD)
    secret = fields.String(allow_none=True, load_default=None, validate=_WORD)
    cluster = fields.String(
        allow_none=True,
        load_default=None,
        # It becomes part of a host name.
        validate=matching(
            re.compile(r"[A-Za-z0-9\-]{1,50}", re.ASCII), "Must be letters, digits or -."
        ),
    )
    useTLS = Flag(allow_none=True, load_default=True)
    oversize = fields.String(
        allow_none=True,
        load_default="reject",
        validate=validate.OneOf(("reject", "reference")),
    )


SCHEMAS: Final[Mapping[str, Common]] = {
    "webhook": Webhook(),
    "websocket": Websocket(),
    "rabbitmq": Rabbitmq(),
    "nats": Nats(),
    "sqs": Sqs(),
    "pusher": Pusher(),
}
"""In the order of the seed and of every answer. A new sink is one line here."""

SINKS: Final[tuple[str, ...]] = tuple(SCHEMAS)

COMMON: Final[tuple[str, ...]] = tuple(Common().fields)

_NULL_IS_VALUE: Final = frozenset({"orderBy"})
"""Where null says "none" and not "as by default"."""

_EMPTY_IS_UNSET: Final = frozenset(
    {"url", "queueUrl", "accessKeyId", "secretAccessKey", "appId", "key", "secret", "cluster"}
)
"""Clients that switch a sink off send its address as an empty string."""


def setting_names(sink: str) -> list[str]:
    """The fields that only this sink has, in the order of answers; the webhook's signing
    secret is not one: it lies in a column of its own."""
    names = [each for each in SCHEMAS[sink].fields if each not in COMMON]
    return [each for each in names if (sink, each) != ("webhook", "secret")]


def defaults(sink: str) -> dict[str, Any]:
    """What a new subscription has where nothing is said; `enabled` has no default."""
    values = {}
    for field, kind in SCHEMAS[sink].fields.items():
        default = kind.load_default
        if default is not missing:
            values[field] = default() if callable(default) else default
    return values


@dataclass(frozen=True, slots=True)
class Patch:
    """The fields of one subscription that a body names, each checked for itself."""

    sink: str
    given: Mapping[str, Any]
    at: str
    """Where they stood in the body, for sentences: "webhook", or "" at the top."""


def _revealed(patch: Patch, field: str, given: Any, stored: Any) -> Any:
    try:
        return masks.reveal(patch.sink, field, given, stored)
    except masks.NothingBehind as error:
        at = _join(patch.at, str(error))
        raise BadInput(_sentence(at, "The mask stands for nothing: no value is stored.")) from error


def merge(patch: Patch, stored: Mapping[str, Any] | None, enabled: bool | None) -> dict[str, Any]:
    """The whole subscription: the patch over what is stored, or over the defaults.

    `enabled` is taken where neither says; None: somebody has to say. Raises `BadInput`.
    """
    base = defaults(patch.sink)
    merged = dict(base if stored is None else stored)
    if enabled is not None:
        merged.setdefault("enabled", enabled)
    for field, value in patch.given.items():
        value = _revealed(patch, field, value, merged.get(field))
        merged[field] = base[field] if value is None and field not in _NULL_IS_VALUE else value
    faults = [field for field in ("enabled",) if field not in merged]
    if merged.get("enabled"):
        faults += [field for field in SCHEMAS[patch.sink].needed if merged[field] is None]
    together = SCHEMAS[patch.sink].together
    if any(merged[field] is not None for field in together):
        faults += [field for field in together if merged[field] is None]
    if faults:
        raise BadInput(*(_sentence(_join(patch.at, field), REQUIRED) for field in faults))
    return merged


# --- bodies ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewInstance:
    """The body of `POST /instance/create`."""

    name: str
    integration: str
    token: str | None
    """None: the server draws one."""
    number: str | None
    sinks: Mapping[str, Patch]


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """The body of `POST /subscription/<instance>`."""

    name: str
    patch: Patch


def set_body(sink: str, body: Mapping[str, Any]) -> Patch:
    """`POST /<sink>/set/<instance>`: nested, flat or aliased. Raises `BadInput`."""
    given = _gather(sink, body, flat=True)
    if given is None:
        raise BadInput(_sentence(sink, REQUIRED))
    return _checked(sink, given, sink)


def event_body(body: Mapping[str, Any]) -> dict[str, Patch]:
    """`POST /event/set/<instance>`: at least one sink. Raises `BadInput`."""
    patches = _sinks(body)
    if not patches:
        raise BadInput(f"At least one of {', '.join(SINKS)} is required.")
    return patches


def token_body(body: Mapping[str, Any]) -> str | None:
    """`POST /instance/rotateToken/<i>`: a token, or None to draw one. Raises `BadInput`."""
    token: str | None = _load(_Token(), body, "").get("token")
    return token


def create_body(body: Mapping[str, Any]) -> NewInstance:
    """`POST /instance/create`. Raises `BadInput`."""
    faults: list[str] = []
    loaded: dict[str, Any] = {}
    patches: dict[str, Patch] = {}
    try:
        loaded = _load(_Instance(), body, "")
    except BadInput as error:
        faults += error.messages
    try:
        patches = _sinks(body)
    except BadInput as error:
        faults += error.messages
    integration = body.get("integration")
    if integration is not None and integration not in INTEGRATIONS:
        faults.append("Invalid integration")
    if faults:
        raise BadInput(*faults[:MAX_FAULTS])
    return NewInstance(
        name=loaded["instanceName"],
        integration=integration or "EVOLUTION",
        token=loaded.get("token"),
        number=loaded.get("number"),
        sinks=patches,
    )


def new_subscription(body: Mapping[str, Any]) -> NewSubscription:
    """`POST /subscription/<instance>`. Raises `BadInput`."""
    head = _load(_Head(), body, "")
    rest = {field: value for field, value in body.items() if field not in ("name", "sink")}
    sink = head["sink"]
    if head["name"] in SCHEMAS and head["name"] != sink:
        raise BadInput(f"name: {head['name']} is kept for the sink of that name.")
    return NewSubscription(head["name"], _checked(sink, _strict(sink, rest), ""))


def subscription_patch(name: str, sink: str, body: Mapping[str, Any]) -> Patch:
    """`PUT /subscription/<instance>/<name>` of a subscription of this sink. Raises `BadInput`."""
    rest = dict(body)
    fixed = {"name": name, "sink": sink}
    faults = [
        _sentence(field, "Cannot be changed.")
        for field, value in fixed.items()
        if rest.pop(field, value) != value
    ]
    if faults:
        raise BadInput(*faults)
    return _checked(sink, _strict(sink, rest), "")


class _Token(Schema):
    token = fields.String(allow_none=True, validate=_WORD)


class _Instance(Schema):
    class Meta:
        unknown = EXCLUDE

    instanceName = fields.String(required=True, validate=name)
    token = fields.String(allow_none=True, validate=_WORD)
    number = fields.String(
        allow_none=True,
        validate=[validate.Length(max=100), matching(_NUMBER, "Not a valid number.")],
    )


class _Head(Schema):
    class Meta:
        unknown = EXCLUDE

    name = fields.String(required=True, validate=name)
    sink = fields.String(required=True, validate=validate.OneOf(SINKS))


def _sinks(body: Mapping[str, Any]) -> dict[str, Patch]:
    patches: dict[str, Patch] = {}
    faults: list[str] = []
    for sink in SINKS:
        try:
            given = _gather(sink, body, flat=False)
            if given is not None:
                patches[sink] = _checked(sink, given, sink)
        except BadInput as error:
            faults += error.messages
    if faults:
        raise BadInput(*faults[:MAX_FAULTS])
    return patches


def _checked(sink: str, given: Mapping[str, Any], at: str) -> Patch:
    unset = _EMPTY_IS_UNSET & set(setting_names(sink))
    plain = {field: None if v == "" and field in unset else v for field, v in given.items()}
    return Patch(sink, _load(SCHEMAS[sink], plain, at, partial=True), at)


# --- the spellings ---------------------------------------------------------------------------


def _snake(text: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()


def _prefixed(sink: str) -> dict[str, str]:
    """`webhookByEvents` and `webhook_by_events` to `byEvents`."""
    found = {}
    for field in SCHEMAS[sink].fields:
        found[sink + field[0].upper() + field[1:]] = field
        found[f"{sink}_{_snake(field)}"] = field
    return found


_PREFIXED: Final = {sink: _prefixed(sink) for sink in SINKS}
_SPELLINGS: Final = {
    sink: {field: field for field in SCHEMAS[sink].fields} | _PREFIXED[sink] for sink in SINKS
}


def _gather(sink: str, body: Mapping[str, Any], *, flat: bool) -> dict[str, Any] | None:
    """The fields of one sink under their own names; None where the body names nothing of it.

    `flat`: the body is about this sink alone, so bare names at the top count as well,
    where there is no nested object.
    """
    nested = body.get(sink)
    if nested is None and (sink not in body or not flat):
        top = _SPELLINGS[sink] if flat else _PREFIXED[sink]
        found = _renamed(body, top, sink)
        return found or None
    if not isinstance(nested, dict):
        raise BadInput(_sentence(sink, "Not an object."))
    return _renamed(body, _PREFIXED[sink], sink, _renamed(nested, _SPELLINGS[sink], sink))


def _strict(sink: str, body: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [each for each in body if each not in _SPELLINGS[sink] and each not in READ_ONLY]
    if unknown:
        raise BadInput(
            *(_sentence(_shown(each), "Unknown field.") for each in unknown[:MAX_FAULTS])
        )
    return _renamed(body, _SPELLINGS[sink], "")


def _renamed(
    body: Mapping[str, Any],
    spellings: Mapping[str, str],
    at: str,
    found: dict[str, Any] | None = None,
) -> dict[str, Any]:
    found = {} if found is None else found
    for spelling, value in body.items():
        field = spellings.get(spelling)
        if field is None:
            continue
        if field in found and not _same(found[field], value):
            raise BadInput(_sentence(_join(at, field), "Given twice, with different values."))
        found[field] = value
    return found


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


# --- what is asked for -----------------------------------------------------------------------


class Event(fields.String):
    """A name out of the catalogue in any spelling."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        found = events.canonical(value) if isinstance(value, str) else None
        if found is None:
            raise ValidationError(f"Not an event: {_shown(value)}.")
        return found


class Moment(fields.Field[float]):
    """ISO 8601 (UTC where it names no offset) or Unix seconds, as Unix seconds."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError(value)
            try:
                found = float(value)
            except ValueError:
                at = datetime.fromisoformat(str(value))
                found = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
            if not 0 <= found < 1e11:
                raise ValueError(value)
        except (ValueError, OverflowError) as error:
            raise ValidationError("Not a date in ISO 8601 or Unix seconds.") from error
        return found


class _Lanes(Schema):
    instance = fields.String(validate=name)
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


class _Letters(Schema):
    instance = fields.String(validate=name)
    subscription = fields.String(validate=name)
    sink = fields.String(validate=validate.OneOf(SINKS))
    event = Event()
    reason = fields.String(validate=matching(_TOKEN, "Not a reason."))
    code = fields.String(validate=validate.Length(max=40))
    since = Moment()
    until = Moment()
    text = fields.String(validate=validate.Length(1, 200))


class _LettersPage(_Letters):
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


class _Skip(Schema):
    eventId = fields.String(validate=validate.Length(1, 128))


class _Purge(Schema):
    confirm = Whole(required=True, validate=validate.Range(0, 2**53))


class _AuditLog(Schema):
    instance = fields.String(validate=name)
    subscription = fields.String(validate=name)
    action = fields.String(validate=matching(_TOKEN, "Not an action."))
    by = fields.String(validate=validate.Length(1, 120))
    since = Moment()
    until = Moment()
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


class _LettersMany(_Letters):
    limit = Whole(validate=validate.Range(1, 10_000_000))
    dryRun = Flag()


class _LettersOnto(_LettersMany):
    onto = fields.String(validate=name)


class _LetterOnto(Schema):
    onto = fields.String(validate=name)


class _Operations(Schema):
    instance = fields.String(validate=name)
    state = fields.String(validate=validate.OneOf(("running", "done", "cancelled", "failed")))
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


OUTCOMES: Final = ("delivered", "refused", "rejected", "unreachable", "ambiguous")
"""What an attempt may have come to."""


class _Attempts(Schema):
    instance = fields.String(validate=name)
    subscription = fields.String(validate=name)
    event = Event()
    event_id = fields.String(data_key="id", validate=matching(EVENT_ID, "Not the id of an event."))
    outcome = fields.String(validate=validate.OneOf(OUTCOMES))
    since = Moment()
    until = Moment()
    after = fields.Integer(validate=validate.Range(0, 2**53))
    limit = fields.Integer(validate=validate.Range(1, 500))


def attempts_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /attempt`: a filter, `after` and `limit`. Raises `BadInput`."""
    return _load(_Attempts(), query, "")


def lanes_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /lane`: `instance`, `after`, `limit`. Raises `BadInput`, also for what it is not."""
    return _load(_Lanes(), query, "")


def skip_body(body: Mapping[str, Any]) -> str | None:
    """`POST /lane/<instance>/<name>/skip`: the event id that the head must have, if any. Raises
    `BadInput`."""
    given = _load(_Skip(), body, "")
    return None if not given else str(given["eventId"])


def purge_body(body: Mapping[str, Any]) -> int:
    """`POST /lane/<instance>/<name>/purge`: the backlog that is meant. Raises `BadInput`."""
    return int(_load(_Purge(), body, "")["confirm"])


def audit_log_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /audit-log`: a filter, `after` and `limit`. Raises `BadInput`."""
    return _load(_AuditLog(), query, "")


def letters_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /deadletter`: a filter, `after` and `limit`. Raises `BadInput`."""
    return _load(_LettersPage(), query, "")


def letters_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /deadletter/discard`: a filter, `limit`, `dryRun`. Raises `BadInput`."""
    return _load(_LettersMany(), body, "")


def requeue_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /deadletter/requeue`: the same, and `onto`. Raises `BadInput`."""
    return _load(_LettersOnto(), body, "")


def requeue_one_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /deadletter/<id>/requeue`: `onto`. Raises `BadInput`."""
    return _load(_LetterOnto(), body, "")


def operations_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /operation`: `instance`, `state`, `after`, `limit`. Raises `BadInput`."""
    return _load(_Operations(), query, "")


class _Replay(Schema):
    instance = fields.String(required=True, validate=name)
    onto = fields.String(required=True, validate=name)
    ids = fields.List(
        fields.String(validate=matching(EVENT_ID, "Not an event's id.")),
        validate=validate.Length(1, 500),
    )
    since = Moment()
    until = Moment()
    events = fields.List(Event(), validate=validate.Length(1, _MAX_EVENTS))
    rate = fields.Float(validate=validate.Range(0.1, 10_000))
    dryRun = Flag()


def replay_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /replay`: `instance`, `onto`, and `ids` or a time; `events`, `rate`, `dryRun`. Raises
    `BadInput`."""
    asked = _load(_Replay(), body, "")
    timed = "since" in asked or "until" in asked
    if ("ids" in asked) == timed:
        raise BadInput("Name the events by ids, or by the time since and until which they came.")
    if "ids" in asked:
        asked["ids"] = list(dict.fromkeys(asked["ids"]))
    return asked


class _DrawKey(Schema):
    kind = fields.String(load_default="symmetric", validate=validate.OneOf(KINDS))
    graceSeconds = fields.Float(load_default=86_400.0, validate=validate.Range(0, 2_592_000))


def draw_key_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /subscription/<i>/<name>/secret`: `kind`, `graceSeconds`. Raises `BadInput`."""
    return _load(_DrawKey(), body, "")


def kind_query(given: Mapping[str, str]) -> tuple[str, ...]:
    """`DELETE /subscription/<i>/<name>/secret`: `kind`, or both. Raises `BadInput`."""
    kind = given.get("kind")
    if kind is not None and kind not in KINDS:
        raise BadInput(f"kind: Must be one of: {', '.join(KINDS)}.")
    return KINDS if kind is None else (kind,)


class _Trial(Schema):
    event = Event()
    data = fields.Raw(allow_none=True)


def trial(body: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /subscription/<i>/<name>/test`: `event` and `data`, or neither. Raises `BadInput`."""
    return _load(_Trial(), body, "")


class _TrialQuery(Schema):
    wait = fields.Float(validate=validate.Range(0, 35))


def trial_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """Its query: `wait`, how many seconds to wait for the answer. Raises `BadInput`."""
    return _load(_TrialQuery(), query, "")


# --- marshmallow's one door ------------------------------------------------------------------


def _load(schema: Schema, body: Mapping[str, Any], at: str, **how: Any) -> dict[str, Any]:
    try:
        return dict(schema.load(body, **how))
    except ValidationError as error:
        faults = list(_sentences(error.messages, at))
        raise BadInput(*faults[:MAX_FAULTS]) from error


def _sentences(messages: Any, at: str) -> Iterator[str]:
    """marshmallow's tree of faults as sentences, each with its place."""
    if isinstance(messages, Mapping):
        for key, below in messages.items():
            yield from _sentences(below, at if key == "_schema" else _join(at, key))
    elif isinstance(messages, Iterable) and not isinstance(messages, str):
        for each in messages:
            yield from _sentences(each, at)
    else:
        yield _sentence(at, str(messages))


def _join(at: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{at}[{key}]"
    return f"{at}.{key}" if at else key


def _sentence(at: str, text: str) -> str:
    return f"{at}: {text}" if at else text


def _shown(value: Any) -> str:
    """A caller's own word in a sentence, short and printable."""
    text = value if isinstance(value, str) else type(value).__name__
    text = "".join(each if each.isprintable() else "?" for each in text[:60])
    return text + ("..." if isinstance(value, str) and len(value) > 60 else "")
