"""What an SQS subscription may say: which queue, with whose keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import app as composition
from evoflask import db
from evoflask.models import Subscription
from evoflask.settings import Settings
from tests.conftest import API_KEY
from tests.web.conftest import Request

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"
KEYS = {"accessKeyId": "AKID", "secretAccessKey": "very-secret"}


def messages(answer: Any) -> list[str]:
    found: list[str] = answer.json["response"]["message"]
    return found


def stored() -> dict[str, Any]:
    found: dict[str, Any] = Subscription.get(Subscription.sink == "sqs").open_settings()
    return found


def test_the_secret_is_never_answered_and_its_mask_keeps_it(call: Request, instance: str) -> None:
    made = call("POST", "/sqs/set/a", {"sqs": {"enabled": True, "queueUrl": URL, **KEYS}})
    again = call("POST", "/sqs/set/a", {"sqs": made.json | {"queueUrl": URL + "2"}})
    found = call("GET", "/subscription/a/sqs")

    assert (made.status_code, again.status_code) == (201, 201)
    for answer in (made, again, found):
        assert answer.json["secretAccessKey"] == "********"
        assert "very-secret" not in answer.get_data(as_text=True)
    assert stored() == {"queueUrl": URL + "2", **KEYS, "oversize": "reject"}


@pytest.mark.parametrize("name", sorted(KEYS))
def test_there_are_both_keys_or_none(call: Request, instance: str, name: str) -> None:
    half = {"sqs": {"enabled": True, "queueUrl": URL, **KEYS, name: None}}

    answer = call("POST", "/sqs/set/a", half)

    assert answer.status_code == 400
    assert messages(answer) == [f"sqs.{name}: Missing data for required field."]


def test_keys_are_taken_away_by_empty_strings(call: Request, instance: str) -> None:
    call("POST", "/sqs/set/a", {"sqs": {"enabled": True, "queueUrl": URL, **KEYS}})

    answer = call("POST", "/sqs/set/a", {"sqs": dict.fromkeys(KEYS, "")})

    assert answer.status_code == 201, answer.json
    assert stored() == {"queueUrl": URL, **dict.fromkeys(KEYS), "oversize": "reject"}


@pytest.mark.parametrize("enabled", [True, False])
def test_a_queue_on_a_host_of_the_tenants_choice_is_refused(
    call: Request, instance: str, enabled: bool
) -> None:
    url = "https://169.254.169.254/123456789012/q"

    answer = call("POST", "/sqs/set/a", {"sqs": {"enabled": enabled, "queueUrl": url}})

    assert answer.status_code == 400
    assert messages(answer)[0].startswith("sqs.queueUrl: Not the URL of an SQS queue")


def test_a_server_of_ones_own_needs_a_region(settings: Callable[..., Settings]) -> None:
    endpoint = "http://127.0.0.1:9324"
    body = {"sqs": {"enabled": True, "queueUrl": f"{endpoint}/000000000000/q"}}
    statuses = []
    for region in ("", "eu-west-1"):
        made = composition.create_app(settings(sqs_endpoint_url=endpoint, sqs_region=region))
        db.upgrade()
        client, headers = made.test_client(), {"apikey": API_KEY}
        client.post("/instance/create", json={"instanceName": "a"}, headers=headers)

        answer = client.post("/sqs/set/a", json=body, headers=headers)

        statuses.append(answer.status_code)
        if not region:
            assert "SQS_REGION is not set" in messages(answer)[0]
        db.close()
    assert statuses == [400, 201]
