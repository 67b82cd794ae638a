"""From an attempt to what the books, the lane and the counters are told."""

from __future__ import annotations

import json

import pytest

from evoflask.delivery import outcomes
from evoflask.delivery.breaker import State
from evoflask.delivery.lanes import Item
from evoflask.delivery.retry import Policy
from evoflask.outbox.verbs import Ended
from evoflask.sinks.base import Attempt, Outcome

MEMBER = "1700000000000-0000000000:10:a"
POLICY = Policy((5.0, 30.0), 0.0, 3600.0)

DEAD = '{"reason":"%s","code":"%s","detail":"%s"}'
CONCLUSIONS = [
    (0, Attempt(Outcome.DELIVERED, "200", ""), Ended("d", MEMBER, 1)),
    (2, Attempt(Outcome.DELIVERED, "200", ""), Ended("d", MEMBER, 3)),
    (0, Attempt(Outcome.REFUSED, "500", "no"), Ended("r", MEMBER, 1, delay=5.0)),
    (1, Attempt(Outcome.UNREACHABLE, "dns", ""), Ended("r", MEMBER, 2, delay=30.0)),
    (0, Attempt(Outcome.REFUSED, "429", "", 60.0), Ended("r", MEMBER, 1, delay=60.0)),
    (2, Attempt(Outcome.AMBIGUOUS, "timeout", "late"), ("exhausted", "timeout", "late", 3)),
    (0, Attempt(Outcome.REJECTED, "410", "gone"), ("rejected", "410", "gone", 1)),
]


@pytest.mark.parametrize(("tries", "attempt", "expected"), CONCLUSIONS, ids=str)
def test_an_attempt_ends_as_delivered_as_a_retry_with_a_delay_or_as_dead_with_its_reason(
    tries: int, attempt: Attempt, expected: Ended | tuple[str, str, str, int]
) -> None:
    ended = outcomes.conclude(Item(MEMBER, tries), attempt, POLICY, luck=0.5)

    if isinstance(expected, tuple):
        reason, code, detail, number = expected
        expected = Ended("x", MEMBER, number, why=DEAD % (reason, code, detail))
    assert ended == expected


@pytest.mark.parametrize(
    ("cause", "tried"), [("probe", False), ("change", True), ("recovery", True)]
)
@pytest.mark.parametrize("tries", [0, 1, 2, 9])
def test_a_failure_before_its_date_charges_nothing_and_one_by_hand_is_no_fault(
    tries: int, cause: str, tried: bool
) -> None:
    failed = Attempt(Outcome.REFUSED, "500", "no", 60.0)

    ended = outcomes.conclude(Item(MEMBER, tries, cause), failed, POLICY, luck=0.5)

    assert ended == Ended("e", MEMBER, tries + 1, tried=tried)


def test_a_long_reason_is_cut_and_stays_json() -> None:
    ended = outcomes.given_up(Item(MEMBER, 0), "missing", "", 'é"\n' * 1000)

    assert len(json.loads(ended.why)["detail"]) == outcomes.DETAIL


def test_a_breaker_state_goes_to_redis_in_milliseconds() -> None:
    facts = outcomes.breaker_facts(State(5, 1700000000.25, 2, "1-0 2-0"))

    assert facts == {
        "failures": 5,
        "until": 1700000000250,
        "pauses": 2,
        "last_entry": "1-0 2-0",
    }


def test_the_last_error_is_a_bounded_sentence_with_its_time() -> None:
    facts = outcomes.error_facts(Attempt(Outcome.REFUSED, "500", "x" * 900), 12.5)

    assert str(facts["error"]).startswith("refused 500 x")
    assert len(str(facts["error"])) == outcomes.DETAIL
    assert facts["errat"] == 12_500


@pytest.mark.parametrize(
    ("latency", "bucket"),
    [(0.001, "0.005"), (0.005, "0.005"), (0.0051, "0.01"), (1, "1"), (299, "300"), (301, "+Inf")],
)
def test_a_delivery_is_counted_in_the_bucket_of_its_latency(latency: float, bucket: str) -> None:
    totals: dict[str, int] = {}

    outcomes.count(totals, "webhook", Attempt(Outcome.DELIVERED, "200", ""), latency)

    assert totals == {f"webhook:le:{bucket}": 1, "webhook:latency_ms": round(latency * 1000)}


def test_a_clock_that_went_back_does_not_count_backwards() -> None:
    totals: dict[str, int] = {}

    outcomes.count(totals, "webhook", Attempt(Outcome.DELIVERED, "200", ""), -3.0)

    assert totals["webhook:latency_ms"] == 0


def test_failures_are_counted_by_outcome() -> None:
    totals: dict[str, int] = {}

    for outcome in (Outcome.REFUSED, Outcome.REFUSED, Outcome.UNREACHABLE):
        outcomes.count(totals, "webhook", Attempt(outcome, "", ""), 1.0)

    assert totals == {"webhook:failed:refused": 2, "webhook:failed:unreachable": 1}
