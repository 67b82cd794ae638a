"""What an attempt shows of an answer: one printable line, bounded, without secrets. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from evoflask.sinks.base import MAX_ANSWER

MAX_DETAIL = 300
"""Characters of an attempt's detail."""
KEPT = 4 * MAX_ANSWER
"""Bytes of an answer that are kept to show its beginning, of which masking may take some."""


def excerpt(body: bytes, hidden: Sequence[str] = (), most: int = MAX_DETAIL) -> str:
    """The beginning of an answer as one printable line, without what is `hidden`. Pure."""
    text = body.decode("utf-8", "replace")
    for secret in filter(None, hidden):
        text = text.replace(secret, "…")
    if len(body) >= KEPT:
        # What was cut off in the middle of a secret does not look like one.
        text = text[: -max(map(len, hidden), default=0) or None]
    text = " ".join(text.split())
    if not text.isprintable():
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text[:most]


def head(body: bytes, hidden: Sequence[str] = ()) -> str:
    """What an attempt shows of an answer of which at least `KEPT` bytes were kept, or all. Pure."""
    return excerpt(body, hidden, MAX_ANSWER)
