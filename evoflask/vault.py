"""Secrets at rest: sealed before they are stored, opened when they are used.

A sealed text is a Fernet token (AES-128-CBC and HMAC-SHA256, by `cryptography`) behind a
prefix that names the scheme. The first key seals, every key opens: so a key is replaced by
putting the new one in front, sealing everything again, and taking the old one away.

The keys are given once by whoever puts the process together; a field of a model asks for them
when a row is read or written. Knows no row and no setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from evoflask.errors import Misconfigured, Undecipherable

PREFIX: Final = "sealed:1:"
"""What every sealed text begins with."""


class Vault:
    """Keys, the newest first. Raises `Misconfigured` for none, or for one that is not a key:
    32 bytes in URL-safe base64, as `Fernet.generate_key` makes them."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise Misconfigured("ENCRYPTION_KEY: at least one key is needed")
        try:
            fernets = [Fernet(key.encode()) for key in keys]
        except ValueError as error:  # its words say nothing of which key
            raise Misconfigured(
                "ENCRYPTION_KEY: each key is 32 bytes in URL-safe base64"
            ) from error
        self._newest = fernets[0]
        self._all = MultiFernet(fernets)

    def seal(self, text: str) -> str:
        """The text under the newest key; different each time."""
        return PREFIX + self._newest.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """What was sealed. Raises `Undecipherable` where no key fits, or it was never sealed."""
        token = _token(sealed)
        try:
            return self._all.decrypt(token).decode()
        except InvalidToken as error:
            raise Undecipherable("a stored secret opens with none of ENCRYPTION_KEY") from error

    def stale(self, sealed: str) -> bool:
        """Whether it should be sealed again: the newest key does not open it."""
        try:
            self._newest.decrypt(_token(sealed))
        except InvalidToken:
            return True
        return False


def _token(sealed: str) -> bytes:
    if not sealed.startswith(PREFIX):
        raise Undecipherable("a stored secret is not sealed")
    return sealed.removeprefix(PREFIX).encode()


def new_key() -> str:
    """A key for `Vault`, drawn by the operating system."""
    return Fernet.generate_key().decode()


_vault: Vault | None = None


def configure(keys: Sequence[str]) -> None:
    """Give this process its keys, once, before the first row is read. See `Vault`."""
    global _vault  # one process, one set of keys: a field has no other way to ask
    _vault = Vault(keys)


def current() -> Vault:
    """The process's own. Raises `Misconfigured` before `configure`."""
    if _vault is None:
        raise Misconfigured("ENCRYPTION_KEY: no key was given to this process")
    return _vault
