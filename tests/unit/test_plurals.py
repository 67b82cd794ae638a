"""Numbers in sentences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evoflask.plurals import counted

NOUNS = """
    attempt byte character delivery entry event file finding id instance key lane letter line member
    migration operation request row second socket subscription test try worker
"""
MANY = {"entry": "entries", "delivery": "deliveries", "try": "tries"}
FIXED = re.compile(r"\{(self\.)?(\w+\.)?_?[A-Z][A-Z_]+(:\w+)?\}$|_kept_seconds|\{low\}|\{high\}")


@pytest.mark.parametrize(
    ("n", "one", "expected"),
    [
        (0, "lane", "0 lanes"),
        (1, "lane", "1 lane"),
        (2, "lane", "2 lanes"),
        (1, "entry", "1 entry"),
        (0, "entry", "0 entries"),
        (2, "delivery", "2 deliveries"),
        (3, "try", "3 tries"),
        (2, "key", "2 keys"),
        (1.0, "second", "1 second"),
        (1.5, "second", "1.5 seconds"),
        (259_200.0, "second", "259200 seconds"),
        (-1, "byte", "-1 bytes"),
    ],
)
def test_a_number_has_its_noun_in_the_singular_for_one_alone(
    n: float, one: str, expected: str
) -> None:
    assert counted(n, one) == expected


@pytest.mark.parametrize(
    ("n", "expected"), [(0, "0 events wait"), (1, "1 event waits"), (2, "2 events wait")]
)
def test_a_verb_follows_the_number(n: int, expected: str) -> None:
    assert counted(n, "event waits", "events wait") == expected


def test_no_sentence_of_ours_has_a_variable_number_before_a_fixed_plural(root: Path) -> None:
    """A constant of our own is never 1, so a capital name may stand before a plural."""
    many = "|".join(MANY.get(each, f"{each}s") for each in NOUNS.split())
    number = re.compile(r"(\{[^{}]+\}) (?:" + many + r")\b")
    found = []
    for path in [*(root / "evoflask").rglob("*.py"), *(root / "workers").rglob("*.py")]:
        for line in path.read_text().splitlines():
            found += [
                f"{path.name}: {line.strip()}"
                for each in number.findall(line)
                if not FIXED.search(each)
            ]
    assert found == []
