"""Messages that are signed: two keys, and somebody who has only what a receiver has."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook

from evoflask import receiver, signing
from evoflask.signing import SigningKey
from evoflask.sinks.base import Delivery

SECRET = signing.new_secret()
PRIVATE = signing.new_private_key()
PUBLIC = signing.public_key(PRIVATE)
LINES = {"webhook-id", "webhook-timestamp", "webhook-signature"}


def signed(one: Delivery) -> Delivery:
    """The same, of a subscription with a secret and an ed25519 key."""
    keys = (SigningKey(SECRET), SigningKey(PRIVATE))
    return dataclasses.replace(one, target=dataclasses.replace(one.target, keys=keys))


def check(headers: Mapping[str, Any], body: bytes, event_id: str) -> None:
    """By the official library, by cryptography, and by what receivers copy from us."""
    lines = {name: str(headers[name]) for name in LINES}
    assert lines["webhook-id"] == event_id
    Webhook(SECRET).verify(body, lines)
    [last] = [s for s in lines["webhook-signature"].split() if s.startswith("v1a,")]
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(PUBLIC.removeprefix("whpk_")))
    said = f"{event_id}.{lines['webhook-timestamp']}.".encode() + body
    public.verify(base64.b64decode(last.removeprefix("v1a,")), said)
    for key in (SECRET, PUBLIC):
        assert receiver.verify(key, headers, body).id == event_id
