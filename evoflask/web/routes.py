"""Find the route that a caller probably meant, for the sentence of a 404."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from flask import current_app, request
from werkzeug.routing import Rule

MAX_SEGMENTS: Final = 8
MAX_SEGMENT: Final = 60
"""Characters of a segment that are compared, to bound the work."""
_NEAR: Final = 0.7
_PAGES: Final = ("/rq", "/docs")
_ELSEWHERE: Final = {"socket.io": "the websocket at /ws (there is no Socket.IO here)"}


def nearest_route(method: str, path: str, *, same_method: bool = False) -> str | None:
    """Return the route whose fixed parts the path most resembles, such as
    `POST /event/emit/<instance>`; None if no route is near.

    A route of the same method wins; with `same_method` others do not count. The rule that handles
    the request is not suggested.
    """
    given = [each for each in path.split("/") if each]
    if not given or len(given) > MAX_SEGMENTS:
        return None
    if (elsewhere := _ELSEWHERE.get(given[0])) is not None:
        return elsewhere
    best, found = (0.0, False), None
    for rule_method, fixed in _routes(method):
        fits = rule_method == method
        rank = _likeness(given, fixed) if fits or not same_method else 0.0, fits
        if rank[0] > 0 and rank > best:
            best, found = rank, f"{rule_method} {_shown(fixed)}"
    return found


def _routes(method: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each route that may be suggested: `method` or its own first one, and its segments."""
    for rule in current_app.url_map.iter_rules():
        methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        if methods and not rule.rule.startswith(_PAGES) and rule != request.url_rule:
            for fixed in _spelled(rule):
                yield method if method in methods else methods[0], fixed


def _spelled(rule: Rule) -> Iterator[list[str]]:
    """Yield the segments of a rule, once for each word of an `<any(...)>`."""
    segments = [each for each in rule.rule.split("/") if each]
    if segments and segments[0].startswith("<any("):
        for word in segments[0].removeprefix("<any(").partition(")")[0].split(", "):
            yield [word, *segments[1:]]
    else:
        yield segments


def _likeness(given: list[str], fixed: list[str]) -> float:
    """Return how much the path resembles a rule, from 0 (it does not) to 1.

    Each fixed segment must be near. A rule may go on with one variable that was left out.
    """
    if len(fixed) not in (len(given), len(given) + 1) or not _is_fixed(fixed[0]):
        return 0.0
    if len(fixed) > len(given) and _is_fixed(fixed[-1]):
        return 0.0
    if any(
        there.startswith("<row:") and not word.isdigit()
        for word, there in zip(given, fixed, strict=False)
    ):
        return 0.0
    ratios = [
        difflib.SequenceMatcher(None, _fold(word), _fold(there)).ratio()
        for word, there in zip(given, fixed, strict=False)
        if _is_fixed(there)
    ]
    if min(ratios) < _NEAR:
        return 0.0
    return sum(ratios) / len(ratios) - 0.01 * (len(fixed) - len(given))


def _is_fixed(segment: str) -> bool:
    return not segment.startswith("<")


def _shown(segments: list[str]) -> str:
    """Write variables without their converters: `<row:letter>` is `<letter>`."""
    names = [each if _is_fixed(each) else f"<{each[1:-1].rpartition(':')[2]}>" for each in segments]
    return "/" + "/".join(names)


def _fold(segment: str) -> str:
    return segment[:MAX_SEGMENT].lower().replace("-", "").replace("_", "")
