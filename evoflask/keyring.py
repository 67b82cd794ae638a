"""The operator's keys: each has a name, for the audit log and for exchanging them one at a time;
some may only look. Instances' tokens are rows, and not here."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

GLOBAL: Final = "global"
"""The name of AUTHENTICATION_API_KEY."""


@dataclass(frozen=True, slots=True)
class Key:
    """One that was found. `read_only`: it may see everything, and change nothing."""

    name: str
    read_only: bool


class Keyring:
    """`api_key` "" for none; the others by name."""

    def __init__(
        self,
        api_key: str,
        more: Sequence[tuple[str, str]] = (),
        read_only: Sequence[tuple[str, str]] = (),
    ) -> None:
        named = [(GLOBAL, api_key)] if api_key else []
        self._texts = dict([*named, *more, *read_only])
        self._keys = [
            *((digest(text), Key(name, read_only=False)) for name, text in [*named, *more]),
            *((digest(text), Key(name, read_only=True)) for name, text in read_only),
        ]

    def find(self, sha256: str) -> Key | None:
        """The key with this digest. Every one is compared, whichever it is, in constant time."""
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, sha256):
                found = found or key
        return found

    def named(self, name: str) -> Key | None:
        """A key by its name."""
        return next((key for _, key in self._keys if key.name == name), None)

    def derive(self, name: str, purpose: bytes) -> bytes:
        """A secret that follows from a key, for signing what only holds as long as the key does.
        Raises `KeyError` for a name that is none."""
        return hmac.digest(self._texts[name].encode(), purpose, "sha256")


def given_key(apikey: str | None, authorization: str | None) -> str:
    """Return the key of a request, or "" if there is none.

    `apikey` counts if it is given, else the Bearer credentials. A proxy may add an `Authorization`
    of its own to requests that carry `apikey`.
    """
    if apikey:
        return apikey
    scheme, _, credentials = (authorization or "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def digest(text: str) -> str:
    """Return the SHA-256 in hex. It is compared, and stored for tokens.

    A fast hash suffices because keys are random: no word list has them.
    """
    return hashlib.sha256(text.encode()).hexdigest()
