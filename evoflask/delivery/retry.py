"""Decide what follows from an attempt: done, again, kept as before, or dead. Pure.

Sinks report facts, this decides. Time and luck are arguments, so that the rules are a
table (`tests/unit/test_retry.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from evoflask.sinks.base import Attempt, Outcome

REJECTED = "rejected"
"""Reason of a dead letter: the destination said no for good."""
EXHAUSTED = "exhausted"
"""Reason of a dead letter: the last attempt of the schedule failed."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When to try again. All in seconds, but `jitter`, a share of the delay (0.2: ±20 %).

    `schedule[n]` is the delay after failure `n + 1`; an event is tried once more than the
    schedule is long, and an empty schedule means one attempt. `retry_after_cap` bounds what
    a destination may ask for.
    """

    schedule: tuple[float, ...]
    jitter: float
    retry_after_cap: float


@dataclass(frozen=True, slots=True)
class Done:
    """Delivered."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again at `at` (Unix seconds)."""

    at: float


@dataclass(frozen=True, slots=True)
class Kept:
    """The attempt did not belong to the schedule: tries and date stay as they were."""


@dataclass(frozen=True, slots=True)
class Dead:
    """Given up; `reason` is `rejected` or `exhausted`."""

    reason: str


Decision = Done | Again | Kept | Dead

_DONE = Done()
_KEPT = Kept()
_REJECTED = Dead(REJECTED)
_EXHAUSTED = Dead(EXHAUSTED)


def decide(
    policy: Policy,
    tries: int,
    attempt: Attempt,
    *,
    now: float,
    luck: float,
    early: bool = False,
) -> Decision:
    """Return what follows from `attempt`, the one after `tries` failures. `luck` is in [0, 1).

    `early`: an operator, a change of settings or a recovery triggered it, and not the schedule.
    """
    if attempt.outcome is Outcome.DELIVERED:
        return _DONE
    if attempt.outcome is Outcome.REJECTED:
        return _REJECTED
    if early:
        return _KEPT
    if tries >= len(policy.schedule):
        return _EXHAUSTED
    return Again(now + delay(policy, tries, attempt.retry_after, luck=luck))


def delay(policy: Policy, step: int, retry_after: float | None, *, luck: float) -> float:
    """Seconds to wait at `step` of the schedule (past its end: the last step).

    What the destination asked for, up to the cap, only ever lengthens the wait: an early
    retry would be refused again, and a late one is what the schedule wants anyway.
    """
    base = policy.schedule[min(step, len(policy.schedule) - 1)] if policy.schedule else 0.0
    spread = base * (1 + policy.jitter * (2 * luck - 1))
    return max(spread, min(retry_after or 0.0, policy.retry_after_cap))
