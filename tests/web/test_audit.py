"""The audit: nothing is found where all is well, and everything is found where it is not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask import configuration as rows
from evoflask.audit import Report, audit
from evoflask.models import DeadLetter, Instance, Subscription
from evoflask.outbox import Outbox, verbs
from evoflask.outbox.members import entry_of, size_of
from tests.web import steps
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

P = "evo:{p0}:"
LARGE = "x" * 40_000
"""A body that lies beside its entry."""


@pytest.fixture
def busy(call: Request, instance: str, outbox: Outbox) -> str:
    """A house with something everywhere: delivered, failed, dying, buried, requeued, new, and
    past retention. Answers the id of the lane `a/webhook`."""
    crm = {"name": "crm", "sink": "webhook", "enabled": True, "url": "https://e.com"}
    assert call("POST", "/subscription/a", crm).status_code == 201
    call("POST", "/instance/create", {"instanceName": "b", "webhook": {"url": "https://e.com"}})
    for name in "ab":
        body = [{"event": "CALL", "data": n} for n in range(20)]
        assert call("POST", f"/event/emit/{name}", [*body, *_large()]).status_code == 202
    for how in (steps.delivered, steps.failed, steps.rejected):
        steps.end_some(outbox, how, 2)
    steps.bury(outbox)
    steps.end_some(outbox, steps.rejected, 2)
    call("POST", "/deadletter/requeue", {"all": True, "limit": 1})
    for i in (row.outbox for row in Instance.select()):
        outbox.run(verbs.trim(0, i, entries=2, seconds=900, n=1000))
    a = Instance.get(Instance.name == "a")  # `b` has one of that name too
    mine = (Subscription.name == "webhook") & (Subscription.instance == a)
    lane: str = Subscription.get(mine).lane
    return lane


def _large() -> list[dict[str, Any]]:
    return [{"event": "CALL", "data": LARGE} for _ in range(3)]


def look(outbox: Outbox, **how: Any) -> Report:
    return audit(outbox, pause=0.01, **how)


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_found_where_all_is_well(outbox: Outbox, busy: str, deep: bool) -> None:
    report = look(outbox, deep=deep)

    assert report.findings == []
    assert report.unchecked == []
    assert (report.instances, report.lanes) == (2, 3)
    assert (report.entries > 20) is deep


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_found_in_an_empty_house(application: Flask, outbox: Outbox, deep: bool) -> None:
    assert look(outbox, deep=deep).found == 0


def first(client: redis.Redis, key: str) -> str:
    """A member of a lane's part."""
    found: Any = client.zrange(key, 0, 0) if "waiting" in key else client.hkeys(key)
    return str(found[0].decode())


def _book(client: redis.Redis, lane: str) -> None:
    client.hincrby(f"{P}lane:{lane}", "delivered", 1)


def _total(client: redis.Redis, lane: str) -> None:
    client.hincrby(f"{P}totals", "webhook:routed", 1)


def _waiting(client: redis.Redis, lane: str) -> None:
    client.zrem(f"{P}waiting:{lane}", first(client, f"{P}waiting:{lane}"))


def _dying(client: redis.Redis, lane: str) -> None:
    client.hdel(f"{P}dying:{lane}", first(client, f"{P}dying:{lane}"))


def _due(client: redis.Redis, lane: str) -> None:
    client.zrem(f"{P}due:webhook", lane)


def _late(client: redis.Redis, lane: str) -> None:
    client.zadd(f"{P}due:webhook", {lane: 4e12})


def _grave(client: redis.Redis, lane: str) -> None:
    client.srem(f"{P}graves", lane)


def _aged(client: redis.Redis, lane: str) -> None:
    client.zrem(f"{P}oldest:webhook", lane)


def _weightless(client: redis.Redis, lane: str) -> None:
    client.zrem(f"{P}weight", lane)


def _weighing(client: redis.Redis, lane: str) -> None:
    client.incrby(f"{P}weighing", 5)


def _storing(client: redis.Redis, lane: str) -> None:
    client.incrby(f"{P}storing", 5)


def _flag(client: redis.Redis, lane: str) -> None:
    client.hset(f"{P}lane:{lane}", "on", 0)


def _revision(client: redis.Redis, lane: str) -> None:
    client.hincrby(f"{P}config:{Instance.get(Instance.name == 'a').outbox}", "revision", 1)


def _no_config(client: redis.Redis, lane: str) -> None:
    client.delete(f"{P}config:{Instance.get(Instance.name == 'a').outbox}")


def _no_lane(client: redis.Redis, lane: str) -> None:
    client.delete(f"{P}lane:{lane}")


def _no_row(client: redis.Redis, lane: str) -> None:
    Subscription.delete().where(Subscription.lane == lane).execute()


def _no_instance_row(client: redis.Redis, lane: str) -> None:
    Instance.delete().where(Instance.name == "b").execute()


@pytest.mark.parametrize(
    ("tamper", "kind", "where"),
    [
        (_book, "books", "a/webhook"),
        (_total, "totals", "partition 0"),
        (_waiting, "books", "a/webhook"),
        (_dying, "books", "a/webhook"),
        (_due, "lane", "a/webhook"),
        (_late, "lane", "a/webhook"),
        (_grave, "lane", "a/webhook"),
        (_aged, "lane", "a/webhook"),
        (_weightless, "lane", "a/webhook"),
        (_weighing, "weighing", "partition 0"),
        (_storing, "storing", "partition 0"),
        (_flag, "lane", "a/webhook"),
        (_revision, "instance", "a"),
        (_no_config, "instance", "a"),
        (_no_lane, "lane", "a/webhook"),
        (_no_row, "lane", ""),
        (_no_instance_row, "instance", ""),
    ],
)
def test_what_was_tampered_with_is_found(
    outbox: Outbox,
    busy: str,
    redis_client: redis.Redis,
    tamper: Callable[[redis.Redis, str], None],
    kind: str,
    where: str,
) -> None:
    tamper(redis_client, busy)

    report = look(outbox)

    assert report.found
    found = {(each.kind, each.where if where else "") for each in report.findings}
    assert (kind, where) in found, report.findings


def _i(lane: str) -> str:
    return str(Subscription.get(Subscription.lane == lane).instance.outbox)


def _entry(client: redis.Redis, lane: str) -> None:
    client.xdel(f"{P}outbox:{_i(lane)}", entry_of(first(client, f"{P}waiting:{lane}")))


def _entry_of_the_dying(client: redis.Redis, lane: str) -> None:
    client.xdel(f"{P}outbox:{_i(lane)}", entry_of(first(client, f"{P}dying:{lane}")))


def _retained_entry(client: redis.Redis, lane: str) -> None:
    i = Instance.get(Instance.name == "b").outbox
    client.xdel(f"{P}outbox:{i}", client.xrevrange(f"{P}outbox:{i}", count=1)[0][0])


def _large_one(client: redis.Redis, lane: str) -> str:
    """A member whose body lies beside its entry."""
    members: Any = client.zrange(f"{P}waiting:{lane}", 0, -1)
    return next(m.decode() for m in members if size_of(m.decode()) > len(LARGE))


def _body(client: redis.Redis, lane: str) -> None:
    client.delete(f"{P}body:{_i(lane)}:{entry_of(_large_one(client, lane))}")


def _leaked_body(client: redis.Redis, lane: str) -> None:
    client.set(f"{P}body:{_i(lane)}:1-1", "x")


def _both(client: redis.Redis, lane: str) -> None:
    member = first(client, f"{P}waiting:{lane}")
    client.hset(f"{P}dying:{lane}", member, "1 {}")


def _tries(client: redis.Redis, lane: str) -> None:
    client.hset(f"{P}tries:{lane}", "1700000000000-0000000000:5:-", 3)


def _leak(client: redis.Redis, lane: str) -> None:
    """Off every lane of theirs, and still on the outbox."""
    client.delete(*client.scan_iter(f"{P}waiting:*"))


def _weight(client: redis.Redis, lane: str) -> None:
    client.zincrby(f"{P}weight", 5, lane)
    client.incrby(f"{P}weighing", 5)


def _stored(client: redis.Redis, lane: str) -> None:
    client.zincrby(f"{P}stored", 5, _i(lane))
    client.incrby(f"{P}storing", 5)


def _print(client: redis.Redis, lane: str) -> None:
    client.hset(f"{P}prints:{_i(lane)}", "id", "x")


def _unprinted(client: redis.Redis, lane: str) -> None:
    client.zadd(f"{P}seen:{_i(lane)}", {"id": 1_700_000_000_000.5})


def _prints_of_the_deleted(client: redis.Redis, lane: str) -> None:
    client.hset(f"{P}prints:gone", "id", "x")


def _stored_of_the_deleted(client: redis.Redis, lane: str) -> None:
    client.zincrby(f"{P}stored", 5, "gone")
    client.incrby(f"{P}storing", 5)


def _letter(client: redis.Redis, lane: str) -> None:
    member = first(client, f"{P}waiting:{lane}")
    letter = DeadLetter.get((DeadLetter.lane == lane) & DeadLetter.requeued_at.is_null())
    DeadLetter.update(entry=member).where(DeadLetter.id == letter.id).execute()


def _foreign(client: redis.Redis, lane: str) -> None:
    """An entry under another key than it was accepted with."""
    member = first(client, f"{P}waiting:{lane}")
    client.zadd(f"{P}waiting:{lane}", {member.rpartition(":")[0] + ":zzzzzzzz": 0})
    client.hincrby(f"{P}lane:{lane}", "routed", 1)


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (_entry, "delivery"),
        (_entry_of_the_dying, "delivery"),
        (_retained_entry, "outbox"),
        (_body, "delivery"),
        (_leaked_body, "body"),
        (_both, "delivery"),
        (_tries, "delivery"),
        (_leak, "entry"),
        (_weight, "lane"),
        (_stored, "stored"),
        (_print, "ids"),
        (_unprinted, "ids"),
        (_prints_of_the_deleted, "instance"),
        (_stored_of_the_deleted, "instance"),
        (_letter, "letter"),
        (_foreign, "delivery"),
    ],
)
def test_the_deep_one_finds_what_lies_in_the_wrong_place(
    outbox: Outbox,
    busy: str,
    redis_client: redis.Redis,
    tamper: Callable[[redis.Redis, str], None],
    kind: str,
) -> None:
    tamper(redis_client, busy)

    assert kind in kinds(look(outbox, deep=True))


def test_a_change_that_redis_learns_of_in_a_moment_is_no_finding(outbox: Outbox, busy: str) -> None:
    Subscription.update(enabled=False).where(Subscription.lane == busy).execute()
    Instance.update(revision=Instance.revision + 1).execute()
    pushed = threading.Timer(0.2, lambda: rows.push_all(outbox))
    pushed.start()

    report = audit(outbox, pause=0.3)

    pushed.join()
    assert report.findings == []


def test_a_mended_lane_is_found_no_more(
    outbox: Outbox, busy: str, redis_client: redis.Redis
) -> None:
    _flag(redis_client, busy)
    _revision(redis_client, busy)
    redis_client.hincrby(f"{P}config:{Instance.get(Instance.name == 'a').outbox}", "revision", -1)
    assert look(outbox).found

    rows.push_all(outbox)

    assert look(outbox, deep=True).found == 0


@pytest.mark.parametrize("deep", [False, True])
def test_it_finds_nothing_beside_traffic(
    application: Flask, outbox: Outbox, call: Request, busy: str, deep: bool
) -> None:
    """What a lane has changes between any two looks; no two of them are compared."""
    done = threading.Event()
    failures: list[BaseException] = []

    def traffic() -> None:
        client = application.test_client()
        try:
            while not done.is_set():
                for name in "ab":
                    body = [{"event": "CALL", "data": n} for n in range(10)]
                    client.post(
                        f"/event/emit/{name}",
                        json=[*body, *_large()],
                        headers={"apikey": "test-key-of-the-suite"},
                    )
                for how in (steps.delivered, steps.failed, steps.rejected):
                    steps.end_some(outbox, how, 8)
                steps.bury(outbox)
                for row in list(Instance.select()):
                    outbox.run(verbs.trim(0, row.outbox, entries=2, seconds=900, n=100))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=traffic) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        reports = [look(outbox, deep=deep) for _ in range(8)]
    finally:
        done.set()
        for thread in threads:
            thread.join()

    assert failures == []
    assert [report.findings for report in reports] == [[]] * 8
    assert look(outbox, deep=True).findings == []
