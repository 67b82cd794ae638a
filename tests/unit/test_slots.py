"""How much may be under way at once, and what leaves room for others."""

from __future__ import annotations

import pytest

from evoflask.delivery.slots import SLOW_AFTER, Slot, Slots

MB = 1_000_000


def filled(count: int, *, proven: bool = True, quick: int = 4, slow: int = 3) -> Slots:
    slots = Slots(quick, slow, 40 * MB)
    for n in range(count):
        run(slots, n, proven=proven)
    return slots


def run(
    slots: Slots, owner: object, *, proven: bool = True, size: int = 10, now: float = 0
) -> Slot:
    slot = slots.reserve(proven, size)
    assert slot is not None
    slots.run(slot, owner, proven, now)
    return slot


@pytest.mark.parametrize(("proven", "other"), [(True, False), (False, True)])
def test_a_full_pool_leaves_the_other_one_free(proven: bool, other: bool) -> None:
    slots = filled(4, proven=proven)

    assert not slots.pool(proven).free
    assert slots.pool(other).free


@pytest.mark.parametrize(
    ("taken", "size", "fits"),
    [
        (0, 1, True),
        (0, 500 * MB, True),
        (9 * MB, MB, True),
        (9 * MB, MB + 1, False),
        (1, 10 * MB, False),
    ],
)
def test_bytes_are_bounded_and_one_body_is_always_let_in(taken: int, size: int, fits: bool) -> None:
    slots = Slots(4, 4, 40 * MB)
    if taken:
        assert slots.reserve(True, taken) is not None

    assert (slots.reserve(True, size) is not None) is fits


def test_what_was_read_and_let_go_of_leaves_its_bytes() -> None:
    slots = Slots(4, 4, 40 * MB)
    slot = slots.reserve(True, 10 * MB)
    assert slot is not None

    slots.release(slot)

    assert slots.proven.bytes == 0
    assert slots.proven.count == 0


def test_what_ended_leaves_its_place_and_its_bytes() -> None:
    slots = Slots(4, 4, 40 * MB)
    slot = run(slots, "lane")

    slots.release(slot)

    assert (slots.proven.count, slots.proven.bytes) == (0, 0)


def test_what_is_under_way_for_over_a_second_leaves_the_quick_slots() -> None:
    slots = filled(4, quick=4, slow=9)

    assert slots.age(SLOW_AFTER) == []
    moved = slots.age(SLOW_AFTER + 0.1)

    assert [slot.owner for slot in moved] == [0, 1, 2, 3]
    assert slots.proven.free
    assert (slots.proven.count, slots.proven.bytes) == (0, 0)
    assert (slots.slow.count, slots.slow.bytes) == (4, 40)
    assert slots.age(SLOW_AFTER + 9) == []


def test_what_finds_no_room_among_the_slow_stays_until_there_is_some() -> None:
    slots = filled(4, quick=4, slow=3)
    moved = slots.age(5)
    assert len(moved) == 3

    assert slots.age(6) == []
    slots.release(moved[0])

    assert [slot.owner for slot in slots.age(7)] == [3]


def test_a_large_body_stays_among_the_quick_where_the_slow_have_no_bytes_left() -> None:
    slots = Slots(9, 9, 40 * MB)
    run(slots, "a", size=9 * MB)
    run(slots, "b", size=MB)
    slots.slow.bytes = 19 * MB

    assert slots.age(5) == []
    slots.slow.bytes = 0

    assert [slot.owner for slot in slots.age(5)] == ["a", "b"]


def test_what_ended_before_it_was_old_is_not_moved() -> None:
    slots = filled(2)
    slot = run(slots, "short")
    slots.release(slot)

    assert [slot.owner for slot in slots.age(5)] == [0, 1]
    assert slots.slow.count == 2


def test_a_lane_that_proves_itself_between_read_and_start_takes_its_bytes_along() -> None:
    slots = Slots(4, 4, 40 * MB)
    slot = slots.reserve(False, 100)
    assert slot is not None

    slots.run(slot, "lane", True, 0)

    assert (slots.unproven.bytes, slots.unproven.count) == (0, 0)
    assert (slots.proven.bytes, slots.proven.count) == (100, 1)
