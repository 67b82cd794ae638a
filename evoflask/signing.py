"""Standard Webhooks signatures: a secret, an id, a time and bytes in, a header out. Pure.

The headers are `webhook-id`, `webhook-timestamp` and `webhook-signature`; receivers verify
them with any library of https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import secrets

PREFIX = "whsec_"
KEY_BYTES = (24, 64)
"""How long a key may be, after decoding."""


def new_secret() -> str:
    """A secret with 32 random bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


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


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`. `timestamp`: Unix seconds of this attempt.
    ValueError when the secret is none."""
    mac = _keyed(secret).copy()  # hashing the key anew costs as much as a body of 1 kB
    mac.update(f"{event_id}.{timestamp}.".encode())
    mac.update(body)
    return "v1," + base64.b64encode(mac.digest()).decode()
