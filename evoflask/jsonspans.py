"""Find the members of a JSON object and the elements of an array as ranges of bytes. Pure.

msgspec checks the grammar and returns the length of each value; its place follows from that.
msgspec and orjson refuse half of a surrogate pair (`"\\ud83d"`). The grammar of JSON allows it (RFC
8259, 8.2), and `JSON.stringify` writes it for half an emoji. So msgspec reads `readable(text)`, and
the values are cut out of the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

TOKENS: Final = 1_000_000
"""Brackets, commas and strings that are looked at one by one, at most: about a second."""

_KEY: Final = re.compile(rb'[ \t\n\r{,]*"(?:[^"\\]++|\\.)*+"[ \t\n\r]*:[ \t\n\r]*', re.S)
_BEFORE: Final = re.compile(rb"[ \t\n\r,]*")
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]++|[\]}]++|,', re.S)
_ASCII: Final = bytes(range(128)) + b"?" * 128

_value: Callable[[bytes], msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw).decode
_object: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode


def readable(text: bytes) -> bytes:
    """Return a text of the same length with other characters for halves of surrogate pairs.

    An escape becomes another escape, so the grammar stays. Two passes of a C function do this; a
    regular expression takes 0.2 s for 3 MB of halves.
    """
    return text.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")


def is_readable(value: bytes) -> bool:
    """Return False if a value of the grammar has half of a surrogate pair."""
    try:
        _value(value)
    except msgspec.DecodeError:
        return False
    return True


def ascii_only(text: bytes) -> bytes:
    """Return the text with a question mark for each byte beyond ASCII."""
    return text.translate(_ASCII)


def members(text: bytes) -> dict[str, tuple[int, int]]:
    """Return where the values of an object begin and end. Each key must be unique.

    Raises msgspec's errors for a text that is no object.
    """
    found, at = {}, 0
    for name, raw in _object(text).items():
        key = _KEY.match(text, at)
        assert key is not None
        at = key.end() + len(bytes(raw))
        found[name] = (key.end(), at)
    return found


def elements(text: bytes, values: Iterable[msgspec.Raw]) -> Iterator[tuple[int, int]]:
    """Yield where the elements of an array begin and end. `values`: the elements that it has."""
    at = text.index(b"[") + 1
    for raw in values:
        start = _BEFORE.match(text, at).end()  # type: ignore[union-attr]  # it also matches nothing
        at = start + len(bytes(raw))
        yield start, at


def elements_of_any_depth(text: bytes) -> list[tuple[int, int]] | None:
    """Return where the elements of an array begin and end, by its brackets and strings alone.

    None if the brackets do not fit, or there is more than `TOKENS` of them.
    """
    found: list[tuple[int, int]] = []
    for start, end, depth in _cuts(text):
        if depth == 0:
            last = text[start:end].strip()
            if last or found:
                found.append((start, end))
            return None if text[end + 1 :].strip() else found
        found.append((start, end))
    return None


def element_at(text: bytes, position: int) -> int | None:
    """Return which element of an array has the byte at `position`; None if that takes too long."""
    n = 0
    for n, (_, end, depth) in enumerate(_cuts(text)):  # the last one counts
        if end >= position or depth == 0:
            return n
    return None


def _cuts(text: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the begin and end of each element, and the depth behind it: 0 behind the last one.

    An array without an end yields one more, up to the end of the text, of depth 1.
    """
    depth, start = 0, 0
    for n, token in enumerate(_TOKEN.finditer(text)):
        if n == TOKENS:
            return
        first, end = token.group()[:1], token.end()
        if first in b"[{":
            if depth == 0:
                start = token.start() + 1
            depth += end - token.start()
        elif first in b"]}":
            depth -= end - token.start()
            if depth <= 0:
                yield start, end - 1 + depth, 0
                return
        elif first == b"," and depth == 1:
            yield start, token.start(), 1
            start = end
    yield start, len(text), 1
