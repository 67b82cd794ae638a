"""The table of retries."""

from __future__ import annotations

import pytest

from evoflask.delivery.retry import Again, Dead, Decision, Done, Kept, Policy, decide
from evoflask.sinks.base import Attempt, Outcome

NOW = 1_000_000.0
POLICY = Policy(schedule=(5.0, 30.0, 120.0), jitter=0.2, retry_after_cap=3600.0)
MIDDLE = 0.5
FAILED = (Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.AMBIGUOUS)


def after(
    tries: int, outcome: Outcome, retry_after: float | None = None, luck: float = MIDDLE
) -> Decision:
    attempt = Attempt(outcome, retry_after=retry_after)
    return decide(POLICY, tries, attempt, now=NOW, luck=luck)


@pytest.mark.parametrize("tries", [0, 1, 3, 99])
def test_a_delivered_event_is_done_at_whatever_try(tries: int) -> None:
    assert after(tries, Outcome.DELIVERED) == Done()


@pytest.mark.parametrize("tries", [0, 1, 3, 99])
def test_a_no_for_good_is_never_tried_again(tries: int) -> None:
    assert after(tries, Outcome.REJECTED) == Dead("rejected")


@pytest.mark.parametrize("outcome", FAILED)
@pytest.mark.parametrize(("tries", "wait"), [(0, 5.0), (1, 30.0), (2, 120.0)])
def test_each_failure_waits_its_step_of_the_schedule(
    outcome: Outcome, tries: int, wait: float
) -> None:
    assert after(tries, outcome) == Again(NOW + wait)


@pytest.mark.parametrize("outcome", FAILED)
@pytest.mark.parametrize("tries", [3, 4, 99])
def test_after_the_last_step_the_event_is_dead(outcome: Outcome, tries: int) -> None:
    assert after(tries, outcome) == Dead("exhausted")


@pytest.mark.parametrize("tries", [0, 1, 2, 3, 99])
@pytest.mark.parametrize(
    ("outcome", "decision"),
    [
        (Outcome.DELIVERED, Done()),
        (Outcome.REJECTED, Dead("rejected")),
        *((outcome, Kept()) for outcome in FAILED),
    ],
)
def test_a_try_that_the_schedule_did_not_ask_for_is_never_the_last_one(
    tries: int, outcome: Outcome, decision: Decision
) -> None:
    attempt = Attempt(outcome, retry_after=7.0)

    assert decide(POLICY, tries, attempt, now=NOW, luck=MIDDLE, early=True) == decision


@pytest.mark.parametrize("outcome", FAILED)
def test_an_empty_schedule_means_one_attempt(outcome: Outcome) -> None:
    policy = Policy((), 0.2, 3600.0)

    decision = decide(policy, 0, Attempt(outcome), now=NOW, luck=MIDDLE)

    assert decision == Dead("exhausted")


@pytest.mark.parametrize(("luck", "wait"), [(0.0, 4.0), (0.5, 5.0), (0.999999, 6.0)])
def test_jitter_spreads_the_wait_by_its_share_both_ways(luck: float, wait: float) -> None:
    decision = after(0, Outcome.REFUSED, luck=luck)

    assert isinstance(decision, Again)
    assert decision.at - NOW == pytest.approx(wait, abs=1e-4)


@pytest.mark.parametrize(
    ("asked", "wait"),
    [(None, 5.0), (0.0, 5.0), (2.0, 5.0), (60.0, 60.0), (3600.0, 3600.0), (86400.0, 3600.0)],
)
def test_retry_after_lengthens_the_wait_up_to_its_cap(asked: float | None, wait: float) -> None:
    assert after(0, Outcome.REFUSED, retry_after=asked) == Again(NOW + wait)


def test_retry_after_gives_no_attempt_beyond_the_schedule() -> None:
    assert after(3, Outcome.REFUSED, retry_after=1.0) == Dead("exhausted")
