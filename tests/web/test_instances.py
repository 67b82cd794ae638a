"""Instances: create, find, delete, and who may."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from evoflask.models import DeadLetter, Instance, Subscription
from tests.web.conftest import Request

pytestmark = pytest.mark.databases


def messages(answer: Any) -> list[str]:
    found: list[str] = answer.json["response"]["message"]
    return found


def test_create_answers_in_evolution_api_s_shape(call: Request) -> None:
    body = {
        "instanceName": "i1",
        "integration": "WHATSAPP-BAILEYS",
        "webhook": {"url": "https://example.com/x", "headers": {"X-A": "b"}, "base64": True},
        "rabbitmq": {"enabled": False, "events": []},
        "qrcode": True,
    }

    answer = call("POST", "/instance/create", body)

    assert answer.status_code == 201
    assert list(answer.json) == [
        "instance", "hash", "webhook", "websocket", "rabbitmq", "nats", "sqs", "pusher",
        "settings", "warnings",
    ]  # fmt: skip
    assert len(answer.json["warnings"]) == 1
    assert answer.json["warnings"][0].startswith("qrcode: ")
    assert answer.json["instance"] == {
        "instanceName": "i1",
        "instanceId": Instance.get().outbox,
        "integration": "WHATSAPP-BAILEYS",
        "webhookWaBusiness": None,
        "accessTokenWaBusiness": "",
        "status": "open",
    }
    assert answer.json["webhook"] == {
        "webhookUrl": "https://example.com/x",
        "webhookHeaders": {"X-A": "********"},
        "webhookByEvents": False,
        "webhookBase64": True,
    }
    assert answer.json["rabbitmq"] == {"enabled": False}
    assert answer.json["nats"] == {}


def test_a_token_that_nobody_gave_is_an_upper_case_uuid_and_only_its_digest_is_stored(
    call: Request,
) -> None:
    token = call("POST", "/instance/create", {"instanceName": "i1"}).json["hash"]

    assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", token)
    assert Instance.get().token_sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert call("GET", "/instance/connectionState/i1", key=token).json == {
        "instance": {"instanceName": "i1", "state": "open"}
    }


def test_a_sink_in_create_without_enabled_is_enabled_and_an_enabled_of_false_is_obeyed(
    call: Request,
) -> None:
    body = {
        "instanceName": "i1",
        "webhook": {"url": "https://example.com"},
        "nats": {"enabled": False},
    }

    call("POST", "/instance/create", body)

    found = call("GET", "/event/find/i1").json
    assert (found["webhook"]["enabled"], found["nats"]["enabled"]) == (True, False)


def test_flat_names_of_old_clients_configure_a_sink_in_create(call: Request) -> None:
    body = {
        "instanceName": "i1",
        "webhookUrl": "https://example.com",
        "webhook_by_events": True,
        "webhookEvents": ["messages.upsert"],
    }

    call("POST", "/instance/create", body)

    row = call("GET", "/webhook/find/i1").json
    assert row["enabled"] is True
    assert row["webhookByEvents"] is True
    assert row["events"] == ["MESSAGES_UPSERT"]


def test_a_taken_name_is_403(call: Request, instance: str) -> None:
    answer = call("POST", "/instance/create", {"instanceName": instance})

    assert answer.status_code == 403
    assert messages(answer) == ['This name "a" is already in use.']


def test_a_bad_integration_is_400_in_evolution_api_s_words(call: Request) -> None:
    answer = call("POST", "/instance/create", {"instanceName": "i", "integration": "TELEGRAM"})

    assert answer.status_code == 400
    assert messages(answer) == ["Invalid integration"]


def test_one_bad_sink_in_create_stores_nothing(call: Request) -> None:
    body = {
        "instanceName": "i1",
        "nats": {"enabled": False},
        "webhook": {"enabled": True, "url": "ftp://example.com"},
    }

    answer = call("POST", "/instance/create", body)

    assert answer.status_code == 400
    assert messages(answer) == [
        "webhook.url: Not a valid URL. It must begin with http:// or https://."
    ]
    assert (Instance.select().count(), Subscription.select().count()) == (0, 0)


def test_fetch_instances_shows_all_rows_to_the_global_key_without_tokens(
    call: Request, instance: str
) -> None:
    call("POST", "/instance/create", {"instanceName": "b", "number": "5511999999999"})

    rows = call("GET", "/instance/fetchInstances").json

    assert [row["name"] for row in rows] == ["a", "b"]
    assert [row["token"] for row in rows] == [None, None]
    assert rows[0]["Webhook"]["url"] == "https://example.com/hook"
    assert rows[1]["number"] == "5511999999999"
    assert {"Chatwoot", "Proxy", "Rabbitmq", "Nats", "Sqs", "Websocket", "Setting"} <= set(rows[0])
    assert rows[0]["_count"] == {"Message": 0, "Contact": 0, "Chat": 0}


def test_fetch_instances_filters_by_name_id_and_number(call: Request, instance: str) -> None:
    made = call("POST", "/instance/create", {"instanceName": "b", "number": "55"}).json

    for query in ("instanceName=b", f"instanceId={made['instance']['instanceId']}", "number=55"):
        rows = call("GET", f"/instance/fetchInstances?{query}").json
        assert [row["name"] for row in rows] == ["b"], query


@pytest.mark.parametrize("query", ["instanceName=nope", "instanceId=nope", "instanceName=%00"])
def test_fetch_instances_of_what_is_not_there_is_404(
    call: Request, instance: str, query: str
) -> None:
    answer = call("GET", f"/instance/fetchInstances?{query}")

    assert answer.status_code == 404
    assert messages(answer)[0].endswith("not found")


def test_a_token_fetches_its_own_row_and_cannot_tell_whether_another_exists(
    call: Request, instance: str
) -> None:
    call("POST", "/instance/create", {"instanceName": "b"})

    own = call("GET", "/instance/fetchInstances", key="token-a")
    others = [
        call("GET", f"/instance/fetchInstances?instanceName={name}", key="token-a")
        for name in ("b", "nope")
    ]

    assert [row["name"] for row in own.json] == ["a"]
    assert [answer.status_code for answer in others] == [404, 404]


def test_logout_answers_success_and_changes_nothing(
    call: Request, instance: str, dump: Any
) -> None:
    before = dump()

    answer = call("DELETE", f"/instance/logout/{instance}")

    assert answer.json == {
        "status": "SUCCESS",
        "error": False,
        "response": {"message": "Instance logged out"},
    }
    assert dump() == before


def test_delete_frees_the_name_at_once_and_leaves_a_tombstone(
    call: Request, instance: str, redis_client: Any
) -> None:
    old = Instance.get()

    answer = call("DELETE", f"/instance/delete/{instance}")
    again = call("POST", "/instance/create", {"instanceName": instance})

    assert answer.json["response"] == {"message": "Instance deleted"}
    assert again.status_code == 201
    assert again.json["instance"]["instanceId"] != old.outbox
    tombstone = Instance.get_by_id(old.id)
    assert tombstone.deleted_at is not None
    assert tombstone.pushed == tombstone.revision == 2
    assert redis_client.hget(f"evo:{{p0}}:config:{old.outbox}", "gone") is not None
    assert Subscription.select().count() == 0
    assert call("GET", f"/webhook/find/{instance}", key="token-a").status_code == 401


def test_delete_takes_the_instance_s_letters_and_no_other_s(call: Request, instance: str) -> None:
    call("POST", "/instance/create", {"instanceName": "b"})
    for row in Instance.select():
        for n in range(3):
            DeadLetter.create(
                instance_id=row.id, instance_name=row.name, subscription_id=1,
                subscription_name="webhook", lane=row.name, sink="webhook", entry=str(n),
                event_id=str(n), event="CALL", at=0.0, size=2, reason="rejected", code="410",
                detail="", tries=1, data=b"{}",
            )  # fmt: skip

    call("DELETE", f"/instance/delete/{instance}")

    assert [letter.instance_name for letter in DeadLetter.select()] == ["b"] * 3


# --- who may ---------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/instance/connectionState/{}"),
    ("DELETE", "/instance/logout/{}"),
    ("DELETE", "/instance/delete/{}"),
    ("POST", "/webhook/set/{}"),
    ("GET", "/webhook/find/{}"),
    ("POST", "/event/set/{}"),
    ("GET", "/event/find/{}"),
    ("GET", "/subscription/{}"),
    ("POST", "/subscription/{}"),
    ("GET", "/subscription/{}/webhook"),
    ("PUT", "/subscription/{}/webhook"),
    ("DELETE", "/subscription/{}/webhook"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("name", ["a", "nope", "%00"])
@pytest.mark.parametrize("key", ["", "wrong", "token-b", "K\u00e9y"])
def test_a_wrong_key_and_an_unknown_instance_are_the_same_401_before_the_body_is_looked_at(
    call: Request, client: FlaskClient, instance: str, method: str, path: str, name: str, key: str
) -> None:
    call("POST", "/instance/create", {"instanceName": "b", "token": "token-b"})

    answer = client.open(
        path.format(name), method=method, headers={"apikey": key} if key else {}, data=b"not json"
    )

    assert answer.status_code == 401
    assert answer.json is not None
    assert (answer.json["status"], answer.json["error"]) == (401, "Unauthorized")
    (sentence,) = answer.json["response"]["message"]
    assert sentence.startswith(
        "Unauthorized: the key" if key else "Unauthorized: the request has no"
    )
    assert 'Send one in the header "apikey"' in sentence


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_an_unknown_instance_is_404_to_the_global_key(
    call: Request, method: str, path: str
) -> None:
    answer = call(method, path.format("nope"), {})

    assert answer.status_code == 404
    assert messages(answer) == ['The "nope" instance does not exist']


@pytest.mark.parametrize("key", ["", "token-a", "wrong"])
def test_only_the_global_key_creates(call: Request, instance: str, key: str) -> None:
    answer = call("POST", "/instance/create", {"instanceName": "b"}, key=key)

    assert answer.status_code == 401


def test_a_key_in_the_query_is_no_key(client: FlaskClient, instance: str) -> None:
    in_query = client.get("/webhook/find/a?apikey=token-a")

    assert in_query.status_code == 401


def test_an_instance_name_in_the_query_or_the_body_never_overrides_the_path(
    call: Request, instance: str
) -> None:
    call("POST", "/instance/create", {"instanceName": "b"})
    body = {"instanceName": "b", "webhook": {"url": "https://example.com/mine"}}

    answer = call("POST", "/webhook/set/a?instanceName=b", body, key="token-a")

    assert answer.status_code == 201
    assert call("GET", "/webhook/find/a").json["url"] == "https://example.com/mine"
    assert call("GET", "/webhook/find/b").json is None


def test_without_a_global_key_nobody_is_global(settings: Any) -> None:
    import app as composition
    from evoflask import db

    client = composition.create_app(settings(api_key="")).test_client()
    db.upgrade()

    answers = [
        client.get("/instance/fetchInstances", headers=headers)
        for headers in ({}, {"apikey": ""}, {"apikey": " "})
    ]

    assert [answer.status_code for answer in answers] == [401, 401, 401]
