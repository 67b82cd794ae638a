"""Operations: begun by a request, gone on with by the clock, seen, cancelled, resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask import deadletters, models, operations
from evoflask.delivery import operator as operator_module
from evoflask.delivery.operator import Operator
from evoflask.errors import BadInput, OutboxDown
from evoflask.manager import EventManager
from evoflask.models import Operation
from evoflask.operations import Context, Piece
from evoflask.outbox import Outbox
from evoflask.outbox.timetable import Persisted
from tests.web import steps
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

Begin = Callable[..., int]


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece ends after one append, however fast the machine is."""
    monkeypatch.setattr(operations, "INLINE_SECONDS", 0.0)
    monkeypatch.setattr(operator_module, "PIECE", 0.0)


@pytest.fixture
def begin(call: Request, instance: str, outbox: Outbox) -> Begin:
    """`begin(350)`: so many letters of `a`, and a requeue of them that is not over: its id."""

    def run(n: int = 350, **body: Any) -> int:
        for at in range(0, n, 100):
            events = [{"event": "CALL", "data": each} for each in range(at, min(n, at + 100))]
            call("POST", "/event/emit/a", events)
        assert steps.kill(outbox) == n
        answer = call("POST", "/deadletter/requeue", {"instance": "a", **body})
        assert answer.status_code == 202, answer.json
        assert (answer.json["requeued"], answer.json["left"]) == (100, n - 100)
        found: int = answer.json["operation"]
        return found

    return run


def to_the_end(operator: Operator) -> int:
    """How many pieces there were."""
    n = 0
    while operator.turn():
        n += 1
    return n


def seen(call: Request, operation: int, **how: Any) -> Any:
    answer = call("GET", f"/operation/{operation}", **how)
    assert answer.status_code == 200, answer.json
    return answer.json


def test_what_is_not_over_at_once_goes_on_by_the_clock(
    call: Request, begin: Begin, operator: Operator
) -> None:
    operation = begin(350)

    before = seen(call, operation)
    pieces = to_the_end(operator)
    after = seen(call, operation)

    assert (before["state"], before["done"], before["total"]) == ("running", 100, 350)
    assert (before["kind"], before["instance"], before["by"]) == ("requeue", "a", "global")
    assert before["wanted"] == {}
    assert pieces >= 3
    assert (after["state"], after["done"], after["failed"]) == ("done", 350, 0)
    assert after["endedAt"] >= after["createdAt"]
    assert call("GET", "/deadletter").json["total"] == 0
    assert call("GET", "/lane").json["lanes"][0]["books"]["requeued"] == 350


def test_another_process_goes_on_where_a_killed_one_was(
    call: Request, begin: Begin, application: Flask, redis_client: redis.Redis
) -> None:
    operation = begin(350)
    settings = application.extensions["evoflask"].settings
    assert Operator(settings).turn()
    assert not Operator(settings).turn()  # the first one's lease

    redis_client.delete("evo:operator")
    to_the_end(Operator(settings))

    assert seen(call, operation)["done"] == 350
    assert call("GET", "/lane").json["lanes"][0]["books"]["requeued"] == 350


def test_a_cancelled_one_stops_and_keeps_what_is_done(
    call: Request, begin: Begin, operator: Operator
) -> None:
    operation = begin(350)
    operator.turn()

    answer = call("POST", f"/operation/{operation}/cancel")

    assert (answer.status_code, answer.json["state"], answer.json["done"]) == (
        200,
        "cancelled",
        200,
    )
    assert to_the_end(operator) == 0
    assert call("GET", "/deadletter").json["total"] == 150
    assert call("POST", f"/operation/{operation}/cancel").status_code == 409
    noted = models.AuditLog.get(models.AuditLog.action == "operation.cancel")
    assert (noted.by, noted.facts["operation"]) == ("global", operation)


def test_letters_that_come_while_it_runs_are_not_met(
    call: Request, begin: Begin, operator: Operator, outbox: Outbox
) -> None:
    operation = begin(250)
    steps.kill(outbox)  # the destination still fails

    to_the_end(operator)

    assert seen(call, operation)["done"] == 250
    assert call("GET", "/deadletter").json["total"] == 100


def test_letters_that_a_killed_one_had_claimed_are_requeued_once_the_claim_ends(
    call: Request, begin: Begin, operator: Operator
) -> None:
    operation = begin(250)
    is_open = models.DeadLetter.requeued_at.is_null()
    last = models.DeadLetter.select().where(is_open).order_by(models.DeadLetter.entry.desc())
    claim = {"requeued_at": time.time() - 60, "requeued_run": "claim:of the dead"}
    models.DeadLetter.update(claim).where(models.DeadLetter.id == last.first().id).execute()

    for _ in range(5):
        operator.turn()
    waits = seen(call, operation)
    deadletters.confirm(Persisted("", False), time.time())
    to_the_end(operator)

    assert (waits["state"], waits["done"]) == ("running", 249)
    assert (seen(call, operation)["state"], seen(call, operation)["done"]) == ("done", 250)


def test_a_full_redis_delays_it_and_it_says_so(
    call: Request, begin: Begin, operator: Operator, redis_client: redis.Redis
) -> None:
    operation = begin(250)
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] // 2)

    operator.turn()
    hindered = seen(call, operation)
    rests = not operator.turn()
    redis_client.config_set("maxmemory", "1gb")
    end = time.monotonic() + 10
    while seen(call, operation)["state"] == "running" and time.monotonic() < end:
        operator.turn()

    assert (hindered["state"], hindered["done"]) == ("running", 100)
    assert "memory" in hindered["error"]
    assert rests
    assert (seen(call, operation)["done"], seen(call, operation)["error"]) == (250, None)


# -- whose ------------------------------------------------------------------------------------


def test_a_token_sees_and_cancels_its_own_only(call: Request, begin: Begin) -> None:
    body = {"instanceName": "b", "token": "token-b", "webhook": {"url": "https://e.com"}}
    call("POST", "/instance/create", body)
    operation = begin(250)

    mine = call("GET", "/operation", key="token-a").json["operations"]
    theirs = call("GET", "/operation", key="token-b").json["operations"]

    assert ([each["id"] for each in mine], theirs) == ([operation], [])
    assert call("GET", f"/operation/{operation}", key="token-b").status_code == 404
    assert call("POST", f"/operation/{operation}/cancel", key="token-b").status_code == 404
    assert call("GET", "/operation?instance=a", key="token-b").status_code == 401
    assert call("GET", "/operation", key="wrong").status_code == 401
    assert call("POST", f"/operation/{operation}/cancel", key="wrong").status_code == 401
    assert call("POST", f"/operation/{operation}/cancel", key="token-a").status_code == 200


def test_they_are_listed_newest_first_in_pages_and_by_state(
    call: Request, begin: Begin, operator: Operator, outbox: Outbox
) -> None:
    first = begin(250)
    to_the_end(operator)
    steps.end_all(outbox, steps.delivered)
    second = begin(250)

    page = call("GET", "/operation?limit=1").json
    rest = call("GET", f"/operation?limit=1&after={page['next']}").json

    assert [each["id"] for each in page["operations"] + rest["operations"]] == [second, first]
    assert rest["next"] is None
    running = call("GET", "/operation?state=running&instance=a").json["operations"]
    assert [each["id"] for each in running] == [second]


@pytest.mark.parametrize(
    ("path", "status"),
    [("?state=odd", 400), ("?limit=0", 400), ("?after=x", 400), ("?x=1", 400), ("/9", 404)],
)
def test_what_makes_no_sense_is_said(call: Request, instance: str, path: str, status: int) -> None:
    assert call("GET", f"/operation{path}").status_code == status


def test_one_instance_has_a_bounded_number_of_them(
    call: Request, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(250)
    monkeypatch.setattr(operations, "RUNNING", 1)

    refused = call("POST", "/deadletter/requeue", {"instance": "a"})

    assert refused.status_code == 409
    assert "1 operation runs already" in refused.json["response"]["message"][0]
    assert call("GET", "/deadletter").json["total"] == 150


# -- kinds ------------------------------------------------------------------------------------


class Counts:
    """Counts to a hundred, as fast as it may; or raises."""

    error: Exception | None = None
    step = 100

    def count(self, operation: Operation) -> int:
        return 100

    def piece(self, context: Context, operation: Operation, until: float) -> Piece:
        if self.error:
            raise self.error
        n = min(context.most, self.step, 100 - operation.done)
        return Piece(n, 0, None, operation.done + n == 100)


@pytest.fixture
def counts() -> Iterator[Counts]:
    kind = Counts()
    operations.KINDS["counts"] = kind
    yield kind
    del operations.KINDS["counts"]


@pytest.fixture
def manager(application: Flask) -> EventManager:
    found: EventManager = application.extensions["evoflask"].manager
    return found


def counting(manager: EventManager, rate: float | None) -> Operation:
    plan = operations.plan("counts", scope=None, by="global", wanted={}, rate=rate)
    return operations.start(manager, plan)


def test_operations_take_turns(manager: EventManager, operator: Operator, counts: Counts) -> None:
    counts.step = 10
    rows = [counting(manager, None) for _ in range(3)]

    for _ in range(6):
        operator.turn()

    assert [operations.get(row.id).done for row in rows] == [30, 30, 30]


def test_a_rate_is_kept_and_delays_no_other_operation(
    manager: EventManager, operator: Operator, counts: Counts
) -> None:
    slow, fast = counting(manager, 50.0), counting(manager, 1000.0)
    began = time.monotonic()

    while operations.get(fast.id).state == "running" and time.monotonic() - began < 10:
        operator.turn()
    fast_took, slow_did = time.monotonic() - began, operations.get(slow.id).done
    while operations.get(slow.id).state == "running" and time.monotonic() - began < 10:
        operator.turn()
    slow_took = time.monotonic() - began

    assert operations.get(slow.id).done == 100
    assert slow_took > 1.9
    assert slow_did <= 50 * (fast_took + 0.1)
    assert fast_took < slow_took


@pytest.mark.parametrize(
    ("error", "words"),
    [(BadInput("It cannot be."), "It cannot be."), (KeyError("secret"), "A defect (KeyError)")],
)
def test_what_cannot_be_done_fails_and_says_why(
    manager: EventManager, operator: Operator, counts: Counts, error: Exception, words: str
) -> None:
    row = counting(manager, 1000.0)
    counts.error = error

    end = time.monotonic() + 5
    while operations.get(row.id).state == "running" and time.monotonic() < end:
        operator.turn()

    ended = operations.get(row.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.startswith(words)
    assert "secret" not in ended.error


def test_one_that_can_do_nothing_for_long_has_failed(
    manager: EventManager,
    operator: Operator,
    counts: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = counting(manager, 1000.0)
    counts.error = OutboxDown("the outbox cannot be reached")
    monkeypatch.setattr(operator_module, "GIVE_UP", -1.0)

    end = time.monotonic() + 5
    while operations.get(row.id).state == "running" and time.monotonic() < end:
        operator.turn()

    assert operations.get(row.id).error == "the outbox cannot be reached"


def test_a_kind_that_this_process_does_not_know_is_left_alone(
    manager: EventManager, operator: Operator, counts: Counts
) -> None:
    row = counting(manager, 1000.0)
    del operations.KINDS["counts"]

    worked = operator.turn()
    operations.KINDS["counts"] = counts

    assert not worked
    assert operations.get(row.id).state == "running"


def test_those_that_ended_long_ago_are_forgotten(
    manager: EventManager, operator: Operator, counts: Counts
) -> None:
    row = counting(manager, 1000.0)
    Operation.update(state="done", ended_at=1.0).execute()

    operator.turn()

    assert operations.find(None) == []
    assert row.id
