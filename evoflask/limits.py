"""How much a tenant may have: what is counted when configuration is written. Pure.

What a schema bounds is what we could carry; what an operator allows, below that, is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evoflask.plurals import counted
from evoflask.settings import Settings


def faults(merged: Mapping[str, Any], settings: Settings) -> Iterator[tuple[str, str]]:
    """Field and sentence of whatever of a subscription is beyond its limit."""
    url = merged.get("url") or ""
    if len(url) > settings.max_url_length:
        yield "url", _longer(settings.max_url_length, "MAX_URL_LENGTH")
    headers = merged.get("headers") or {}
    if len(headers) > settings.max_headers:
        yield "headers", f"More than {settings.max_headers} (MAX_HEADERS)."
    size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
    if size > settings.max_headers_bytes:
        yield (
            "headers",
            f"More than {counted(settings.max_headers_bytes, 'byte')} (MAX_HEADERS_BYTES).",
        )


def _longer(most: int, variable: str) -> str:
    return f"Longer than {counted(most, 'character')} ({variable})."


def too_many(what: str, most: int, variable: str) -> str:
    """The sentence of a 409: one more of these may not be made."""
    return f"There are {most} {what} already, as many as there may be ({variable})."
