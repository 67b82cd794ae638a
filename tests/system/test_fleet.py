"""Drains of several sinks as one: what one of them suffers, within the job that it happens in."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

import app as composition
from evoflask import db
from evoflask.delivery.fleet import Fleet
from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.errors import OutboxDown
from evoflask.settings import Settings
from tests.conftest import API_KEY

JOB = 60.0
BOUND = 15.0
"""Seconds; a sink that is left alone until the job ends waits for all of its minute."""


@pytest.fixture
def client(settings: Callable[..., Settings]) -> FlaskClient:
    """The web process' side, on the Redis and the database that the fleet uses."""
    made = composition.create_app(settings())
    db.upgrade()
    return made.test_client()


def call(client: FlaskClient, path: str, body: Any) -> Any:
    answer = client.post(path, json=body, headers={"apikey": API_KEY})
    assert answer.status_code in (201, 202), answer.json
    return answer.json


class Breaking:
    """Stands for a Redis that does not answer one drain's first calls."""

    def __init__(self, works: Callable[..., Any], failures: int) -> None:
        self._works = works
        self.left = failures

    async def __call__(self, *args: Any) -> None:
        if self.left:
            self.left -= 1
            raise OutboxDown("the outbox did not answer in time")
        await self._works(*args)


@pytest.fixture
def interpreter() -> Iterator[None]:
    """A drain tunes the process that it runs in, which here is the suite's."""
    switch, collector = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(switch)
    gc.set_threshold(*collector)
    gc.unfreeze()


@pytest.mark.parametrize("failures", [1, 4])
def test_a_sink_whose_drain_fails_is_looked_after_again_while_the_others_work_on(
    client: FlaskClient,
    settings: Callable[..., Settings],
    receiver: Receiver,
    interpreter: None,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
) -> None:
    call(client, "/instance/create", {"instanceName": "a", "webhook": {"url": receiver.url("/a")}})
    fleet = Fleet(settings(), ["webhook", "pusher"])
    kept: list[str] = []

    async def job() -> None:
        await fleet.start()
        outbox = fleet.drains["webhook"]._outbox
        breaking = Breaking(outbox.awake, failures)
        monkeypatch.setattr(outbox, "awake", breaking)
        work = asyncio.ensure_future(fleet.drain_until_quiet(JOB, JOB))
        try:
            await asyncio.to_thread(wait_for, lambda: not breaking.left, BOUND)
            kept.append(call(client, "/event/emit/a", {"event": "CALL", "data": 1})["id"])
            await asyncio.to_thread(receiver.wait_for, 1, BOUND)
        finally:
            await fleet.stop(2)
            await work

    asyncio.run(job())

    assert receiver.ids() == kept


def test_a_job_in_which_a_drain_failed_ends_when_all_is_quiet_nevertheless(
    client: FlaskClient,
    settings: Callable[..., Settings],
    interpreter: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(settings(), ["webhook", "pusher"])

    async def job() -> None:
        await fleet.start()
        outbox = fleet.drains["webhook"]._outbox
        monkeypatch.setattr(outbox, "awake", Breaking(outbox.awake, 3))
        try:
            await asyncio.wait_for(fleet.drain_until_quiet(JOB, 0.5), BOUND)
        finally:
            await fleet.stop(2)

    asyncio.run(job())


def test_a_job_whose_every_drain_fails_ends_with_the_error(
    client: FlaskClient,
    settings: Callable[..., Settings],
    interpreter: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(settings(), ["webhook", "pusher"])

    async def job() -> None:
        await fleet.start()
        for drain in fleet.drains.values():
            monkeypatch.setattr(drain._outbox, "awake", Breaking(drain._outbox.awake, 10_000))
        try:
            with pytest.raises(OutboxDown):
                await fleet.drain_until_quiet(1.5, 1)
        finally:
            await fleet.stop(2)

    asyncio.run(job())
