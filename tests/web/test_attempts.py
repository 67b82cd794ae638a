"""The delivery log: `GET /attempt` and `flask attempts`, and how rows come into it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask import attempts, db, schemas
from evoflask.delivery.drain import Drain
from evoflask.dev.receiver import Receiver
from evoflask.errors import DatabaseDown
from evoflask.models import DeliveryLog, Instance
from evoflask.outbox import Outbox, verbs
from evoflask.outbox.attempts import Place, pack, unpack
from evoflask.settings import Settings
from evoflask.sinks.base import MAX_ANSWER, Outcome
from tests.conftest import API_KEY
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

SECRET = "a-key-that-nobody-shall-see"
Deliver = Callable[..., None]
Log = Callable[..., bool]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def deliver(settings: Callable[..., Settings], application: Flask, outbox: Outbox) -> Deliver:
    """All that is due is tried once by a drain with some settings; then the clock writes."""

    def run(**changes: Any) -> None:
        made = settings(retry_schedule=(600.0,), **changes)
        asyncio.run(drain(made))
        attempts.move(outbox, 0, time.monotonic() + 5)

    return run


async def drain(settings: Settings) -> None:
    worker = Drain(settings, ["webhook"])
    await worker.start()
    try:
        await worker.drain_until_quiet(10, 0.5)
    finally:
        await worker.stop(5)


@pytest.fixture
def log(outbox: Outbox) -> Log:
    """Hands attempts over as a drain would: `log("name", rows, place=...)`."""

    def run(name: str, rows: Sequence[tuple[Any, ...]], **how: Any) -> bool:
        place = how.pop("place", Place(1, "a", "webhook", "webhook"))
        packed = pack({row[0]: place for row in rows}, rows)
        return outbox.run(verbs.log(0, name, len(rows), packed, how.pop("dropped", 0), **how))

    return run


def tried(n: int = 0, **how: Any) -> tuple[Any, ...]:
    """The fields of one attempt."""
    fields = {
        "lane": "a1b2", "entry": f"17000000000{n:02}-0", "event_id": f"event-{n}", "event": "CALL",
        "number": 1, "at": time.time() + n / 1000, "seconds": 0.25, "outcome": "delivered",
        "code": "200", "detail": "", "host": "example.com", "answer": "ok",
    }  # fmt: skip
    return tuple((fields | how).values())


def subscribe(call: Request, url: str, **fields: Any) -> None:
    body = {"webhook": {"enabled": True, "url": url, "events": [], **fields}}
    assert call("POST", "/webhook/set/a", body).status_code == 201


def emit(call: Request, event_id: str, event: str = "CALL") -> None:
    answer = call("POST", "/event/emit/a", {"event": event, "id": event_id, "data": {"n": 1}})
    assert answer.status_code == 202


def shown(call: Request, query: str = "", key: str = API_KEY) -> list[dict[str, Any]]:
    answer = call("GET", f"/attempt?{query}", key=key)
    assert answer.status_code == 200, answer.json
    return answer.json["attempts"]  # type: ignore[index]


def ids(call: Request, query: str = "", key: str = API_KEY) -> list[str]:
    return [each["eventId"] for each in shown(call, query, key)]


# -- what is logged -------------------------------------------------------------------------


def test_a_delivery_that_worked_is_logged_with_what_was_answered(
    call: Request, instance: str, receiver: Receiver, deliver: Deliver
) -> None:
    subscribe(call, receiver.url("/status/201?echo=1"))
    emit(call, "one")

    deliver()

    (found,) = shown(call)
    assert found["instance"] == "a"
    assert found["subscription"] == found["sink"] == "webhook"
    assert (found["event"], found["eventId"], found["try"]) == ("CALL", "one", 1)
    assert (found["outcome"], found["code"], found["reason"]) == ("delivered", "201", None)
    assert found["host"] == f"127.0.0.1:{receiver.port}"
    assert found["answer"].startswith("POST /status/201?")
    assert 0 < found["seconds"] < 30
    assert found["at"].endswith("Z")


def test_a_failure_is_logged_with_its_reason_and_at_which_try(
    call: Request, instance: str, receiver: Receiver, deliver: Deliver
) -> None:
    subscribe(call, receiver.url("/status/500"))
    emit(call, "one")
    deliver()
    subscribe(call, receiver.url("/status/410"))
    call("POST", "/lane/a/webhook/resume")

    deliver()

    second, first = shown(call)
    assert (first["outcome"], first["code"], first["try"]) == ("refused", "500", 1)
    assert first["reason"].startswith("answered 500 Internal Server Error")
    assert first["answer"] == '{"error": "as told"}'
    assert (second["outcome"], second["code"], second["try"]) == ("rejected", "410", 2)


def test_an_answer_that_repeats_a_secret_is_logged_without_it(
    call: Request, instance: str, receiver: Receiver, deliver: Deliver
) -> None:
    headers = {"X-Api-Key": SECRET}
    for status in (200, 500):
        subscribe(call, receiver.url(f"/status/{status}?echo=headers"), headers=headers)
        emit(call, f"of-{status}")
        deliver()

    found = shown(call)

    assert ids(call) == ["of-500", "of-200"]
    assert all(each["answer"] for each in found)
    assert SECRET not in str(found)


def test_the_log_of_failures_has_no_delivery_that_worked(
    call: Request, instance: str, receiver: Receiver, deliver: Deliver
) -> None:
    subscribe(call, receiver.url("/ok"))
    emit(call, "good")
    deliver(attempts_log="failures")
    subscribe(call, receiver.url("/status/500"))
    emit(call, "bad")

    deliver(attempts_log="failures")

    assert ids(call) == ["bad"]


def test_a_log_that_is_off_has_nothing(
    call: Request, instance: str, receiver: Receiver, deliver: Deliver
) -> None:
    subscribe(call, receiver.url("/status/500"))
    emit(call, "one")

    deliver(attempts_log="off")

    assert shown(call) == []


# -- how it comes there ---------------------------------------------------------------------


def test_what_is_packed_is_unpacked_as_it_was() -> None:
    rows = [tried(1), tried(2, answer="ü" * 10)]
    places = {"a1b2": Place(7, "a", "crm", "webhook")}

    found = unpack(pack(places, rows))

    assert found == (places, rows)


def test_a_batch_that_comes_twice_is_written_once(outbox: Outbox, call: Request, log: Log) -> None:
    log("one", [tried(1), tried(2)])
    log("one", [tried(1), tried(2)])
    attempts.move(outbox, 0, time.monotonic() + 5)
    log("one", [tried(1), tried(2)])
    log("two", [tried(3)])

    attempts.move(outbox, 0, time.monotonic() + 5)

    assert ids(call) == ["event-3", "event-2", "event-1"]


def test_a_batch_that_cannot_be_read_keeps_no_other_from_being_written(
    outbox: Outbox, call: Request, log: Log, redis_client: redis.Redis
) -> None:
    redis_client.xadd("evo:{p0}:attempts", {"name": "bad", "rows": b"nonsense"})
    log("one", [tried(1)])

    attempts.move(outbox, 0, time.monotonic() + 5)

    assert ids(call) == ["event-1"]
    assert redis_client.xlen("evo:{p0}:attempts") == 0


def test_attempts_wait_in_redis_while_the_database_is_away(
    outbox: Outbox, call: Request, log: Log, redis_client: redis.Redis
) -> None:
    log("one", [tried(1)])
    with db.writing():
        db.database.execute_sql("ALTER TABLE delivery_log RENAME TO away")
    with pytest.raises(DatabaseDown):
        attempts.move(outbox, 0, time.monotonic() + 5)
    waiting = redis_client.xlen("evo:{p0}:attempts")
    with db.writing():
        db.database.execute_sql("ALTER TABLE away RENAME TO delivery_log")

    attempts.move(outbox, 0, time.monotonic() + 5)

    assert waiting == 1
    assert ids(call) == ["event-1"]


def test_what_redis_has_no_room_for_is_dropped_and_counted(
    call: Request, application: Flask, log: Log, redis_client: redis.Redis
) -> None:
    kept = [log(f"batch-{n}", [tried(n)], batches=2) for n in range(4)]
    short = log("short", [tried(9)], share=0.0, dropped=5)

    numbers = call("GET", "/metrics").text

    assert kept == [True, True, False, False]
    assert not short
    assert redis_client.xlen("evo:{p0}:attempts") == 2
    assert "evoflask_attempts_logged_total 2.0" in numbers
    assert 'evoflask_attempts_dropped_total{where="redis"} 3.0' in numbers
    assert 'evoflask_attempts_dropped_total{where="drain"} 5.0' in numbers


# -- how long it stays ----------------------------------------------------------------------


def test_the_oldest_attempts_go_beyond_a_number(outbox: Outbox, call: Request, log: Log) -> None:
    log("one", [tried(n) for n in range(10)])
    attempts.move(outbox, 0, time.monotonic() + 5)

    gone = attempts.forget(3600, 4, time.monotonic() + 5)

    assert gone == 6
    assert ids(call) == ["event-9", "event-8", "event-7", "event-6"]


def test_the_log_is_shortened_by_one_statement_whatever_the_number(
    outbox: Outbox, call: Request, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="peewee")

    for n in range(1, 5):
        log(f"batch-{n}", [tried(m) for m in range(n + 1)])
        attempts.move(outbox, 0, time.monotonic() + 5)
        assert attempts.forget(3600, 1, time.monotonic() + 5) == n + (n > 1)

    statements = {str(record.msg[0]) for record in caplog.records if record.name == "peewee"}
    deletes = [text for text in statements if text.startswith('DELETE FROM "delivery_log"')]
    # The driver keeps what it prepared: each further text is memory of the clock's.
    assert len(deletes) == 1


def test_attempts_go_beyond_an_age(outbox: Outbox, call: Request, log: Log) -> None:
    log("one", [tried(1, at=time.time() - 7200), tried(2)])
    attempts.move(outbox, 0, time.monotonic() + 5)

    gone = attempts.forget(3600, 1000, time.monotonic() + 5)

    assert gone == 1
    assert ids(call) == ["event-2"]


def test_the_log_of_a_deleted_instance_goes_and_its_heir_never_sees_it(
    outbox: Outbox, call: Request, instance: str, log: Log
) -> None:
    old = Instance.get(Instance.name == "a").id
    log("one", [tried(1)], place=Place(old, "a", "webhook", "webhook"))
    attempts.move(outbox, 0, time.monotonic() + 5)
    assert call("DELETE", "/instance/delete/a").status_code == 200
    call("POST", "/instance/create", {"instanceName": "a", "token": "token-b"})
    seen = ids(call, "instance=a")

    nothing_left = attempts.forget_instance(old, time.monotonic() + 5)

    assert seen == []
    assert nothing_left
    assert DeliveryLog.select().count() == 0


# -- asking ---------------------------------------------------------------------------------


@pytest.fixture
def some(outbox: Outbox, call: Request, instance: str, log: Log) -> None:
    """Attempts of two instances."""
    call("POST", "/instance/create", {"instanceName": "b", "token": "token-b"})
    mine, other = (Instance.get(Instance.name == name).id for name in "ab")
    log("one", [tried(1), tried(2, event="MESSAGES_UPSERT", outcome="refused")],
        place=Place(mine, "a", "webhook", "webhook"))  # fmt: skip
    log("two", [tried(3, lane="c3d4")], place=Place(other, "b", "crm", "webhook"))
    log("three", [tried(4, at=1_600_000_000.0)], place=Place(mine, "a", "crm", "webhook"))
    attempts.move(outbox, 0, time.monotonic() + 5)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {1, 2, 3, 4}),
        ("instance=a", {1, 2, 4}),
        ("subscription=crm", {3, 4}),
        ("instance=a&subscription=crm", {4}),
        ("event=messages.upsert", {2}),
        ("id=event-3", {3}),
        ("outcome=refused", {2}),
        ("since=2022-01-01", {1, 2, 3}),
        ("until=1600000001", {4}),
        ("outcome=refused&id=event-1", set()),
    ],
)
def test_attempts_are_found_by_each_filter(
    call: Request, some: None, query: str, expected: set[int]
) -> None:
    assert set(ids(call, query)) == {f"event-{n}" for n in expected}


def test_pages_follow_each_other(call: Request, some: None) -> None:
    pages = []
    after: str | None = ""
    while after is not None:
        query = f"limit=3&after={after}" if after else "limit=3"
        answer = call("GET", f"/attempt?{query}").json
        pages.append([each["eventId"] for each in answer["attempts"]])  # type: ignore[index]
        after = answer["next"]  # type: ignore[index]

    assert [len(page) for page in pages] == [3, 1]
    assert {each for page in pages for each in page} == {f"event-{n}" for n in (1, 2, 3, 4)}


def test_a_token_sees_its_own_attempts(call: Request, some: None) -> None:
    own = ids(call, key="token-b")
    of_another = call("GET", "/attempt?instance=a", key="token-b")
    without = call("GET", "/attempt", key="")

    assert own == ["event-3"]
    assert of_another.status_code == without.status_code == 401


@pytest.mark.parametrize(
    "query",
    ["outcome=bad", "since=yesterday", "limit=0", "limit=501", "after=x", "event=NO", "id=%20",
     "instance=..", "what=ever"],
)  # fmt: skip
def test_a_filter_that_cannot_be_meant_is_400(call: Request, query: str) -> None:
    answer = call("GET", f"/attempt?{query}")

    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json["response"]["message"][0]  # type: ignore[index]


def test_an_outcome_that_may_be_asked_for_is_one_that_there_is() -> None:
    assert set(schemas.OUTCOMES) == {each.value for each in Outcome}


def test_the_command_shows_attempts(application: Flask, some: None) -> None:
    done = application.test_cli_runner().invoke(args=["attempts", "--instance", "b"])

    assert done.exit_code == 0
    (head, line) = done.output.splitlines()
    assert head.split()[0] == "id"
    assert "b/crm" in line
    assert "event-3" in line


def test_an_answer_is_shown_bounded() -> None:
    from evoflask.sinks._answers import KEPT, excerpt, head

    assert head(b"x" * 5000) == "x" * MAX_ANSWER
    # Masked, what is cut off in the middle of one comes to the front.
    for show in (head, excerpt):
        assert "secr" not in show(
            (b"secret-word-0123456789" * 500)[:KEPT], ("secret-word-0123456789",)
        )
    assert head(b"line\nand\x00 line") == "line and line"


def test_a_secret_that_the_end_of_what_was_kept_cuts_in_two_is_not_shown() -> None:
    from evoflask.sinks._answers import KEPT, head

    body = b" " * (KEPT - 10) + SECRET.encode()

    assert head(body[:KEPT], (SECRET,)) == ""
