"""Bodies that change configuration, nested, flat or under the names of Evolution API's clients.

`_gather` makes one of them all. Nothing here asks the database.
"""
# ruff: noqa: N815 - fields carry the contract's own names

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from marshmallow import EXCLUDE, Schema, fields, validate

from evoflask.errors import BadInput
from evoflask.schemas import extra
from evoflask.schemas.extra import READ_ONLY
from evoflask.schemas.faults import MAX_FAULTS, REQUIRED, join, load, sentence, unknown_field
from evoflask.schemas.fields import NUMBER, WORD, Matching, name
from evoflask.schemas.sinks import EMPTY_IS_UNSET, SCHEMAS, SINKS, Patch, setting_names
from evoflask.spelling import shown

INTEGRATIONS: Final = ("WHATSAPP-BAILEYS", "WHATSAPP-BUSINESS", "EVOLUTION")


@dataclass(frozen=True, slots=True)
class NewInstance:
    """The body of `POST /instance/create`."""

    name: str
    integration: str
    token: str | None
    """None: the server draws one."""
    number: str | None
    sinks: Mapping[str, Patch]
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """The changes of a body by sink, and sentences about ignored fields."""

    patches: Mapping[str, Patch]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """The body of `POST /subscription/<instance>`."""

    name: str
    patch: Patch


def set_body(sink: str, body: Mapping[str, Any]) -> Given:
    """`POST /<sink>/set/<instance>`: nested, flat or aliased. Raises `BadInput`."""
    faults: list[str] = []
    given = _gather(sink, body, flat=True)
    if given is None:
        faults.append(sentence(sink, REQUIRED))
    taken = {sink, *_SPELLINGS[sink]}
    warnings = _collect(faults, lambda: extra.check(body, "set", "", taken, [sink, *_names(sink)]))
    warnings += _collect(faults, lambda: _check_nested(sink, body))
    if faults or given is None:
        raise BadInput(*faults[:MAX_FAULTS])
    return Given({sink: _checked(sink, given, sink)}, warnings)


def event_body(body: Mapping[str, Any]) -> Given:
    """`POST /event/set/<instance>`: at least one sink. Raises `BadInput`."""
    faults: list[str] = []
    warnings = _collect(faults, lambda: extra.check(body, "several", "", _TOP, SINKS))
    try:
        found = _sinks(body)
    except BadInput as error:
        raise BadInput(*[*faults, *error.messages][:MAX_FAULTS]) from error
    if not found.patches:
        faults.append(f"At least one of {', '.join(SINKS)} is required.")
    if faults:
        raise BadInput(*faults[:MAX_FAULTS])
    return Given(found.patches, [*warnings, *found.warnings])


def token_body(body: Mapping[str, Any]) -> str | None:
    """`POST /instance/rotateToken/<i>`: a token, or None to draw one. Raises `BadInput`."""
    token: str | None = load(TokenBody(), body, "").get("token")
    return token


def create_body(body: Mapping[str, Any]) -> NewInstance:
    """`POST /instance/create`. Raises `BadInput`."""
    faults: list[str] = []
    loaded: dict[str, Any] = {}
    sinks = Given({}, ())
    try:
        loaded = load(InstanceBody(), body, "")
    except BadInput as error:
        faults += error.messages
    warnings = _collect(faults, lambda: extra.check(body, "create", "", _CREATE, extra.CREATE))
    try:
        sinks = _sinks(body)
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
        sinks=sinks.patches,
        warnings=[*warnings, *sinks.warnings],
    )


def new_subscription(body: Mapping[str, Any]) -> NewSubscription:
    """`POST /subscription/<instance>`. Raises `BadInput`."""
    head = load(SubscriptionHead(), body, "")
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
        sentence(field, "Cannot be changed.")
        for field, value in fixed.items()
        if rest.pop(field, value) != value
    ]
    if faults:
        raise BadInput(*faults)
    return _checked(sink, _strict(sink, rest), "")


class TokenBody(Schema):
    token = fields.String(allow_none=True, validate=WORD)


class InstanceBody(Schema):
    class Meta:
        unknown = EXCLUDE

    instanceName = fields.String(required=True, validate=name)
    token = fields.String(allow_none=True, validate=WORD)
    number = fields.String(
        allow_none=True,
        validate=[validate.Length(max=100), Matching(NUMBER, "Not a valid number.")],
    )


class SubscriptionHead(Schema):
    class Meta:
        unknown = EXCLUDE

    name = fields.String(required=True, validate=name)
    sink = fields.String(required=True, validate=validate.OneOf(SINKS))


def _collect(faults: list[str], check: Callable[[], list[str]]) -> list[str]:
    """Return the warnings of a check, or add its refusals to `faults`."""
    try:
        return check()
    except BadInput as error:
        faults += error.messages
        return []


def _names(sink: str) -> list[str]:
    """Return the fields of a sink in one spelling each, as a refusal lists them."""
    return list(SCHEMAS[sink].fields)


def _check_nested(sink: str, body: Mapping[str, Any]) -> list[str]:
    nested = body.get(sink)
    if not isinstance(nested, dict):
        return []
    return extra.check(nested, "sink", sink, _SPELLINGS[sink], _names(sink))


def _sinks(body: Mapping[str, Any]) -> Given:
    patches: dict[str, Patch] = {}
    faults: list[str] = []
    warnings: list[str] = []
    for sink in SINKS:
        try:
            given = _gather(sink, body, flat=False)
            warnings += _check_nested(sink, body)
            if given is not None:
                patches[sink] = _checked(sink, given, sink)
        except BadInput as error:
            faults += error.messages
    if faults:
        raise BadInput(*faults[:MAX_FAULTS])
    return Given(patches, warnings)


def _checked(sink: str, given: Mapping[str, Any], at: str) -> Patch:
    unset = EMPTY_IS_UNSET & set(setting_names(sink))
    plain = {field: None if v == "" and field in unset else v for field, v in given.items()}
    return Patch(sink, load(SCHEMAS[sink], plain, at, partial=True), at)


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

_TOP: Final = frozenset({*SINKS, *(each for sink in SINKS for each in _PREFIXED[sink])})
"""Fields that are read at the top of a body about several sinks."""
_CREATE: Final = _TOP | frozenset(extra.CREATE)


def _gather(sink: str, body: Mapping[str, Any], *, flat: bool) -> dict[str, Any] | None:
    """The fields of one sink under their own names; None where the body names nothing of it.

    `flat`: the body is about this sink alone, so bare names at the top count as well.
    """
    nested = body.get(sink)
    top = _SPELLINGS[sink] if flat else _PREFIXED[sink]
    if nested is None and (sink not in body or not flat):
        return _renamed(body, top, sink) or None
    if not isinstance(nested, dict):
        raise BadInput(sentence(sink, "Not an object."))
    return _renamed(body, top, sink, _renamed(nested, _SPELLINGS[sink], sink))


def _strict(sink: str, body: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [each for each in body if each not in _SPELLINGS[sink] and each not in READ_ONLY]
    if unknown:
        names = ["name", "sink", *_names(sink)]
        faults = (sentence(shown(each), unknown_field(each, names)) for each in unknown)
        raise BadInput(*islice(faults, MAX_FAULTS))
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
            raise BadInput(sentence(join(at, field), "Given twice, with different values."))
        found[field] = value
    return found


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
