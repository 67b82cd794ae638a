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


def suggestion(word: str, names: Iterable[str]) -> str:
    """Return `; did you mean "events"?`, or "." if no name is near: the end of a sentence."""
    near = nearest(word, names)
    return "." if near is None else f'; did you mean "{near}"?'


def _fold(text: str) -> str:
    return text.lower().replace("_", "").replace("-", "").replace(".", "")
