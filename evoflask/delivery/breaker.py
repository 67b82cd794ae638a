"""When a lane pauses because its destination seems to be gone, and for how long. Pure.

A lane pauses when `threshold` *different* events failed with no answer between that
proves the destination alive (DELIVERED, and REJECTED: a no for good is an answer). One
poison event, or a few of them under retry on a quiet lane, never pause it: what counts is
how many different events failed, not how often. The pauses follow the retry schedule, and
after each one a single failed probe starts the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from evoflask.delivery import retry
from evoflask.delivery.retry import Policy
from evoflask.sinks.base import Attempt, Outcome

FIELDS = ("failures", "until", "pauses", "last_entry")
"""The fields of a lane's hash that hold a `State`."""

ALIVE = frozenset({Outcome.DELIVERED, Outcome.REJECTED})
"""Outcomes that prove the destination alive."""


@dataclass(frozen=True, slots=True)
class State:
    """What a lane remembers. The default is a lane without a failure."""

    failures: int = 0
    """Different events that failed in a row; no longer counted from the threshold on."""
    until: float = 0.0
    """The pause's end, Unix seconds; 0: not paused."""
    pauses: int = 0
    """Pauses in a row."""
    last_entry: str = ""
    """The entries counted in `failures`, newest last, with spaces between."""

    def paused(self, now: float) -> bool:
        """Whether nothing may be started on the lane at `now`."""
        return now < self.until

    def to_fields(self) -> dict[str, str]:
        """As strings, for a Redis hash."""
        return {name: str(getattr(self, name)) for name in FIELDS}

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """The state in a hash; what is missing or empty has its default."""
        return cls(
            failures=int(fields.get("failures") or 0),
            until=float(fields.get("until") or 0),
            pauses=int(fields.get("pauses") or 0),
            last_entry=fields.get("last_entry") or "",
        )


FRESH = State()


def record(
    state: State,
    entry: str,
    attempt: Attempt,
    *,
    policy: Policy,
    threshold: int,
    now: float,
    luck: float,
) -> State:
    """The state after `attempt` of `entry` ended at `now`. The same object if nothing changed.

    `luck` in [0, 1) spreads the pause's end; a Retry-After lengthens it.
    """
    if attempt.outcome in ALIVE:
        return FRESH
    if state.paused(now):  # started before the pause: known, and no probe
        return state
    counted = _count(state, entry, threshold)
    if counted.failures < threshold:
        return counted
    wait = retry.delay(policy, counted.pauses, attempt.retry_after, luck=luck)
    return State(counted.failures, now + wait, counted.pauses + 1, counted.last_entry)


def go_on(state: State, until: float) -> State:
    """Return the state after a probe by hand failed: the pause keeps its end."""
    return State(state.failures, until, state.pauses, state.last_entry)


def changed(state: State) -> State:
    """Return the state after the settings changed, as configure.lua does.

    The lane is tried again. The next pause is as long as the one that the change ends.
    """
    return State(pauses=max(0, state.pauses - (state.until > 0)))


def _count(state: State, entry: str, threshold: int) -> State:
    if state.failures >= threshold:
        return state
    entries = state.last_entry.split()
    if entry in entries:
        return state
    return State(state.failures + 1, state.until, state.pauses, " ".join([*entries, entry]))
