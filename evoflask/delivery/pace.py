"""How much is begun in one turn of the loop, so that turns stay short. Pure.

Whatever is new passes some ten turns of the loop from the message that it is there to its
delivery. A turn that starts two hundred deliveries, and later hears of two hundred answers,
takes a tenth of a second, so a lone event beside a saturated sink took a second (measured).
"""

from __future__ import annotations

TURN = 0.008
"""Seconds that a turn of the loop should take."""
MOST = 256


class Pace:
    """The starts of one sink in this turn; fewer in the next one where turns are too long.

    `least`: so many always.
    """

    __slots__ = ("_cut", "_least", "_limit", "_started")

    def __init__(self, least: int) -> None:
        self._least = least
        self._limit = float(max(least, 32))
        self._started = 0
        self._cut = False

    def go(self) -> bool:
        """Whether one more may start in this turn."""
        if self._started >= self._limit:
            self._cut = True
            return False
        self._started += 1
        return True

    def over(self, seconds: float) -> bool:
        """The turn is over and took so long; whether something was held back in it."""
        cut = self._cut
        if seconds > TURN:
            if self._started:
                self._limit = max(self._least, self._limit * 0.75)
        elif cut:
            self._limit = min(MOST, self._limit + 4)
        self._started, self._cut = 0, False
        return cut
