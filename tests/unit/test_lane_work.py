"""What a lane in hand lets start, and what it asks for: rules that hold in whatever order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from evoflask.delivery.lanes import IN_HAND, Item, LaneWork
from evoflask.outbox import Ended, Held


def member(n: int, key: str = "a") -> str:
    return f"{n:013}-0000000000:10:{key}"


def held(ids: Sequence[tuple[str, int]], *, proven: bool = True, probe: bool = False) -> Held:
    return Held(0, "lane", "token", "outbox", ("1", "e"), probe, proven, {}, ids)


def work(
    *ids: tuple[int, str, int] | tuple[int, str],
    concurrency: int = 8,
    proven: bool = True,
    wait: bool = False,
    probe: bool = False,
) -> LaneWork:
    """A lane with (number, key, tries) in hand."""
    return LaneWork(held(numbered(ids), proven=proven, probe=probe), concurrency, wait=wait)


def numbered(ids: Sequence[tuple[int, str, int] | tuple[int, str]]) -> list[tuple[str, int]]:
    return [(member(row[0], row[1]), row[2] if len(row) > 2 else 0) for row in ids]


def start_all(lane: LaneWork) -> list[Item]:
    items = []
    while item := lane.start(loaded=False):
        items.append(item)
    return items


def read(lane: LaneWork, n: int) -> list[int]:
    """What the drain reads next, read."""
    numbers = []
    for item in lane.upcoming(n):
        item.load = object()
        numbers.append(number(item))
    return numbers


def number(item: Item) -> int:
    return int(item.member[:13])


def done(lane: LaneWork, item: Item, kind: str = "d") -> None:
    lane.end(item, Ended(kind, item.member, item.tries + 1))


STARTS = [
    # (what is in hand, concurrency, proven) → numbers that start at once
    ("nothing", [], 8, True, []),
    ("one", [(1, "a")], 8, True, [1]),
    ("two of one key", [(1, "a"), (2, "a")], 8, True, [1]),
    ("two keys", [(1, "a"), (2, "b")], 8, True, [1, 2]),
    ("more keys than concurrency", [(n, f"k{n}") for n in range(1, 6)], 3, True, [1, 2, 3]),
    ("concurrency of one", [(1, "a"), (2, "b")], 1, True, [1]),
    ("a busy key first", [(1, "a"), (2, "a"), (3, "a"), (4, "b")], 2, True, [1, 4]),
    ("not proven", [(1, "a"), (2, "b")], 8, False, [1]),
    ("not proven with a retry", [(1, "a", 1), (2, "b"), (3, "c")], 8, False, [1, 2]),
    ("not proven, two retries", [(1, "a", 1), (2, "b", 1)], 8, False, [1]),
    ("not proven, concurrency one", [(1, "a", 1), (2, "b")], 1, False, [1]),
    ("a retry before new ones of its key", [(1, "a"), (2, "a", 1)], 8, True, [2]),
    ("events without a key are one key", [(1, "-"), (2, "-"), (3, "b")], 8, True, [1, 3]),
]


@pytest.mark.parametrize(
    ("ids", "concurrency", "proven", "starts"),
    [case[1:] for case in STARTS],
    ids=[case[0] for case in STARTS],
)
def test_what_starts_at_once(
    ids: list[tuple[int, str]], concurrency: int, proven: bool, starts: list[int]
) -> None:
    lane = work(*ids, concurrency=concurrency, proven=proven)

    assert [number(item) for item in start_all(lane)] == starts


def test_the_next_of_a_key_starts_when_the_one_before_has_ended() -> None:
    lane = work((1, "a"), (2, "a"), (3, "b"))
    first, other = start_all(lane)

    done(lane, other)
    assert start_all(lane) == []
    done(lane, first)

    assert [number(item) for item in start_all(lane)] == [2]


def test_outcomes_are_settled_in_the_order_in_which_they_ended() -> None:
    lane = work((1, "a"), (2, "b"), (3, "c"))
    items = start_all(lane)

    for item in reversed(items):
        done(lane, item)

    assert [ended.member for ended in lane.take_ended()] == [i.member for i in reversed(items)]
    assert lane.take_ended() == []


def test_what_is_in_hand_is_not_taken_in_twice() -> None:
    lane = work((1, "a"), (2, "b"))

    lane.feed(numbered([(1, "a"), (2, "b"), (3, "c")]), 256)

    assert lane.unstarted == 3


def test_retries_that_come_later_go_in_the_order_of_their_entries() -> None:
    lane = work((2, "a", 1), (9, "a"), concurrency=1)

    lane.feed(numbered([(1, "a", 1), (3, "a", 1)]), 256)

    order = []
    while item := lane.start(loaded=False):
        order.append(number(item))
        done(lane, item)
    assert order == [1, 2, 3, 9]


def test_a_retry_that_comes_before_what_was_read_is_read_before_anything_starts() -> None:
    lane = work((2, "a"), (3, "a"), proven=False)
    read(lane, 2)
    lane.feed(numbered([(1, "a", 1)]), 2)

    assert lane.start() is None
    assert not lane.ready
    assert read(lane, lane.room) == [1]
    started = lane.start()
    assert started is not None
    assert number(started) == 1


def test_what_could_start_is_read_first_then_what_stands_behind_it() -> None:
    lane = work((1, "a"), (2, "a"), (3, "b"), (4, "c"))

    assert read(lane, 1) == [1]
    assert read(lane, 9) == [3, 4, 2]
    assert read(lane, 9) == []


def test_only_what_was_read_starts() -> None:
    lane = work((1, "a"), (2, "b"))
    for item in lane.upcoming(9):
        item.reading = True
        item.load = object() if item.key == "b" else None

    assert lane.ready
    started = lane.start()
    assert started is not None
    assert number(started) == 2
    assert lane.start() is None


def test_a_stopped_lane_starts_nothing_asks_for_nothing_and_is_idle_when_the_last_ended() -> None:
    lane = work((1, "a"), (2, "b"))
    first = lane.start(loaded=False)
    assert first is not None

    lane.stopping = True

    assert lane.start(loaded=False) is None
    assert not lane.hungry
    assert lane.want().ids == 0
    assert not lane.idle
    done(lane, first)
    assert lane.idle


def test_a_lane_is_idle_when_redis_had_no_more_and_all_of_it_ended() -> None:
    lane = work((1, "a"))
    assert lane.exhausted
    item = lane.start(loaded=False)
    assert item is not None
    assert not lane.idle

    done(lane, item)

    assert lane.idle


def test_a_probe_is_all_that_is_asked_of_a_paused_lane() -> None:
    lane = work((1, "a"), probe=True, proven=False)

    assert not lane.exhausted  # one was asked for, and one came
    assert [number(item) for item in start_all(lane)] == [1]


def test_what_is_put_back_comes_again_and_from_the_beginning() -> None:
    lane = work((1, "a"), (2, "a"), (3, "b"))
    first = lane.start(loaded=False)
    assert first is not None

    dropped = lane.put_back()

    assert sorted(number(item) for item in dropped) == [2, 3]
    assert all(item.dropped for item in dropped)
    want = lane.want()
    assert (want.cursor, want.new, want.old) == ("", 0, 0)
    lane.feed(numbered([(1, "a"), (2, "a"), (3, "b")]), want.ids)
    assert [number(item) for item in start_all(lane)] == [3]
    done(lane, first)
    assert [number(item) for item in start_all(lane)] == [2]


def test_an_answer_that_was_asked_for_before_a_put_back_is_no_beginning() -> None:
    lane = work(*[(n, "a") for n in range(1, 3)], proven=False)
    asked = lane.want()
    assert asked.ids > 0
    lane.put_back()

    lane.feed(numbered([(3, "a"), (4, "a")]), asked.ids)

    assert lane.unstarted == 0
    want = lane.want()
    assert want.cursor == ""
    lane.feed(numbered([(1, "a"), (2, "a"), (3, "a")]), want.ids)
    assert [number(item) for item in start_all(lane)] == [1]


def test_ids_in_hand_are_bounded_however_busy_one_key_is() -> None:
    lane = work(*[(n, "a") for n in range(256)])
    lane.start(loaded=False)
    at = 256

    while (want := lane.want()).ids:
        lane.feed(numbered([(at + n, "a") for n in range(want.ids)]), want.ids)
        at += want.ids

    assert lane.unstarted < IN_HAND
    assert not lane.hungry


def test_with_a_concurrency_of_one_all_events_go_in_order_whatever_their_keys() -> None:
    lane = work((1, "a"), (2, "a"), (3, "b"), (4, "-"), concurrency=1)

    started = []
    while items := start_all(lane):
        started += [number(item) for item in items]
        done(lane, items[0])

    assert started == [1, 2, 3, 4]


def test_with_a_concurrency_of_one_an_event_does_not_pass_one_whose_body_is_not_read() -> None:
    lane = work((1, "a"), (2, "b"), concurrency=1)
    list(lane.upcoming(3))[-1].load = object()

    assert lane.start() is None
    assert not lane.ready


def test_what_is_under_way_keeps_its_key_when_more_may_be() -> None:
    lane = work((1, "a"), (2, "a"), (3, "b"), concurrency=1)
    (first,) = start_all(lane)

    lane.concurrency = 8
    lane.put_back()
    lane.feed(numbered([(1, "a"), (2, "a"), (3, "b")]), 256)

    assert [number(item) for item in start_all(lane)] == [3]
    done(lane, first)
    assert [number(item) for item in start_all(lane)] == [2]


@pytest.mark.parametrize("seed", range(200))
def test_in_whatever_order_a_key_is_never_overtaken_nor_two_of_it_under_way(seed: int) -> None:
    luck = random.Random(seed)
    concurrency = luck.randint(1, 6)
    changes = seed % 2 and concurrency > 1
    waiting = {member(n, luck.choice("abcd")): 0 for n in range(60)}
    lane = LaneWork(held([], proven=luck.random() < 0.7), concurrency, wait=False)
    lane.exhausted = False
    first: dict[str, list[str]] = {}
    flying: list[Item] = []
    asked = None

    for _ in range(2000):
        move = luck.random()
        if move < 0.35:
            if item := lane.start(loaded=False):
                assert item.key not in {other.key for other in flying}
                assert len(flying) < concurrency
                flying.append(item)
                if not item.tries:
                    key = item.key if concurrency > 1 or changes else "all"
                    first.setdefault(key, []).append(item.member)
        elif move < 0.65 and flying:
            item = flying.pop(luck.randrange(len(flying)))
            kind = luck.choice("dddr")
            done(lane, item, kind)
            if kind == "d":
                lane.proven = True
        elif move < 0.7:
            if changes:
                concurrency = lane.concurrency = luck.choice((1, 1, 2, 6))
            lane.put_back()
        elif asked is None:
            ended = lane.take_ended()
            for one in ended:
                if one.kind == "d":
                    del waiting[one.member]
                else:
                    waiting[one.member] += 1
            asked = lane.want()
        else:
            if asked.ids:
                retries = sorted(m for m, tries in waiting.items() if tries)
                new = sorted(m for m, tries in waiting.items() if not tries and m > asked.cursor)
                ids = [(m, waiting[m]) for m in [*retries, *new][: asked.ids + asked.old]]
                lane.feed(ids, asked.ids)
            asked = None

    for members in first.values():
        # Put back and handed out again is the same event's turn, not another one's.
        seen = list(dict.fromkeys(members))
        assert seen == sorted(seen)


def test_what_comes_before_its_date_says_why() -> None:
    early = {member(1): "probe", member(3): "recovery"}
    lane = work((2, "b", 1), (4, "d"))

    lane.feed(numbered([(1, "a", 1), (3, "a", 2), (5, "e", 1)]), 8, early)

    assert {number(item): item.early for item in start_all(lane)} == {
        **{1: "probe", 2: "", 4: "", 5: ""}
    }
