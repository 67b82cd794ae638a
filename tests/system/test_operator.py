"""Who operates it is told, by the same machine and never about itself."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from standardwebhooks.webhooks import Webhook

from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import message

SECRET = "whsec_" + b64encode(b"k" * 32).decode()


def test_a_webhook_that_breaks_is_told_disabled_mended_and_told_to_be_well(
    make_house: MakeHouse, receiver: Receiver, wait_for: Callable[..., Any]
) -> None:
    receiver.control(keep=True)
    house = make_house(
        retry_schedule="0.1,0.1,0.1,60",
        auto_disable_failures=4,
        auto_disable_seconds=0,
        operator_webhook_url=receiver.url("/operator"),
        operator_webhook_secret=SECRET,
    )
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/500"))

    def told() -> list[dict[str, Any]]:
        one = [each for each in receiver.received() if each.path == "/operator"]
        for each in one:
            Webhook(SECRET).verify(each.body, each.headers())
        return [json.loads(each.body) for each in one]

    sent = client.emit("a", data=message(1, secret_of_the_tenant="xyzzy")).json()["id"]
    wait_for(lambda: len(told()) >= 2, timeout=60)
    rows = client.good("GET", "/subscription/a")
    client.change("a", "webhook", url=receiver.url("/mended"), enabled=True)
    wait_for(lambda: len(told()) >= 3, timeout=60)

    events = told()
    assert [each["event"] for each in events] == [
        "subscription.failing", "subscription.disabled", "subscription.recovered",
    ]  # fmt: skip
    assert {each["data"]["instance"] for each in events} == {"a"}
    assert "xyzzy" not in json.dumps(events)
    assert '"enabled": false' in json.dumps(rows)
    assert [each.id for each in receiver.received() if each.path == "/mended"] == [sent]
    house.wait_quiet()
    assert house.audit()[0] == 0


def test_an_operator_who_is_away_delays_nobody_and_hears_nothing_of_himself(
    make_house: MakeHouse, receiver: Receiver, wait_for: Callable[..., Any]
) -> None:
    house = make_house(retry_schedule="0.1", operator_webhook_url=receiver.url("/status/500"))
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/410"))

    client.emit_many("a", [{"event": "CALL", "data": {"n": n}} for n in range(20)])
    wait_for(lambda: house.query("SELECT 1 FROM dead_letter WHERE instance_name = '_operator'"), 60)
    house.wait_quiet()

    told = house.query("SELECT DISTINCT event FROM dead_letter WHERE instance_name = '_operator'")
    assert {row[0] for row in told} <= {"subscription.failing", "deadletter.created"}
    assert house.query("SELECT COUNT(*) FROM dead_letter WHERE instance_name = 'a'") == [(20,)]
    bodies = house.query("SELECT data FROM dead_letter WHERE instance_name = '_operator'")
    assert all(json.loads(body)["instance"] == "a" for (body,) in bodies)
    assert house.audit()[0] == 0
