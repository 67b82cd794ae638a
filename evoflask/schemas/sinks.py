"""One schema a sink, and what a patch makes of what is stored."""
# ruff: noqa: N815 - fields carry the contract's own names

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from marshmallow import Schema, fields, missing, validate

from evoflask import masks, ordering
from evoflask.errors import BadInput
from evoflask.schemas.faults import REQUIRED, join, sentence
from evoflask.schemas.fields import (
    WORD,
    Events,
    Flag,
    Headers,
    Matching,
    OrderBy,
    Seconds,
    Statuses,
    Whole,
    exchange,
    signing_secret,
    subject,
    web_url,
)

FORMATS: Final = ("standard",)
_AWS: Final = "https://sqs.eu-west-1.amazonaws.com"
GIVE_UP_ON: Final = (400, 410, 413, 422)
"""Statuses that end a webhook's event at once; `giveUpOn` replaces them. They concern the event, or
a receiver that is gone. Others (401, 403, 404) also come from a receiver being redeployed."""
MAX_RETRIES: Final = 20
MAX_RETRY_SECONDS: Final = 604_800


class Common(Schema):
    """What every subscription has."""

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
    orderBy = OrderBy(allow_none=True, load_default=ordering.CONVERSATION)
    onFailure = fields.String(
        allow_none=True, load_default="pass", validate=validate.OneOf(("pass", "wait"))
    )
    retry = fields.List(
        Seconds(validate=validate.Range(0, MAX_RETRY_SECONDS)),
        allow_none=True,
        load_default=None,
        validate=validate.Length(max=MAX_RETRIES),
    )
    timeout = Seconds(allow_none=True, load_default=30.0, validate=validate.Range(1, 60))


class Webhook(Common):
    """An HTTP POST."""

    needed = ("url",)

    url = fields.String(allow_none=True, load_default=None, validate=web_url)
    headers = Headers(allow_none=True, load_default=dict)
    byEvents = Flag(allow_none=True, load_default=False)
    base64 = Flag(allow_none=True, load_default=False)
    giveUpOn = Statuses(allow_none=True, load_default=lambda: list(GIVE_UP_ON))
    secret = fields.String(allow_none=True, load_default=None, validate=signing_secret)


class Websocket(Common):
    """Whoever is connected."""


class Rabbitmq(Common):
    """A topic exchange."""

    exchange = fields.String(allow_none=True, load_default="evolution-events", validate=exchange)
    mandatory = Flag(allow_none=True, load_default=True)


def oversize() -> fields.String:
    """Make the field for events that are too large for their sink."""
    return fields.String(
        allow_none=True,
        load_default="reject",
        validate=validate.OneOf(("reject", "reference")),
    )


class Nats(Common):
    """A subject; `{instance}` and `{event}` in it are filled in."""

    subject = fields.String(allow_none=True, load_default="evolution.events", validate=subject)
    jetstream = Flag(allow_none=True, load_default=True)
    createStream = Flag(allow_none=True, load_default=False)
    oversize = oversize()


def guarantee(sink: str, settings: Mapping[str, Any]) -> str | None:
    """What a sink whose guarantee depends on its settings promises; None for all others."""
    if sink != "nats":
        return None
    return "at-least-once" if settings.get("jetstream", True) else "at-most-once"


class Sqs(Common):
    """A queue. Without keys of its own it is reached with the server's."""

    needed = ("queueUrl",)
    together = ("accessKeyId", "secretAccessKey")

    queueUrl = fields.String(
        allow_none=True,
        load_default=None,
        validate=web_url,
        metadata={"json": {"format": "sqs-queue-url", "example": f"{_AWS}/123456789012/events"}},
    )
    accessKeyId = fields.String(allow_none=True, load_default=None, validate=WORD)
    secretAccessKey = fields.String(allow_none=True, load_default=None, validate=WORD)
    oversize = oversize()


class Pusher(Common):
    """Channels of an app."""

    needed = ("appId", "key", "secret", "cluster")

    appId = fields.String(
        allow_none=True,
        load_default=None,
        validate=Matching(re.compile(r"[0-9]{1,40}", re.ASCII), "Must be digits."),
    )
    key = fields.String(allow_none=True, load_default=None, validate=WORD)
    secret = fields.String(allow_none=True, load_default=None, validate=WORD)
    cluster = fields.String(
        allow_none=True,
        load_default=None,
        # It becomes part of a host name.
        validate=Matching(
            re.compile(r"[A-Za-z0-9\-]{1,50}", re.ASCII), "Must be letters, digits or -."
        ),
    )
    useTLS = Flag(allow_none=True, load_default=True)
    oversize = oversize()


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

EMPTY_IS_UNSET: Final = frozenset(
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
        at = join(patch.at, str(error))
        raise BadInput(sentence(at, "The mask stands for nothing: no value is stored.")) from error


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
        raise BadInput(*(sentence(join(patch.at, field), REQUIRED) for field in faults))
    return merged
