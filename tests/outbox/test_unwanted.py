"""Events that no subscription got: bounds, ages and bytes of what the outbox keeps of them."""

from __future__ import annotations

import pytest
import redis

from evoflask.outbox import Limits, NewEntry, Outbox, entries, keys, verbs
from tests.outbox import test_verbs
from tests.outbox.test_usage import GB, info, shimmed, stored
from tests.outbox.test_verbs import append, entry

outbox = test_verbs.outbox
"""The fixture."""
KEY = keys.unwanted(0, "i1")


def unwanted(n: int, size: int = 20) -> NewEntry:
    why = b'["%s"]' % (b"x" * size)
    return NewEntry(f"id-{n}", False, "CALL", b"{}", b"1", (), why=why)


def trim(outbox: Outbox, *, entries: int = 1000, seconds: float = 900) -> None:
    """Trim the instance as the clock does."""
    while outbox.run(verbs.trim(0, "i1", entries=entries, seconds=seconds, n=100))[1]:
        pass


def test_an_instance_keeps_the_last_thousand(outbox: Outbox, redis_client: redis.Redis) -> None:
    for first in range(0, 1500, 100):
        append(outbox, *(unwanted(n) for n in range(first, first + 100)), retain_entries=5000)

    assert 1000 <= redis_client.xlen(KEY) < 1100
    assert entries.unwanted(outbox, 0, "i1", "id-399") is None
    assert entries.unwanted(outbox, 0, "i1", "id-500") is not None
    assert redis_client.xlen(keys.outbox(0, "i1")) == 0


def test_a_smaller_retention_bounds_them_too(outbox: Outbox, redis_client: redis.Redis) -> None:
    for n in range(200):
        append(outbox, unwanted(n), retain_entries=7)
    assert redis_client.xlen(KEY) < 7 + 100

    trim(outbox, entries=7)

    assert redis_client.xlen(KEY) == 7


def test_no_retention_keeps_none(outbox: Outbox, redis_client: redis.Redis) -> None:
    append(outbox, unwanted(1), retain_entries=0)
    append(outbox, unwanted(2), retain_seconds=0)

    assert redis_client.xlen(KEY) == 0


def test_they_take_no_place_of_delivered_events(outbox: Outbox, redis_client: redis.Redis) -> None:
    append(outbox, entry(1), retain_entries=5)
    for n in range(50):
        append(outbox, unwanted(n), retain_entries=5)

    assert redis_client.xlen(keys.outbox(0, "i1")) == 1
    assert redis_client.hget(keys.of(0, "config:i1"), "kept") == b"1"


def test_the_clock_forgets_the_old_ones_of_an_instance_that_fell_silent(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, *(unwanted(n) for n in range(20)), retain_seconds=60)
    date = redis_client.zscore(keys.of(0, "aging"), "i1")
    first = int(redis_client.xrange(KEY, count=1)[0][0].partition(b"-")[0])
    assert 0 <= first + 60_000 - date <= 1_000  # the script reads its clock first

    trim(outbox, seconds=60)
    assert redis_client.xlen(KEY) == 20
    trim(outbox, seconds=0)

    assert redis_client.exists(KEY) == 0
    assert redis_client.zscore(keys.of(0, "aging"), "i1") is None


def test_their_bytes_are_counted_until_they_are_forgotten(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, *(unwanted(n, 500) for n in range(100)))
    total, mine = stored(redis_client)
    assert total == mine
    assert 100 * 500 < total < 100 * 700

    trim(outbox, entries=0, seconds=0)

    assert stored(redis_client) == (0, 0)


def test_entries_and_unwanted_events_together_are_counted_and_dated(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, unwanted(1), entry(2))
    assert redis_client.zscore(keys.of(0, "aging"), "i1") is not None
    total, _ = stored(redis_client)
    outbox.run(verbs.configure(0, "i1", 2, "e1", []))
    while outbox.run(verbs.sweep(0)):
        pass

    trim(outbox, entries=0, seconds=0)

    assert total > 0
    assert stored(redis_client) == (0, 0)
    assert redis_client.xlen(keys.outbox(0, "i1")) == 0


@pytest.mark.parametrize("beside", [[entry(2)], []], ids=["wanted", "alone"])
def test_none_is_kept_where_append_finds_that_memory_is_short(
    outbox: Outbox, redis_client: redis.Redis, beside: list[NewEntry]
) -> None:
    call = verbs.append(0, "i1", 1, "e1", [unwanted(1), *beside], Limits())
    short = info(used_memory=900_000_000, maxmemory=GB, used_memory_startup=890_000_000)

    assert outbox.run(shimmed(call, short)).status == "ok"

    assert redis_client.exists(KEY) == 0


def test_where_no_clock_of_this_release_forgets_them_their_key_expires(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, unwanted(1), retain_seconds=60)

    assert 60_000 < redis_client.pttl(KEY) <= 120_000


def test_a_deleted_instance_has_none(outbox: Outbox, redis_client: redis.Redis) -> None:
    append(outbox, *(unwanted(n) for n in range(20)))
    outbox.run(verbs.configure(0, "i1", 2, "e1", [], deleted=True))
    while outbox.run(verbs.sweep(0)):
        pass

    assert redis_client.exists(KEY) == 0
    assert stored(redis_client) == (0, 0)
