"""Numbers in sentences: "1 lane", "2 lanes". Pure."""

from __future__ import annotations


def counted(n: float, one: str, many: str = "") -> str:
    """Return `n` and its noun, for example "1 entry", "0 entries", "2 events wait".

    `many` is the plural. By default it is `one` with "s", or with "ies" for a "y" after a
    consonant. A number with a fraction has up to six digits.
    """
    number = f"{n:g}" if isinstance(n, float) else str(n)
    return f"{number} {one if n == 1 else many or _plural(one)}"


def _plural(one: str) -> str:
    if one.endswith("y") and one[-2:-1] not in "aeiou":
        return f"{one[:-1]}ies"
    return f"{one}s"
