"""Suggest what a caller meant, and quote a caller's words in a sentence. Pure.

A refusal that names the nearest valid name is understood at once. Words of callers are hostile:
quotes are short and printable, and only short words are compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final

MAX_QUOTED: Final = 60
"""Characters of a caller's word that a sentence quotes."""
_CUTOFF: Final = 0.7
"""Least share of equal characters (difflib's ratio) of two near names."""


def shown(value: Any) -> str:
    """Return a caller's word for a sentence: short and printable. For another type, its name."""
    text = value if isinstance(value, str) else type(value).__name__
    text = "".join(each if each.isprintable() else "?" for each in text[:MAX_QUOTED])
    return text + ("..." if isinstance(value, str) and len(value) > MAX_QUOTED else "")


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that `word` most resembles, else the first that begins with it, or None.

    Case, `_`, `-` and `.` do not count. Words over `MAX_QUOTED` characters are not compared, to
    bound the work.
    """
    if len(word) > MAX_QUOTED:
        return None
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(_fold(name), name)
    word = _fold(word)
    found = difflib.get_close_matches(word, folded, n=1, cutoff=_CUTOFF)
    if not found and len(word) > 2:
        found = [name for name in folded if name.startswith(word)]
    return folded[found[0]] if found else None


def is_slip(word: str, name: str) -> bool:
    """Return True if `word` is `name` in other capitals or separators, or with a slip: a letter
    missing, added, changed or swapped with the next. Names of eight letters may have two."""
    word, name = _fold(word[: 2 * MAX_QUOTED]), _fold(name)
    allowed = 0 if len(name) < 4 else 1 if len(name) < 8 else 2
    if abs(len(word) - len(name)) > allowed:
        return False
    return word == name or (allowed > 0 and _distance(word, name) <= allowed)


def _distance(a: str, b: str) -> int:
    """Slips between two short words: optimal string alignment."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row, older = row, [i], before
        for j, y in enumerate(b, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, older[j - 2] + 1)
            row.append(best)
        before = above
    return row[-1]


def suggestion(word: str, names: Iterable[str]) -> str:
    """Return `; did you mean "events"?`, or "." if no name is near: the end of a sentence."""
    near = nearest(word, names)
    return "." if near is None else f'; did you mean "{near}"?'


def _fold(text: str) -> str:
    return text.lower().replace("_", "").replace("-", "").replace(".", "")
