"""Turns for threads, and the account of bytes."""

from __future__ import annotations

import random

import pytest

from evoflask.serving.account import Account
from evoflask.serving.turns import Turns


def started(turns: Turns[str]) -> list[str]:
    found = []
    while (item := turns.next()) is not None:
        found.append(item)
    return found


def test_a_holder_gets_its_share_and_others_get_the_rest() -> None:
    turns: Turns[str] = Turns(4)
    for n in range(10):
        turns.add(f"a{n}", "a", 2)
    turns.add("b0", "b", 2)

    assert started(turns) == ["a0", "b0", "a1"]
    assert not turns.starving  # those of a wait for their own
    turns.done("a")
    assert started(turns) == ["a2"]


def test_holders_take_turns() -> None:
    turns: Turns[str] = Turns(1)
    for n in range(3):
        turns.add(f"a{n}", "a", 1)
    turns.add("b0", "b", 1)
    order = []

    while found := started(turns):
        order += found
        turns.done(found[0][0])

    assert order == ["a0", "b0", "a1", "a2"]


def test_who_waits_for_a_thread_and_not_for_its_share_starves() -> None:
    turns: Turns[str] = Turns(1)
    turns.add("a0", "a", 1)
    assert started(turns) == ["a0"]

    turns.add("b0", "b", 1)

    assert turns.starving


@pytest.mark.parametrize("seed", range(50))
def test_every_request_is_started_once_and_bounds_hold(seed: int) -> None:
    luck = random.Random(seed)
    turns: Turns[str] = Turns(5)
    shares = {"a": 1, "b": 3, "c": 9}
    added: list[str] = []
    under_way: list[str] = []
    begun: list[str] = []
    for n in range(300):
        holder = luck.choice("abc")
        added.append(f"{holder}{n}")
        turns.add(added[-1], holder, shares[holder])
        for item in started(turns):
            under_way.append(item)
            begun.append(item)
        assert len(under_way) <= 5
        assert all(sum(i[0] == h for i in under_way) <= share for h, share in shares.items())
        while under_way and luck.random() < 0.6:
            turns.done(under_way.pop(luck.randrange(len(under_way)))[0])
    while under_way or len(begun) < len(added):
        if under_way:
            turns.done(under_way.pop()[0])
        new = started(turns)
        under_way += new
        begun += new

    assert sorted(begun) == sorted(added)
    assert all([b for b in begun if b[0] == h] == [a for a in added if a[0] == h] for h in shares)


def test_a_known_holder_does_not_wait_for_a_thousand_unknown_ones() -> None:
    turns: Turns[str] = Turns(1)
    for n in range(1_000):
        turns.add(f"x{n}", f"x{n}", 1, known=False)
    turns.add("a0", "a", 1)
    order: list[str] = []

    while found := started(turns):
        order += found
        turns.done("a" if found == ["a0"] else found[0])

    assert len(order) == 1_001
    assert order.index("a0") <= 2


def test_strangers_share_a_part_and_known_keys_have_the_rest() -> None:
    account = Account(100, 30)
    account.add(30, known=False)

    assert account.full(known=False)
    assert not account.full(known=True)
    account.move(30)
    assert not account.full(known=False)
    assert account.try_add(70)
    assert not account.try_add(1)
    assert account.full(known=True)
    account.add(1, known=True)
    assert account.overdrawn
