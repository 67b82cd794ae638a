"""Fields and validators: as strict as JSON is, where marshmallow would take "yes" for true."""

from __future__ import annotations

import base64 as b64
import binascii
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields, validate

from evoflask import events, masks, ordering, signing
from evoflask.ids import NAME, NAME_RULE, name_fault
from evoflask.net import guard
from evoflask.schemas.faults import MAX_FAULTS
from evoflask.spelling import shown

MAX_URL: Final = 2048
MAX_HEADERS: Final = 50
MAX_HEADER_VALUE: Final = 4096
MAX_EVENTS: Final = 1_000
MAX_STATUSES: Final = 100
STATUSES: Final = (300, 999)
"""The lowest and the highest status of a failure."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9._\-]{1,253}", re.ASCII)
EXCHANGE: Final = re.compile(r"[A-Za-z0-9\-_.:]{1,127}", re.ASCII)
SUBJECT: Final = re.compile(r"[!-~]{1,255}", re.ASCII)
TOKEN: Final = re.compile(r"[!-~]{1,128}", re.ASCII)
NUMBER: Final = re.compile(r"[0-9]+[.@A-Za-z0-9_\-]*", re.ASCII)
ORDER_BY: Final = re.compile(r"""data(\.[^.\x00-\x1f\x7f-\x9f"\\]+)*""")
MAX_ORDER_BY: Final = 200
"""Characters of a path."""
MAX_ORDER_PATHS: Final = 10
ORDER_BY_FAULT: Final = (
    "Must be a dotted path into data, such as data.key.remoteJid, a list of them, "
    '"conversation", or null.'
)
_LAST: Final = 1e11
_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?", re.ASCII | re.I)


class Flag(fields.Boolean):
    """`true` or `false`, nothing that resembles them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Whole(fields.Integer):
    """A JSON number without a fraction: 8 and 8.0 are the same one, as JSON Schema has it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            return int(value)
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
        super().__init__(fields.String(), validate=validate.Length(max=MAX_EVENTS), **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> list[str | None]:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        if len(value) > MAX_EVENTS:
            raise ValidationError(f"Longer than maximum length {MAX_EVENTS}.")
        names = [events.canonical(each) if isinstance(each, str) else None for each in value]
        bad = [at for at, name in enumerate(names) if name is None]
        wrong = {at: [events.unknown(value[at])] for at in bad[:MAX_FAULTS]}
        if wrong:
            raise ValidationError(wrong)
        return list(dict.fromkeys(name for name in names if name))


class Statuses(fields.List[int]):
    """HTTP statuses of failures, kept in the order given, each once."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            Whole(validate=failure_status), validate=validate.Length(max=MAX_STATUSES), **kwargs
        )

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> list[int | None]:
        return list(dict.fromkeys(super()._deserialize(value, attr, data, **kwargs)))


class Headers(fields.Dict):
    """Custom headers of a webhook: text to text, and nothing that could end a line."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if len(value) > MAX_HEADERS:
            raise ValidationError(f"Longer than maximum length {MAX_HEADERS}.")
        wrong = {name: [fault] for name, fault in _header_faults(value) if fault}
        if wrong:
            raise ValidationError(wrong)
        return value


def _header_faults(headers: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    seen: set[str] = set()
    for name, value in headers.items():
        lower = name.lower()
        twice = "Given twice." if lower in seen else None
        fault = _key_fault if lower == signing.JWT_KEY else _value_fault
        yield shown(name), _name_fault(name) or fault(value) or twice
        seen.add(lower)


def _name_fault(name: str) -> str | None:
    if not HEADER_NAME.fullmatch(name):
        return "Not a valid header name."
    lower = name.lower()
    if lower in guard.RESERVED_HEADERS or lower.startswith(("webhook-", "proxy-")):
        return "This header is the server's own."
    return None


def _text_fault(value: Any) -> str | None:
    if not isinstance(value, str):
        return "Not a valid string."
    if len(value) > MAX_HEADER_VALUE:
        return f"Longer than maximum length {MAX_HEADER_VALUE}."
    if _CONTROL.search(value):
        return "Must not contain control characters."
    return None


def _key_fault(value: Any) -> str | None:
    """Return the fault of a `jwt_key`, or None. It is never a header: its UTF-8 is a key."""
    if value == "":
        return "Must not be empty: it signs the Bearer. Leave it out to send none."
    fault = _text_fault(value)
    if fault is None and any("\ud800" <= each <= "\udfff" for each in value):
        return "Must be text that UTF-8 can carry."
    return fault


def _value_fault(value: Any) -> str | None:
    fault = _text_fault(value)
    if fault is not None:
        return fault
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return "Must be Latin-1, which is all that a header can carry."
    return None


class OrderBy(fields.Field[str | list[str]]):
    """`"conversation"`, or dotted paths that begin with `data`. A path alone is a list of one."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> str | list[str]:
        if value == ordering.CONVERSATION:
            return ordering.CONVERSATION
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list):
            raise ValidationError(ORDER_BY_FAULT)
        if not 1 <= len(paths) <= MAX_ORDER_PATHS:
            raise ValidationError(f"A list must have 1 to {MAX_ORDER_PATHS} paths.")
        wrong = {at: [_path_fault(path)] for at, path in enumerate(paths) if not _is_path(path)}
        if wrong:
            raise ValidationError([ORDER_BY_FAULT] if isinstance(value, str) else wrong)
        return list(dict.fromkeys(paths))


def _is_path(value: Any) -> bool:
    """Return True for a dotted path that begins with `data`."""
    return (
        isinstance(value, str)
        and len(value) <= MAX_ORDER_BY
        and ORDER_BY.fullmatch(value) is not None
    )


def _path_fault(value: Any) -> str:
    if value == ordering.CONVERSATION:
        return 'Write "conversation" without a list; a list holds dotted paths.'
    return "Must be a dotted path into data, such as data.key.remoteJid."


class Event(fields.String):
    """A name out of the catalogue in any spelling."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        found = events.canonical(value) if isinstance(value, str) else None
        if found is None:
            raise ValidationError(events.unknown(value))
        return found


class Moment(fields.Field[float]):
    """ISO 8601 (UTC where it names no offset) or Unix seconds, as Unix seconds. A date before
    1970 means from the first on; a number that large would be milliseconds."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError(value)
            if not isinstance(value, str) or _SECONDS.fullmatch(value):
                found = float(value)
            else:
                at = datetime.fromisoformat(value)
                found = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
                found = min(max(0.0, found), _LAST)
            if not 0 <= found <= _LAST:
                raise ValueError(value)
        except (ValueError, OverflowError) as error:
            raise ValidationError("Not a date in ISO 8601 or Unix seconds.") from error
        return found


# --- validators ------------------------------------------------------------------------------


def failure_status(value: int) -> None:
    """Refuse a status that is no failure. Statuses above 599 pass: some receivers answer 999."""
    low, high = STATUSES
    if 200 <= value <= 299:
        raise ValidationError(f"{value} means delivered. Name statuses from {low} to {high}.")
    if not low <= value <= high:
        raise ValidationError(f"Must be an HTTP status from {low} to {high}.")


def web_url(value: str) -> None:
    """http or https, with a host, without credentials, control characters or fragment."""
    if len(value) > MAX_URL:
        raise ValidationError(f"Longer than maximum length {MAX_URL}.")
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
        web = value.lower().startswith(("http://", "https://"))
        hint = "" if web else " It must begin with http:// or https://."
        raise ValidationError(f"Not a valid URL.{hint}")
    if "@" in parts.netloc and not masks.is_masked(value):  # that one stands for what is stored
        raise ValidationError("Must not carry a user name or a password.")
    if parts.fragment:
        raise ValidationError("Must not have a fragment.")


def _is_host(host: str | None) -> bool:
    """An address in brackets, or a name that DNS could carry. Raises `ValueError`."""
    if not host or ":" in host:
        return bool(host)
    return bool(_HOST.fullmatch(host.encode("idna").decode()))


class Matching(validate.Validator):
    """The whole string must match; `fault` is what is said where it does not."""

    def __init__(self, pattern: re.Pattern[str], fault: str) -> None:
        self.pattern = pattern
        self.fault = fault

    def __call__(self, value: str) -> str:
        """The same. Raises `ValidationError`."""
        if not self.pattern.fullmatch(value):
            raise ValidationError(self.fault)
        return value


class Name(Matching):
    """The name of an instance or a subscription. The refusal names the rule."""

    def __init__(self) -> None:
        super().__init__(NAME, NAME_RULE)

    def __call__(self, value: str) -> str:
        """Return the name. Raises `ValidationError`."""
        if (fault := name_fault(value)) is not None:
            raise ValidationError(fault)
        return value


name = Name()


def exchange(value: str) -> None:
    """An exchange that one may declare: within AMQP's limits, none of the broker's."""
    if not EXCHANGE.fullmatch(value):
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
    good = SUBJECT.fullmatch(value) and all(parts) and not {"*", ">"} & set(plain)
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


WORD: Final = Matching(TOKEN, "Must be 1 to 128 printable characters without space.")
