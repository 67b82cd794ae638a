"""Secrets at rest: sealed before they are stored, opened when they are used.

A sealed text is a Fernet token (AES-128-CBC and HMAC-SHA256, by `cryptography`) behind a
prefix that names the scheme. The first key seals, every key opens: so a key is replaced by
putting the new one in front, sealing everything again, and taking the old one away.

The keys are given once by whoever puts the process together; a field of a model asks for them
when a row is read or written. Knows no row and no setting.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from evoflask.errors import Misconfigured, Undecipherable

PREFIX: Final = "sealed:1:"
"""What every sealed text begins with."""

FILE: Final = "encryptionkey"
"""In a home: the key that it made for itself."""

NO_KEY: Final = (
    "ENCRYPTION_KEY is not set, and EVOFLASK_HOME{home} holds no key. "
    "Set one of them as it is set where evoflask runs already (make run prints its EVOFLASK_HOME); "
    "another key could not open what is stored. "
    'For a new installation see "the key that seals them" in docs/operations.md.'
)
"""Never a command that makes a key: in a second terminal it would make a second one."""
CLOSED: Final = "A stored secret opens with none of the keys in ENCRYPTION_KEY."


class Vault:
    """Keys, the newest first. Raises `Misconfigured` for none, or for one that is not a key:
    32 bytes in URL-safe base64, as `Fernet.generate_key` makes them."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise Misconfigured(NO_KEY.format(home=""))
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
            raise Undecipherable(CLOSED) from error

    def stale(self, sealed: str) -> bool:
        """Whether it should be sealed again: the newest key does not open it."""
        try:
            self._newest.decrypt(_token(sealed))
        except InvalidToken:
            return True
        return False


def _token(sealed: str) -> bytes:
    if not sealed.startswith(PREFIX):
        raise Undecipherable("A stored secret is not sealed.")
    return sealed.removeprefix(PREFIX).encode()


def new_key() -> str:
    """A key for `Vault`, drawn by the operating system."""
    return Fernet.generate_key().decode()


_vault: Vault | None = None


def configure(keys: Sequence[str]) -> None:
    """Give this process its keys, once, before the first row is read. See `Vault`."""
    global _vault  # one process, one set of keys: a field has no other way to ask
    _vault = Vault(keys)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a row holds of a secret: it is opened where it is used, so that whoever reads a row
    for something else pays nothing, and one that does not open stands in nobody's way."""

    text: str

    def open(self) -> str:
        """Raises `Undecipherable`. What a version without keys wrote is as it stands: while one
        is exchanged for the other, both write."""
        return self.text if self.plain else current().open(self.text)

    @property
    def plain(self) -> bool:
        """Whether it was never sealed."""
        return not self.text.startswith(PREFIX)

    @property
    def stale(self) -> bool:
        """Whether it should be sealed again."""
        return self.plain or current().stale(self.text)

    def __repr__(self) -> str:
        return "Sealed(...)"


class HasKeys(Protocol):
    """What `unlock` needs of the settings."""

    @property
    def encryption_key(self) -> tuple[str, ...]: ...
    @property
    def home(self) -> Path: ...


def unlock(settings: HasKeys) -> None:
    """`configure` with the keys that are set, or with the one that the home made for itself.
    Raises `Misconfigured` where there is neither, or the home's cannot be read."""
    keys = settings.encryption_key
    if not keys:
        with contextlib.suppress(FileNotFoundError):
            keys = _read(settings.home / FILE)
    if not keys:
        raise Misconfigured(NO_KEY.format(home=f" ({settings.home.absolute()})"))
    configure(keys)


def _read(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text().replace(",", " ").split())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise Misconfigured(
            f"ENCRYPTION_KEY is not set, and {path} cannot be read. "
            "Run this as the user that evoflask runs as."
        ) from error


def make_key(home: Path) -> None:
    """The home's own key, readable by its owner, unless it has one. Never written over: what it
    sealed would be lost. It is on the disk, whole, before anything is sealed with it."""
    path, draft = home / FILE, home / f"{FILE}.new"
    if path.exists():
        return
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as out:
        out.write(f"{new_key()}\n")
        out.flush()
        os.fsync(file)
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def current() -> Vault:
    """The process's own. Raises `Misconfigured` before `configure`."""
    if _vault is None:
        raise Misconfigured(NO_KEY.format(home=""))
    return _vault
