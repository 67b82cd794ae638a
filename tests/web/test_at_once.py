"""Several at once: SQLite's writers come one after the other, PostgreSQL's run side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from evoflask import attempts, db, deadletters, schemas
from evoflask.configuration import Configuration
from evoflask.deadletters import Filter
from evoflask.errors import EvoflaskError, NameTaken
from evoflask.ids import OPERATOR
from evoflask.models import DeadLetter, DeliveryLog, Instance, Subscription
from evoflask.outbox import Outbox, verbs
from evoflask.outbox.attempts import Place, pack
from evoflask.outbox.attempts import read as read_batches
from tests.web import steps
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

N = 6
AtOnce = Callable[[Callable[[int], Any]], list[Any]]


@pytest.fixture
def at_once(application: Flask) -> Iterator[AtOnce]:
    """Runs work in threads that begin together; answers or errors of ours."""
    threads = ThreadPoolExecutor(N)

    def run(work: Callable[[int], Any]) -> list[Any]:
        start = threading.Barrier(N)

        def one(n: int) -> Any:
            start.wait(10)
            try:
                return work(n)
            except EvoflaskError as error:
                return error
            finally:
                db.close()

        return list(threads.map(one, range(N)))

    yield run
    threads.shutdown()


def test_two_clocks_write_no_attempt_twice(at_once: AtOnce, outbox: Outbox) -> None:
    place, row = Place(1, "a", "webhook", "webhook"), ("l", "1-0", "e", "CALL", 1, 0.5, 0.1)
    for n in range(8):
        packed = pack({"l": place}, [(*row, "delivered", "200", "", "h", "ok")] * 50)
        outbox.run(verbs.log(0, f"batch-{n}", 50, packed, 0))
    batches = read_batches(outbox, 0, 8)

    at_once(lambda _: attempts._write(0, batches))

    assert DeliveryLog.select().count() == 8 * 50


def test_of_those_who_create_one_name_at_once_one_does(
    at_once: AtOnce, configuration: Configuration
) -> None:
    new = schemas.create_body({"instanceName": "same"})

    made = at_once(lambda _: configuration.create(new))

    assert sum(isinstance(each, NameTaken) for each in made) == N - 1
    assert Instance.select().where(Instance.name == "same").count() == 1


def test_the_operators_instance_is_made_once(at_once: AtOnce, configuration: Configuration) -> None:
    changed = at_once(lambda _: configuration.set_operator("https://example.com/op", "whsec_eA=="))

    assert sorted(changed) == [False] * (N - 1) + [True]
    assert Instance.select().where(Instance.name == OPERATOR).count() == 1
    assert Subscription.select().count() == 1


def test_no_change_of_an_instance_is_lost(
    at_once: AtOnce, call: Request, instance: str, configuration: Configuration
) -> None:
    before = Instance.get().revision

    def add(n: int) -> object:
        body = {"name": f"s{n}", "sink": "webhook", "enabled": True, "url": "https://e.com"}
        return configuration.add("a", schemas.new_subscription(body))

    made = at_once(add)

    assert all(isinstance(each, Subscription) for each in made), made
    assert Instance.get().revision == before + N
    assert Subscription.select().count() == 1 + N


def test_a_lane_that_is_disabled_for_its_failures_loses_no_change_of_its_tenant(
    at_once: AtOnce, instance: str, configuration: Configuration
) -> None:
    lane = Subscription.get().lane
    before = Instance.get().revision

    def change(n: int) -> object:
        if n % 2:
            return configuration.disable_failing(lane, lambda: True)
        return configuration.stop("a", "webhook", stopped=True)

    at_once(change)

    row = Subscription.get()
    assert (row.enabled, row.stopped) == (False, True)
    assert Instance.get().revision == before + N


def test_a_letter_that_many_requeue_and_discard_at_once_goes_one_way(
    at_once: AtOnce, call: Request, instance: str, outbox: Outbox, application: Flask
) -> None:
    manager = application.extensions["evoflask"].manager
    call("POST", "/event/emit/a", [{"event": "CALL", "data": n} for n in range(40)])
    assert steps.kill(outbox) == 40

    def deal(n: int) -> int:
        if n % 2:
            return deadletters.discard_many(Filter())[0]
        return deadletters.requeue_many(manager, Filter()).requeued

    done = at_once(deal)

    # PostgreSQL ends one of two that wait for each other; what it left is dealt with later.
    counts = [each for each in done if isinstance(each, int)]
    left = deadletters.count(Filter())
    discarded = DeadLetter.select().where(DeadLetter.discarded_at.is_null(False)).count()
    requeued = DeadLetter.select().where(DeadLetter.requeued_at.is_null(False)).count()
    assert discarded + requeued + left == 40
    assert sum(counts) <= discarded + requeued
    lane = Subscription.get().lane
    view = outbox.run(verbs.look(0, [lane]))[0]
    assert view.waiting == view.count("requeued") == requeued
