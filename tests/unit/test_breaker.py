"""The table of pauses."""

from __future__ import annotations

import pytest

from evoflask.delivery.breaker import FRESH, State, changed, go_on, record
from evoflask.delivery.retry import Policy
from evoflask.sinks.base import Attempt, Outcome

NOW = 1_000_000.0
POLICY = Policy(schedule=(5.0, 30.0, 120.0), jitter=0.2, retry_after_cap=3600.0)
FAILED = (Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.AMBIGUOUS)


def step(
    state: State,
    entry: str,
    outcome: Outcome = Outcome.REFUSED,
    *,
    now: float = NOW,
    luck: float = 0.5,
    retry_after: float | None = None,
) -> State:
    attempt = Attempt(outcome, retry_after=retry_after)
    return record(state, entry, attempt, policy=POLICY, threshold=3, now=now, luck=luck)


def paused(times: int = 1) -> tuple[State, float]:
    """A state that was paused `times` times in a row, and the end of its last pause."""
    state = FRESH
    for entry in ("1-0", "2-0", "3-0"):
        state = step(state, entry)
    for _ in range(times - 1):
        state = step(state, "9-0", now=state.until)
    return state, state.until


@pytest.mark.parametrize("outcome", FAILED)
def test_a_lane_pauses_when_as_many_different_events_failed_as_the_threshold(
    outcome: Outcome,
) -> None:
    second = step(step(FRESH, "1-0", outcome), "2-0", outcome)
    third = step(second, "3-0", outcome)

    assert not second.paused(NOW)
    assert third.paused(NOW)
    assert third.until == NOW + 5


def test_one_poison_event_never_pauses_a_lane() -> None:
    state = FRESH
    for _ in range(50):
        state = step(state, "1-0")

    assert state.failures == 1
    assert not state.paused(NOW)


def test_poison_events_that_take_turns_count_once_each() -> None:
    state = FRESH
    for _ in range(50):
        state = step(step(state, "1-0"), "2-0")

    assert state.failures == 2
    assert not state.paused(NOW)


@pytest.mark.parametrize("outcome", [Outcome.DELIVERED, Outcome.REJECTED])
def test_an_answer_of_a_living_destination_resets_everything(outcome: Outcome) -> None:
    state, _ = paused(times=3)

    assert step(state, "7-0", outcome) == FRESH


def test_a_success_between_starts_the_count_again() -> None:
    state = step(step(FRESH, "1-0"), "2-0")
    state = step(state, "x", Outcome.DELIVERED)
    state = step(state, "3-0")

    assert state.failures == 1


def test_what_was_under_way_when_the_lane_paused_does_not_lengthen_the_pause() -> None:
    state, _ = paused()

    assert step(state, "4-0", now=NOW + 1) is state


@pytest.mark.parametrize(("times", "wait"), [(1, 5.0), (2, 30.0), (3, 120.0), (4, 120.0)])
def test_each_failed_probe_starts_the_next_pause_of_the_schedule(times: int, wait: float) -> None:
    before, start = paused(times - 1) if times > 1 else (None, NOW)
    state, until = paused(times)

    assert before is None or before.pauses == times - 1
    assert state.pauses == times
    assert until - start == wait


def test_a_probe_that_is_an_event_counted_before_starts_the_next_pause_too() -> None:
    state, until = paused()

    again = step(state, "1-0", now=until)

    assert again.pauses == 2
    assert again.until == until + 30


@pytest.mark.parametrize(("luck", "wait"), [(0.0, 4.0), (0.5, 5.0), (0.999999, 6.0)])
def test_jitter_spreads_the_end_of_a_pause(luck: float, wait: float) -> None:
    state = step(step(step(FRESH, "1-0"), "2-0"), "3-0", luck=luck)

    assert state.until - NOW == pytest.approx(wait, abs=1e-4)


@pytest.mark.parametrize(("asked", "wait"), [(1.0, 5.0), (60.0, 60.0), (1e9, 3600.0)])
def test_a_pause_honours_retry_after_up_to_its_cap(asked: float, wait: float) -> None:
    state = step(step(step(FRESH, "1-0"), "2-0"), "3-0", retry_after=asked)

    assert state.until == NOW + wait


def test_an_empty_schedule_pauses_for_no_time() -> None:
    policy = Policy((), 0.2, 3600.0)
    state = FRESH
    for entry in ("1-0", "2-0"):
        state = record(
            state,
            entry,
            Attempt(Outcome.REFUSED),
            policy=policy,
            threshold=2,
            now=NOW,
            luck=0.5,
        )

    assert not state.paused(NOW)


@pytest.mark.parametrize("state", [FRESH, step(FRESH, "1-0"), paused()[0], paused(3)[0]])
def test_a_state_round_trips_through_strings(state: State) -> None:
    fields = state.to_fields()

    assert all(isinstance(value, str) for value in fields.values())
    assert State.from_fields(fields) == state


def test_a_lane_without_fields_is_fresh() -> None:
    assert State.from_fields({}) == FRESH
    assert State.from_fields({"until": "", "failures": ""}) == FRESH


def test_a_success_on_a_fresh_lane_makes_no_new_object() -> None:
    assert step(FRESH, "1-0", Outcome.DELIVERED) is FRESH


def test_a_probe_by_hand_that_fails_leaves_the_pause_as_it_was() -> None:
    before, until = paused(3)
    probing = State(before.failures, NOW, before.pauses, before.last_entry)

    assert go_on(probing, until) == before


@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_pause_after_a_change_of_settings_is_as_long_as_the_one_it_ended(times: int) -> None:
    before, _ = paused(times)

    state = changed(before)
    assert not state.paused(NOW)
    for entry in ("4-0", "5-0", "6-0"):
        state = step(state, entry, now=before.until)

    assert state.pauses == before.pauses
    assert state.until - before.until == POLICY.schedule[times - 1]


@pytest.mark.parametrize("state", [FRESH, State(2, 0.0, 0, "1-0 2-0")])
def test_a_change_of_settings_of_a_lane_that_does_not_pause_forgets_its_failures(
    state: State,
) -> None:
    assert changed(changed(state)) == FRESH
