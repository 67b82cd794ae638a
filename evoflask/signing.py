"""Standard Webhooks signatures: keys, an id, a time and bytes in, a header out. Pure.

The headers are `webhook-id`, `webhook-timestamp` and `webhook-signature`; receivers verify
them with any library of https://www.standardwebhooks.com. Two schemes, as its specification has
them: `v1`, HMAC-SHA256 by a secret that both sides have (`whsec_`), and `v1a`, ed25519, whose
private key (`whsk_`) stays here while receivers have the public one (`whpk_`).

A replaced key signs beside the new one for a while, so that receivers can change one after the
other. The header then has several signatures, and one that fits is enough.

`bearer` makes another kind of proof: the token that Evolution API signs with a webhook's `jwt_key`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX: Final = "whsec_"
PRIVATE: Final = "whsk_"
PUBLIC: Final = "whpk_"
KEY_BYTES: Final = (24, 64)
"""How long a secret may be, after decoding."""
SYMMETRIC: Final = "symmetric"
ED25519: Final = "ed25519"
KINDS: Final = (SYMMETRIC, ED25519)
SINKS: Final = ("webhook", "rabbitmq", "nats", "sqs")
"""Whose messages can be signed: those that carry headers to somebody who may not know us."""
OLDER: Final = 2
"""Replaced keys of a kind that go on signing; with one more, the oldest ends."""
JWT_KEY: Final = "jwt_key"
"""A webhook's header that is never sent: its value signs a Bearer. In lower case."""
JWT_SECONDS: Final = 600
"""Seconds from `iat` to `exp` of a Bearer, as Evolution API 2.3.7 has it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`whsec_…` or `whsk_…`. `until`: Unix seconds, of one that was replaced; None: in use."""

    text: str
    until: float | None = None

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return ED25519 if self.text.startswith(PRIVATE) else SYMMETRIC

    def __repr__(self) -> str:
        return f"SigningKey({self.kind}, until={self.until})"


def new_secret() -> str:
    """A secret with 32 random bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def new_private_key() -> str:
    """An ed25519 key: 32 random bytes."""
    return PRIVATE + base64.b64encode(secrets.token_bytes(32)).decode()


def public_key(private: str) -> str:
    """What receivers verify `v1a` with: `whpk_` and the base64 of 32 bytes."""
    return PUBLIC + base64.b64encode(_ed25519(private).public_key().public_bytes_raw()).decode()


def key_of(secret: str) -> bytes:
    """The key inside a secret `whsec_<base64>`. ValueError says what is wrong with it,
    without showing it."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"must begin with {PREFIX}")
    try:
        key = base64.b64decode(secret[len(PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"must be {PREFIX} and base64") from None
    low, high = KEY_BYTES
    if not low <= len(key) <= high:
        raise ValueError(f"must hold {low} to {high} bytes")
    return key


@functools.lru_cache(maxsize=4096)
def _keyed(secret: str) -> hmac.HMAC:
    return hmac.new(key_of(secret), digestmod="sha256")


@functools.lru_cache(maxsize=4096)
def _ed25519(private: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(private.removeprefix(PRIVATE)))


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """One signature of `webhook-signature`. `timestamp`: Unix seconds of this attempt.
    ValueError when the secret is none."""
    if secret.startswith(PRIVATE):
        signed = _ed25519(secret).sign(f"{event_id}.{timestamp}.".encode() + body)
        return "v1a," + base64.b64encode(signed).decode()
    mac = _keyed(secret).copy()  # hashing the key anew costs as much as a body of 1 kB
    mac.update(f"{event_id}.{timestamp}.".encode())
    mac.update(body)
    return "v1," + base64.b64encode(mac.digest()).decode()


def sign_all(keys: Sequence[SigningKey], event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one of each key whose time is not over, in their order.
    "": there is none."""
    return " ".join(
        sign(key.text, event_id, timestamp, body)
        for key in keys
        if key.until is None or key.until > timestamp
    )


def headers(
    keys: Sequence[SigningKey], event_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The three headers of a signed message; {}: there is no key whose time is not over."""
    if not keys or not (signed := sign_all(keys, event_id, timestamp, body)):
        return {}
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signed,
    }


def jwt_key_of(headers: Mapping[str, object]) -> str:
    """Return the value of the header `jwt_key`, in any case; "" without one."""
    return next((str(value) for name, value in headers.items() if name.lower() == JWT_KEY), "")


def bearer(key: str, now: int) -> str:
    """Return the value of `Authorization` that Evolution API 2.3.7 makes of a `jwt_key`.

    A JSON Web Token (RFC 7519) signed by HS256 (RFC 7515). `now`: Unix seconds of the attempt.
    """
    claims = {"iat": now, "exp": now + JWT_SECONDS, "app": "evolution", "action": "webhook"}
    signed = f"{_JWT_HEAD}.{_base64url(json.dumps(claims, separators=(',', ':')).encode())}"
    mac = hmac.digest(key.encode(), signed.encode(), "sha256")
    return f"Bearer {signed}.{_base64url(mac)}"


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


_JWT_HEAD: Final = _base64url(b'{"alg":"HS256","typ":"JWT"}')


# --- which keys there are ---------------------------------------------------------------------


def replace(
    keys: Iterable[SigningKey], kind: str, text: str, *, now: float, grace: float
) -> list[SigningKey]:
    """The keys once `text` is the one of its kind: what was in use signs on for `grace` seconds,
    those whose time is over are left out. The new one comes first."""
    older = []
    for key in keys:
        if key.kind == kind and key.until is None:
            older.append(SigningKey(key.text, now + grace))
        else:
            older.append(key)
    kept = [key for key in older if key.until is None or key.until > now]
    return [SigningKey(text), *_newest(kept, kind)]


def without(keys: Iterable[SigningKey], kind: str) -> list[SigningKey]:
    """The keys of the other kind."""
    return [key for key in keys if key.kind != kind]


def in_use(keys: Iterable[SigningKey], kind: str) -> SigningKey | None:
    """The key of a kind that was not replaced."""
    return next((key for key in keys if key.kind == kind and key.until is None), None)


def _newest(keys: Sequence[SigningKey], kind: str) -> list[SigningKey]:
    left, found = OLDER, []
    for key in keys:  # the newest first
        if key.kind == kind:
            left -= 1
            if left < 0:
                continue
        found.append(key)
    return found
