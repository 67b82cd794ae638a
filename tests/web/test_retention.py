"""Letters that nobody dealt with go past a limit, after a warning; and what was dealt with goes
in bounded pieces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from evoflask import deadletters, models
from evoflask.deadletters import retention
from evoflask.delivery.chores import Chores
from evoflask.models import DeadLetter
from evoflask.outbox import Outbox
from evoflask.outbox.timetable import Persisted
from evoflask.settings import Settings
from tests.conftest import API_KEY
from tests.web import steps
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

DAY = 86_400


@pytest.fixture
def letters(call: Request, instance: str, outbox: Outbox) -> Callable[[int], list[int]]:
    """`letters(5)`: ids of so many, the oldest first."""

    def make(n: int) -> list[int]:
        call("POST", "/event/emit/a", [{"event": "CALL", "data": each} for each in range(n)])
        assert steps.kill(outbox) == n
        return [row.id for row in DeadLetter.select().order_by(DeadLetter.id)]

    return make


def age(letter: int, seconds: float) -> None:
    DeadLetter.update(created_at=time.time() - seconds).where(DeadLetter.id == letter).execute()


def open_() -> list[int]:
    return sorted(row.id for row in deadletters.find(deadletters.Filter()))


def metric(call: Request, name: str) -> float:
    lines = call("GET", "/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(name)))


def tick(application: Flask, **limits: Any) -> None:
    settings: Settings = application.extensions["evoflask"].settings
    fields = {name: getattr(settings, name) for name in ("home", "redis_url", "database_url")}
    Chores(Settings(api_key=API_KEY, **fields | limits)).tick()


def test_letters_beyond_an_age_go_and_are_counted(
    call: Request, application: Flask, letters: Callable[[int], list[int]]
) -> None:
    first, second, third = letters(3)
    age(first, 91 * DAY)
    age(second, 89 * DAY)

    tick(application)

    assert open_() == [second, third]
    gone = DeadLetter.get_by_id(first)
    assert gone.discarded_at is not None
    assert gone.data is None
    assert metric(call, 'evoflask_dead_letters_retired_total{sink="webhook"}') == 1


def test_the_oldest_beyond_a_number_go(
    call: Request, application: Flask, letters: Callable[[int], list[int]]
) -> None:
    ids = letters(5)

    tick(application, deadletter_retain_entries=2)

    assert open_() == ids[3:]
    assert metric(call, 'evoflask_dead_letters_retired_total{sink="webhook"}') == 3


def test_a_warning_comes_a_day_before_anything_goes(
    call: Request, application: Flask, letters: Callable[[int], list[int]]
) -> None:
    first, second, _ = letters(3)
    calm = metric(call, "evoflask_dead_letters_expiring")
    age(first, 89.5 * DAY)
    age(second, 88 * DAY)

    warned = metric(call, "evoflask_dead_letters_expiring")
    tick(application)

    assert (calm, warned) == (0, 1)
    assert len(open_()) == 3


def test_the_warning_reckons_with_as_many_as_came_in_the_last_day(
    letters: Callable[[int], list[int]],
) -> None:
    letters(4)

    now = time.time()

    assert deadletters.expiring(90 * DAY, 8, now) == 0
    assert deadletters.expiring(90 * DAY, 5, now) == 3


def test_a_retired_letter_is_not_written_again_by_a_late_bury(
    call: Request, application: Flask, letters: Callable[[int], list[int]]
) -> None:
    (letter,) = letters(1)
    row = dict(DeadLetter.select().dicts().get())
    age(letter, 91 * DAY)
    tick(application)

    del row["id"]
    DeadLetter.insert_many([row]).on_conflict_ignore().execute()

    assert open_() == []


def test_many_go_in_pieces_and_all_of_them(
    letters: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PIECE", 3)
    letters(10)
    run = Persisted("run", True)
    DeadLetter.update(requeued_at=1.0, requeued_run="run").execute()

    deadletters.confirm(run, time.time())
    confirmed = DeadLetter.select().where(DeadLetter.data.is_null()).count()
    deadletters.forget(time.time())

    assert confirmed == 10
    assert models.DeadLetter.select().count() == 0


def test_all_that_another_redis_took_is_open_again(
    letters: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PIECE", 3)
    ids = letters(10)
    DeadLetter.update(requeued_at=1.0, requeued_run="lost").execute()

    deadletters.confirm(Persisted("run", True), time.time())

    assert open_() == ids


def test_a_claim_that_nobody_came_back_to_ends(letters: Callable[[int], list[int]]) -> None:
    first, second = letters(2)
    now = time.time()
    claims = {first: now - 60, second: now}
    for letter, at in claims.items():
        claim = DeadLetter.update(requeued_at=at, requeued_run="claim:x")
        claim.where(DeadLetter.id == letter).execute()

    deadletters.confirm(Persisted("run", True), now)

    assert open_() == [first]
