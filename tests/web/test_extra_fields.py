"""Fields that no sink takes: misspelt ones are refused, others ignored with a warning."""

from __future__ import annotations

from typing import Any

import pytest

from evoflask.schemas import extra
from tests.web.conftest import Dump, Request

HOOK: dict[str, Any] = {"enabled": True, "url": "https://example.com/hook"}


def messages(answer: Any) -> list[str]:
    found: list[str] = answer.json["response"]["message"]
    return found


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("event", ["CALL"], "events"),
        ("evnets", ["CALL"], "events"),
        ("Events", ["CALL"], "events"),
        ("URL", "https://example.com", "url"),
        ("header", {"X-A": "b"}, "headers"),
        ("Headers", {"X-A": "b"}, "headers"),
        ("byEvent", True, "byEvents"),
        ("by_events", True, "byEvents"),
        ("base_64", True, "base64"),
        ("enable", True, "enabled"),
        ("order_by", "data.key.id", "orderBy"),
        ("on_failure", "wait", "onFailure"),
        ("timeouts", 5, "timeout"),
        ("secrets", "whsec_x", "secret"),
    ],
)
def test_a_misspelt_field_is_400_with_the_field_that_was_meant(
    call: Request, instance: str, dump: Dump, nested: bool, field: str, value: Any, meant: str
) -> None:
    sink = {**HOOK, field: value}
    before = dump()

    answer = call("POST", "/webhook/set/a", {"webhook": sink} if nested else sink)

    at = "webhook." if nested else ""
    assert answer.status_code == 400
    assert f'{at}{field}: Unknown field; did you mean "{meant}"?' in messages(answer)
    assert dump() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "says"),
    [
        ("POST", "/event/set/a", {"webhook": {**HOOK, "event": ["CALL"]}}, 'mean "events"?'),
        ("POST", "/event/set/a", {"webhook": HOOK, "rabitmq": {}}, 'mean "rabbitmq"?'),
        ("POST", "/event/set/a", {"webhook": HOOK, "redis": {}}, "redis: Unknown field. There"),
        ("POST", "/event/set/a", {"webhook": HOOK, "other": 1}, "other: Unknown field. There are"),
        ("POST", "/event/set/a", {"Webhook": HOOK}, 'Webhook: Unknown field; did you mean "webho'),
        ("POST", "/event/set/a", {"webhook": HOOK, "events": []}, '{"webhook": {"events": ...}}'),
        ("POST", "/event/set/a", {"kafka": {"enabled": True}}, "At least one of webhook"),
        ("POST", "/webhook/set/a", {"webhook": HOOK, "rabbitmq": {}}, "Use /event/set for sev"),
        ("POST", "/webhook/set/a", {"webhok": HOOK}, 'did you mean "webhook"?'),
        ("POST", "/webhook/set/a", {**HOOK, "filters": ["CALL"]}, "filters: Unknown field. Ther"),
        ("POST", "/webhook/set/a", {"webhook": {**HOOK, "colour": 1}}, "webhook.colour: Unknown"),
        ("POST", "/rabbitmq/set/a", {"rabbitmq": {"enabled": False, "url": "x"}}, "rabbitmq.url"),
        ("POST", "/instance/create", {"instancename": "b"}, 'did you mean "instanceName"?'),
        ("POST", "/instance/create", {"instanceName": "b", "webhok": HOOK}, 'mean "webhook"?'),
        ("POST", "/instance/create", {"instanceName": "b", "mqtt": {}}, "mqtt: Unknown field."),
        ("POST", "/instance/create", {"instanceName": "b", "events": ["CALL"]}, "Belongs inside"),
        ("POST", "/instance/create", {"instanceName": "b", "tokens": "x"}, 'did you mean "token'),
        ("POST", "/instance/create", {"instanceName": "b", "webhook": {**HOOK, "event": []}},
         'webhook.event: Unknown field; did you mean "events"?'),
        ("POST", "/instance/rotateToken/a", {"tokn": "x"}, 'tokn: Unknown field; did you mean "t'),
        ("POST", "/subscription/a", {"name": "b", "sink": "webhook", **HOOK, "event": []},
         'event: Unknown field; did you mean "events"?'),
        ("PUT", "/subscription/a/webhook", {"header": {}}, 'did you mean "headers"?'),
        ("POST", "/replay", {"instance": "a", "onto": "b", "id": ["x"]}, 'did you mean "ids"?'),
        ("POST", "/deadletter/requeue", {"instanc": "a"}, 'did you mean "instance"?'),
        ("GET", "/deadletter?instanceName=a", None, "instanceName: Unknown field"),
        ("GET", "/instance/fetchInstances?instancename=a", None, 'did you mean "instanceName"?'),
        ("GET", "/lane?instnce=a", None, 'did you mean "instance"?'),
    ],
)  # fmt: skip
def test_no_route_swallows_a_misspelt_field(
    call: Request, instance: str, dump: Dump, method: str, path: str, body: Any, says: str
) -> None:
    before = dump()

    answer = call(method, path, body)

    assert answer.status_code == 400
    assert any(says in each for each in messages(answer)), messages(answer)
    assert dump() == before


# -- what clients of Evolution API send -----------------------------------------------------

SETTINGS = {
    "rejectCall": False, "msgCall": "", "groupsIgnore": False, "alwaysOnline": False,
    "readMessages": False, "readStatus": False, "syncFullHistory": False,
}  # fmt: skip
CREATED: list[tuple[dict[str, Any], list[str]]] = [
    ({"integration": "WHATSAPP-BAILEYS", "qrcode": False, **SETTINGS}, []),
    ({"integration": "WHATSAPP-BAILEYS", "qrcode": True, "token": "t", "number": "15550100"},
     ["qrcode: Ignored: only a WhatsApp gateway has this setting."]),
    ({"reject_call": True, "chatwoot_account_id": 1, "typebot_url": "x", "proxyHost": "h"},
     ["reject_call: Ignored: only a WhatsApp gateway has this setting.",
      *(f"{each}: Ignored: this server has no such sink or integration."
        for each in ("chatwoot_account_id", "typebot_url", "proxyHost"))]),
    ({"settings": SETTINGS, "proxy": {"host": "h"}, "kafka": {"enabled": True}},
     [f"{each}: Ignored: this server has no such sink or integration."
      for each in ("settings", "proxy", "kafka")]),
    ({"webhook": {"url": "https://e.com", "byEvents": False, "base64": True,
                  "headers": {"apikey": "k"}, "events": ["MESSAGES_UPSERT"]}}, []),
    ({"webhookUrl": "https://e.com", "webhookByEvents": False, "webhookBase64": False,
      "webhookEvents": ["MESSAGES_UPSERT"], "websocketEnabled": True}, []),
    ({"tenantLabel": "vip"}, ["tenantLabel: Ignored: there is no such field here."]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "warnings"), CREATED)
def test_clients_of_evolution_api_go_on_creating_instances_and_read_what_was_ignored(
    call: Request, body: dict[str, Any], warnings: list[str]
) -> None:
    answer = call("POST", "/instance/create", {"instanceName": "i", **body})

    assert answer.status_code == 201
    assert answer.json.get("warnings", []) == warnings
    assert ("warnings" in answer.json) == bool(warnings)


SET: list[tuple[str, dict[str, Any], list[str]]] = [
    ("/webhook/set/a", {"webhook": {**HOOK, "webhookByEvents": False, "webhookBase64": True}}, []),
    ("/webhook/set/a", {"webhook": {**HOOK, "webhook_by_events": True, "events": ["CALL"]}}, []),
    ("/webhook/set/a", {**HOOK, "webhook_by_events": False, "webhook_base64": False}, []),
    ("/webhook/set/a", {"url": "", "enabled": False}, []),
    ("/webhook/set/a", {"instanceName": "a", "webhook": HOOK},
     ["instanceName: Ignored: the path names the instance."]),
    ("/webhook/set/a", {"instance": "a", **HOOK},
     ["instance: Ignored: the path names the instance."]),
    ("/webhook/set/a", {"webhook": HOOK, "unknown": 1},
     ["unknown: Ignored: there is no such field here."]),
    ("/websocket/set/a", {"enabled": True, "events": ["CALL"]}, []),
    ("/websocket/set/a", {"websocket": {"enabled": True}}, []),
    ("/event/set/a", {"webhook": HOOK, "kafka": {"enabled": False, "events": []}},
     ["kafka: Ignored: this server has no such sink or integration."]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "warnings"), SET)
def test_clients_of_evolution_api_go_on_setting_sinks_and_read_what_was_ignored(
    call: Request, instance: str, path: str, body: dict[str, Any], warnings: list[str]
) -> None:
    answer = call("POST", path, body)

    assert answer.status_code == 201
    assert answer.json.get("warnings", []) == warnings
    assert ("warnings" in answer.json) == bool(warnings)


def test_foreign_words_in_the_query_of_fetch_instances_are_ignored(
    call: Request, instance: str
) -> None:
    answer = call("GET", "/instance/fetchInstances?instanceName=a&_=1700000000")

    assert [each["name"] for each in answer.json] == ["a"]


def test_fields_beside_the_nested_object_count_too(call: Request, instance: str) -> None:
    body = {"webhook": {"url": "https://example.com/2"}, "events": ["MESSAGES_UPSERT"]}

    answer = call("POST", "/webhook/set/a", body)

    assert (answer.status_code, answer.json["events"]) == (201, ["MESSAGES_UPSERT"])


def test_a_row_that_was_answered_may_be_sent_back(call: Request, instance: str) -> None:
    row = call("POST", "/webhook/set/a", {"webhook": HOOK, "instance": "a"}).json

    answer = call("POST", "/webhook/set/a", {"webhook": row})

    assert answer.status_code == 201
    assert "warnings" not in answer.json


def test_thousands_of_unknown_fields_are_refused_in_a_few_sentences(
    call: Request, instance: str
) -> None:
    many = {f"field{n}" * 20: {} for n in range(5_000)}

    answer = call("POST", "/webhook/set/a", {"webhook": {**HOOK, **many}})

    assert answer.status_code == 400
    assert len(messages(answer)) <= 20
    assert len(answer.get_data()) < 8_000


def test_more_warnings_than_one_can_read_are_a_refusal(call: Request, instance: str) -> None:
    many = {f"zz{n}": 1 for n in range(extra.MAX_STRANGE + 1)}

    answer = call("POST", "/webhook/set/a", {**HOOK, **many})

    assert answer.status_code == 400
    assert messages(answer)[0] == "There are more than 100 unknown fields."
