"""Members of a lane: `<ms, 13 digits>-<seq, 10 digits>:<size>:<key>`, see lib.lua."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b

SHARED_KEY = "-"
"""The key of all events about the instance, and of all events of a total order."""
SHORT = 128
"""Bytes of a key whose hash is kept: the same chats come again and again."""


def key_hash(key: bytes | None) -> str:
    """An order key as members carry it: eight characters; two keys that share a hash are
    ordered as one, which costs a little concurrency and no correctness."""
    if key is None:
        return SHARED_KEY
    return _short(key) if len(key) <= SHORT else _hash(key)


def key_of_its_own(event_id: str) -> str:
    """Return the key of an event that keeps no order. It comes once, so it is not cached."""
    return _hash(event_id.encode())


def _hash(key: bytes) -> str:
    return urlsafe_b64encode(blake2b(key, digest_size=6).digest()).decode()


_short = lru_cache(4096)(_hash)


def entry_of(member: str) -> str:
    """The stream id of a member, without padding."""
    ms, seq = member.partition(":")[0].split("-")
    return f"{int(ms)}-{int(seq)}"


def size_of(member: str) -> int:
    return int(member.split(":", 2)[1])


def key_of(member: str) -> str:
    return member.split(":", 2)[2]


def at_of(member: str) -> float:
    """When the entry was accepted, Unix seconds of Redis' clock."""
    return int(member[:13]) / 1000
