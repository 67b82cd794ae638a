"""How many deliveries begin in one turn of a drain's loop."""

from __future__ import annotations

from evoflask.delivery.pace import MOST, TURN, Pace


def turn(pace: Pace, wanted: int, seconds: float) -> tuple[int, bool]:
    """How many of those that want to start do, in a turn that takes so long; and whether the
    others are told to come again."""
    started = sum(pace.go() for _ in range(wanted))
    return started, pace.over(seconds)


def test_long_turns_start_fewer_but_never_less_than_the_least() -> None:
    pace = Pace(least=10)

    started = [turn(pace, 1000, 3 * TURN)[0] for _ in range(20)]

    assert started == sorted(started, reverse=True)
    assert started[0] > started[-1] == 10


def test_short_turns_start_more_up_to_a_bound() -> None:
    pace = Pace(least=8)

    started = [turn(pace, 1000, TURN / 2)[0] for _ in range(200)]

    assert started == sorted(started)
    assert started[-1] == MOST


def test_what_was_held_back_comes_again_in_the_next_turn() -> None:
    pace = Pace(least=8)

    assert turn(pace, 1000, TURN)[1]
    assert not turn(pace, 1, TURN)[1]


def test_turns_of_others_that_were_long_change_nothing() -> None:
    pace = Pace(least=8)
    before = turn(pace, 1000, TURN / 2)[0]

    for _ in range(10):
        turn(pace, 0, 10 * TURN)

    assert turn(pace, 1000, TURN)[0] >= before
