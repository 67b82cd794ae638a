"""Users of Redis' memory, as append, the clock and the sentences see them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from evoflask.outbox import Limits, NewEntry, Outbox, keys, usage, verbs
from evoflask.outbox.usage import Usage
from tests.outbox import test_verbs
from tests.outbox.test_verbs import append, entry

outbox = test_verbs.outbox
"""The fixture."""
MB = 10**6
GB = 10**9


def info(**fields: int) -> str:
    return "# Memory\r\n" + "".join(f"{name}:{n}\r\n" for name, n in fields.items())


def shimmed(call: verbs.Call[verbs.Appended], text: str) -> verbs.Call[verbs.Appended]:
    """Return the call with a script for which INFO answers `text`."""
    head = f"""
    local real = redis
    local redis = {{ call = function(name, ...)
      if name == 'INFO' then return {text!r} end
      return real.call(name, ...)
    end }}
    """
    # The library behind takes `redis.call` from here.
    made = verbs.Script(call.script.name, head + call.script.text)
    return verbs.Call(made, call.prefix, call.args, call.read)


@pytest.fixture
def answer(outbox: Outbox, redis_client: redis.Redis) -> Callable[..., str]:
    """Return a function that appends, for given fields of INFO and weights of lanes."""

    def append_to(waiting: int = 5_000, lanes: int = 1, size: int = 100, **fields: int) -> str:
        redis_client.delete(keys.of(0, "weight"))
        redis_client.set(keys.of(0, "weighing"), waiting)
        weights = {f"other{n}": waiting // lanes for n in range(lanes - 1)}
        redis_client.zadd(keys.of(0, "weight"), {"s1": waiting // lanes, **weights})
        new = entry(1, data=b'"%s"' % (b"x" * size))
        call = verbs.append(0, "i1", 1, "e1", [new], Limits())
        found = outbox.run(shimmed(call, info(**fields)))
        return found.full or found.status

    return append_to


def test_append_refuses_nobody_for_foreign_keys(answer: Callable[..., str]) -> None:
    assert answer(used_memory=860 * MB, maxmemory=GB) == "ok"
    assert answer(used_memory=970 * MB, maxmemory=GB) == "ok"


def test_append_refuses_nobody_for_buffers_of_clients_of_replicas_and_of_the_file(
    answer: Callable[..., str],
) -> None:
    assert answer(used_memory=990 * MB, maxmemory=GB, mem_clients_normal=900 * MB) == "ok"
    assert answer(used_memory=2 * GB, maxmemory=GB, mem_not_counted_for_evict=1_100 * MB) == "ok"


def test_append_refuses_all_where_redis_would(answer: Callable[..., str]) -> None:
    assert answer(used_memory=GB, maxmemory=GB) == "memory"
    assert answer(used_memory=1_200 * MB, maxmemory=GB, mem_not_counted_for_evict=MB) == "memory"


def test_append_refuses_the_heavy_lane_for_its_own_bytes(answer: Callable[..., str]) -> None:
    assert answer(waiting=850 * MB, used_memory=860 * MB, maxmemory=GB) == "share"
    # Foreign keys reduce the room.
    assert answer(waiting=170 * MB, used_memory=970 * MB, maxmemory=GB) == "share"
    assert answer(waiting=100 * MB, used_memory=900 * MB, maxmemory=GB) == "ok"


def test_append_refuses_many_small_lanes_that_are_the_excess_together(
    answer: Callable[..., str],
) -> None:
    full = {"waiting": 850 * MB, "used_memory": 860 * MB, "maxmemory": GB}

    assert answer(lanes=20_000, **full) == "share"  # 42 kB each


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"used_memory": 10 * GB},
        {"used_memory": 10 * GB, "maxmemory": 0},
        {"maxmemory": GB},
        {"used_memory": 860 * MB, "maxmemory": GB, "used_memory_startup": 0},
    ],
)
def test_append_goes_on_where_redis_has_no_limit_or_leaves_a_field_out(
    answer: Callable[..., str], fields: dict[str, int]
) -> None:
    assert answer(**fields) == "ok"


def used(waiting: int = 5_000, stored: int = 0, **fields: int) -> Usage:
    return usage.parse(info(**fields), waiting, stored or waiting, 0)


@pytest.mark.parametrize(
    ("found", "gives_way"),
    [
        (used(used_memory=860 * MB, maxmemory=GB), False),
        (used(used_memory=3 * GB, maxmemory=GB, mem_clients_normal=2_500 * MB), False),
        (used(used_memory=3 * GB, maxmemory=GB, mem_not_counted_for_evict=2_500 * MB), False),
        (used(MB, used_memory=999 * MB, maxmemory=GB), False),
        (used(5_000, 800 * MB, used_memory=820 * MB, maxmemory=GB), False),  # the retention's
        (used(800 * MB, used_memory=820 * MB, maxmemory=GB), True),
        (used(170 * MB, used_memory=970 * MB, maxmemory=GB), True),
        (used(800 * MB, used_memory=820 * MB, maxmemory=0), False),
        (used(800 * MB, used_memory=820 * MB), False),
        (used(800 * MB), False),
    ],
)
def test_lanes_give_way_only_for_their_own_bytes_and_where_that_helps(
    found: Usage, gives_way: bool
) -> None:
    assert (found.pressure >= 0.78 and found.excess(0.78) > 0) is gives_way


def test_each_byte_has_one_user_and_the_words_name_the_largest() -> None:
    found = usage.parse(
        info(
            used_memory=1_000 * MB,
            maxmemory=1_100 * MB,
            mem_clients_normal=60 * MB,
            mem_clients_slaves=50 * MB,
            mem_replication_backlog=10 * MB,
            mem_aof_buffer=5 * MB,
            used_memory_startup=MB,
        ),
        30 * MB,
        40 * MB,
        2 * MB,
    )

    assert found.users == {
        "lanes": 30 * MB,
        "retained": 10 * MB,
        "log": 2 * MB,
        "clients": 60 * MB,
        "replicas": 60 * MB,
        "aof": 5 * MB,
        "redis": MB,
        "others": 832 * MB,
    }
    assert sum(found.users.values()) == found.used
    assert usage.sentence(found).startswith("Redis uses 1 GB of 1.1 GB: other keys 832 MB, ")


def stored(redis_client: redis.Redis) -> tuple[int, float]:
    total = redis_client.get(keys.of(0, "storing"))
    return int(total or 0), float(redis_client.zscore(keys.of(0, "stored"), "i1") or 0)


def test_what_an_outbox_stores_is_counted_until_it_is_erased(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, *(entry(n, data=b'"%s"' % (b"x" * 1_000)) for n in range(20)))
    total, mine = stored(redis_client)
    assert total == mine
    assert 20 * 1_000 < total < 20 * 1_500

    append(outbox, entry(99), retain_entries=5)
    assert stored(redis_client)[0] > total  # the lane has all of them
    (held,) = outbox.run(verbs.take(0, "webhook", "token", hold=5, lanes=1, ids=60)).lanes
    while held.ids:
        ended = [verbs.Ended("d", member, 1) for member, _ in held.ids]
        want = verbs.Want(60)
        ids = outbox.run(verbs.settle(0, "s1", held.token, ended, hold=5, want=want)).ids
        held = verbs.Held(**{**{f: getattr(held, f) for f in held.__slots__}, "ids": ids})
    while outbox.run(verbs.trim(0, "i1", entries=0, seconds=0, n=100))[0]:
        pass

    assert stored(redis_client) == (0, 0)


def test_entries_of_the_release_before_are_erased_without_being_counted(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, NewEntry("ws", False, "CALL", b"{}", b"1", (), ws=True), retain_seconds=0)
    (row,) = redis_client.xrange(keys.outbox(0, "i1"))
    redis_client.xdel(keys.outbox(0, "i1"), row[0])
    old = {name: value for name, value in row[1].items() if name != b"w"}
    redis_client.xadd(keys.outbox(0, "i1"), old)  # type: ignore[arg-type]

    while outbox.run(verbs.trim(0, "i1", entries=0, seconds=0, n=100))[0]:
        pass

    assert redis_client.xlen(keys.outbox(0, "i1")) <= 1
    assert stored(redis_client)[0] >= 0


def test_a_deleted_instance_stores_nothing(outbox: Outbox, redis_client: redis.Redis) -> None:
    append(outbox, *(entry(n) for n in range(20)))
    outbox.run(verbs.configure(0, "i1", 2, "e1", [], deleted=True))

    while outbox.run(verbs.sweep(0)):
        pass

    assert stored(redis_client) == (0, 0)


def recounted(outbox: Outbox, i: str = "i1", n: int = 3) -> tuple[int, int]:
    """Bytes before and after a whole recount, a few entries a call."""
    done = False
    while not done:
        done, kept, found = outbox.run(verbs.recount(0, i, n=n))
    return kept, found


def test_a_wrong_sum_of_an_outbox_becomes_right_in_pieces(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, *(entry(n) for n in range(20)))
    append(outbox, NewEntry("none", False, "CALL", b"{}", b"1", (), why=b"no"))
    right = stored(redis_client)
    redis_client.zincrby(keys.of(0, "stored"), 777, "i1")
    redis_client.incrby(keys.of(0, "storing"), 777)

    kept, found = recounted(outbox)

    assert (kept, found) == (right[0] + 777, right[0])
    assert stored(redis_client) == right
    assert recounted(outbox, n=100) == (right[0], right[0])
    redis_client.zrem(keys.of(0, "stored"), "i1")
    redis_client.set(keys.of(0, "storing"), 0)
    recounted(outbox)
    assert stored(redis_client) == right


def test_a_recount_is_right_beside_appends_and_erasures(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, *(entry(n) for n in range(20)))
    redis_client.zincrby(keys.of(0, "stored"), 777, "i1")
    redis_client.incrby(keys.of(0, "storing"), 777)

    for n in range(4):
        outbox.run(verbs.recount(0, "i1", n=3))
        # Some are erased before the recount's place, the next ones behind it.
        (held,) = outbox.run(verbs.take(0, "webhook", f"t{n}", hold=5, lanes=1, ids=4)).lanes
        ended = [verbs.Ended("d", member, 1) for member, _ in held.ids]
        outbox.run(verbs.settle(0, "s1", held.token, ended, hold=0))
        outbox.run(verbs.trim(0, "i1", entries=0, seconds=0, n=100))
        append(outbox, entry(100 + n))
    recounted(outbox)

    assert stored(redis_client) == outbox_bytes(redis_client)
    assert not redis_client.exists(keys.of(0, "recount"))


def outbox_bytes(redis_client: redis.Redis) -> tuple[int, float]:
    """Return the value that `stored` must have, by the entries themselves."""
    rows = redis_client.xrange(keys.outbox(0, "i1"))
    total = sum(int(row[b"w"]) for _, row in rows)
    return total, float(total)


def test_a_recount_forgets_fingerprints_whose_id_is_gone(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, entry(1, given=True))
    redis_client.hset(keys.of(0, "prints:i1"), "forgotten by an older release", "x")

    recounted(outbox)

    assert redis_client.hkeys(keys.of(0, "prints:i1")) == [b"id1"]


def test_the_sum_of_all_outboxes_becomes_right(outbox: Outbox, redis_client: redis.Redis) -> None:
    append(outbox, entry(1))
    right = stored(redis_client)
    redis_client.incrby(keys.of(0, "storing"), -5)

    assert outbox.run(verbs.resum(0, most=0)) == (right[0] - 5, right[0] - 5)
    assert outbox.run(verbs.resum(0, most=10)) == (right[0] - 5, right[0])
    assert stored(redis_client) == right


def test_sweeping_a_deleted_instance_takes_along_what_an_older_release_left(
    outbox: Outbox, redis_client: redis.Redis
) -> None:
    append(outbox, entry(1))
    outbox.run(verbs.configure(0, "i1", 2, "e1", [], deleted=True))
    redis_client.hset(keys.of(0, "prints:i1"), "id1", "x")  # by a clock of that release

    while outbox.run(verbs.sweep(0)):
        pass

    assert not redis_client.exists(keys.of(0, "prints:i1"))


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (used(used_memory=500 * MB, maxmemory=GB), "WELL"),
        (used(used_memory=2 * GB), "WELL"),
        (used(used_memory=860 * MB, maxmemory=GB), "OTHERS"),
        (used(used_memory=900 * MB, maxmemory=GB, mem_clients_normal=880 * MB), "OTHERS"),
        (used(5_000, 730 * MB, used_memory=750 * MB, maxmemory=GB), "RETENTION"),
        (used(830 * MB, used_memory=850 * MB, maxmemory=GB), "LANES"),
        (used(used_memory=1_001 * MB, maxmemory=GB), "FULL"),
    ],
)
def test_what_is_reported_of_memory_names_its_cause(found: Usage, state: str) -> None:
    assert usage.state(found).name == state
