"""Who gets an event: `enabled`, `events`, `integration` and `local`, for each of the six sinks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

import app as composition
from evoflask import db
from evoflask.settings import Settings
from tests.web.conftest import Request

SIX: dict[str, dict[str, Any]] = {
    "webhook": {"url": "https://example.com/hook"},
    "websocket": {},
    "rabbitmq": {},
    "nats": {},
    "sqs": {"queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/q"},
    "pusher": {"appId": "1", "key": "k", "secret": "s", "cluster": "eu"},
}
EVENTS: list[list[str]] = [[], ["MESSAGES_UPSERT"], ["messages.upsert", "CALL"], ["CALL"]]
HAVE_IT = EVENTS[:3]
LOCAL = ("webhook", "pusher")


@pytest.fixture
def application(
    settings: Callable[..., Settings], make_tables: Callable[[], None]
) -> Iterator[Flask]:
    """With a server named for every sink; nobody delivers here."""
    servers = {"rabbitmq_uri": "amqp://127.0.0.1:1", "nats_uri": "nats://127.0.0.1:1"}
    made = composition.create_app(settings(**servers))
    make_tables()
    yield made
    db.close()


def backlog(call: Request) -> Counter[str]:
    rows = call("GET", "/lane?instance=a").json["lanes"]
    return Counter({row["sink"]: row["backlog"] for row in rows})


@pytest.mark.parametrize("sink", SIX)
def test_a_sink_gets_what_it_wants_and_the_others_do_not_care(call: Request, sink: str) -> None:
    call("POST", "/instance/create", {"instanceName": "a", **SIX})
    other = next(each for each in SIX if each not in (sink, *LOCAL))
    wrong = []

    for enabled, events in itertools.product((True, False), EVENTS):
        body = {sink: {**SIX[sink], "enabled": enabled, "events": events}}
        assert call("POST", f"/{sink}/set/a", body).status_code == 201
        for integration, local in itertools.product(
            (None, [sink], [other], []), (None, True, False)
        ):
            before = backlog(call)
            emit = {"event": "messages.upsert", "data": 1, "integration": integration}
            answer = call("POST", "/event/emit/a", {**emit, "local": local})
            got = {
                each: (each != sink or (enabled and events in HAVE_IT))
                and (integration is None or each in integration)
                and (local is not False or each not in LOCAL)
                for each in SIX
            }
            expected = [each for each in SIX if got[each]]
            added = backlog(call) - before
            lanes = Counter({each: 1 for each in expected if each != "websocket"})
            if answer.json["subscriptions"] != expected or added != lanes:
                wrong.append((enabled, events, integration, local, answer.json, added))

    assert wrong == []
