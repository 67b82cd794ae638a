"""How drains of one sink share its lanes. Pure.

Whoever is awake takes every lane that is due, so a second drain finds nothing. Each tells the
others, once a second, how many lanes with a backlog it has; one that has more than its share gives
the rest back, and does not take for a moment, in which the others do.
"""

from __future__ import annotations

from collections.abc import Sequence

MORE = 1.25
"""How much more than its share a drain keeps: lanes that go to and fro are good for nobody."""
ENOUGH = 2
"""Lanes that can be shared: a single one is in one pair of hands."""


def surplus(mine: int, others: Sequence[int]) -> int:
    """How many lanes to give back. `others`: what the other drains that are awake have."""
    if not others:
        return 0
    share = (mine + sum(others)) / (len(others) + 1)
    return int(mine - share) if mine > share * MORE else 0
