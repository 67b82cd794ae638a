"""set and find of every sink, and of several at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evoflask import schemas, signing, sinks
from evoflask.masks import MASK
from evoflask.models import Instance, Subscription
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

KEYS = {
    "webhook": [
        "id", "url", "headers", "enabled", "events", "webhookByEvents", "webhookBase64",
        "createdAt", "updatedAt", "instanceId", "byEvents", "base64", "giveUpOn",
    ],
    "websocket": ["id", "enabled", "events", "createdAt", "updatedAt", "instanceId"],
    "rabbitmq": [
        "id", "enabled", "events", "createdAt", "updatedAt", "instanceId", "exchange",
        "mandatory",
    ],
    "nats": [
        "id", "enabled", "events", "createdAt", "updatedAt", "instanceId", "subject",
        "jetstream", "createStream", "oversize", "delivery",
    ],
    "sqs": [
        "id", "enabled", "events", "createdAt", "updatedAt", "instanceId", "queueUrl",
        "accessKeyId", "secretAccessKey", "oversize",
    ],
    "pusher": [
        "id", "enabled", "appId", "key", "secret", "cluster", "useTLS", "events", "createdAt",
        "updatedAt", "instanceId", "oversize",
    ],
}  # fmt: skip
COMMON = ["format", "concurrency", "orderBy", "onFailure", "retry", "timeout"]
WORKING = {
    "webhook": {"url": "https://example.com"},
    "websocket": {},
    "rabbitmq": {},
    "nats": {},
    "sqs": {"queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/q"},
    "pusher": {"appId": "1", "key": "k", "secret": "s", "cluster": "eu"},
}


def messages(answer: Any) -> list[str]:
    found: list[str] = answer.json["response"]["message"]
    return found


def test_the_schemas_and_the_registry_name_the_same_sinks() -> None:
    assert tuple(sinks.SINKS) == schemas.SINKS


@pytest.mark.parametrize("sink", schemas.SINKS)
def test_every_sink_is_set_and_found_with_evolution_api_s_keys_in_its_order(
    call: Request, instance: str, sink: str
) -> None:
    made = call("POST", f"/{sink}/set/a", {sink: {"enabled": False, **WORKING[sink]}})
    found = call("GET", f"/{sink}/find/a")

    assert (made.status_code, found.status_code) == (201, 200)
    assert found.json == made.json
    secret = ["secretSet", "publicKey"] if sink in signing.SINKS else []
    assert list(made.json) == KEYS[sink] + COMMON + secret
    assert made.json["instanceId"] == Instance.get().outbox


@pytest.mark.parametrize("sink", schemas.SINKS)
def test_what_was_never_set_is_null(call: Request, sink: str) -> None:
    call("POST", "/instance/create", {"instanceName": "empty"})

    answer = call("GET", f"/{sink}/find/empty")

    assert answer.status_code == 200
    assert answer.get_data() == b"null\n"


@pytest.mark.parametrize(("sink", "variable"), [("rabbitmq", "RABBITMQ_URI"), ("nats", "NATS_URI")])
def test_enabling_a_sink_without_a_server_names_the_variable_and_stores_nothing(
    call: Request, instance: str, sink: str, variable: str, dump: Any
) -> None:
    before = dump()

    answer = call("POST", f"/{sink}/set/a", {sink: {"enabled": True, **WORKING[sink]}})

    assert answer.status_code == 400
    [message] = messages(answer)
    assert message.startswith(f"{sink}.enabled: {variable} is not set")
    assert dump() == before


@pytest.mark.parametrize(
    "body",
    [
        {"webhook": {"enabled": True, "url": "https://e.com/", "byEvents": True, "base64": True}},
        {"enabled": True, "url": "https://e.com/", "byEvents": True, "base64": True},
        {"enabled": True, "url": "https://e.com/", "webhookByEvents": True, "webhookBase64": True},
        {"enabled": True, "url": "https://e.com/", "webhook_by_events": True,
         "webhook_base64": True},
        {"webhook": {"enabled": True, "webhookUrl": "https://e.com/", "webhook_by_events": True,
                     "webhookBase64": True}},
        {"webhookEnabled": True, "webhookUrl": "https://e.com/", "webhookByEvents": True,
         "webhookBase64": True},
        {"webhook": {"enabled": True, "url": "https://e.com/", "byEvents": True},
         "webhook_base64": True},
        {"webhook": {"enabled": True, "url": "https://e.com/", "byEvents": True,
                     "webhookByEvents": True, "base64": True}},
    ],
)  # fmt: skip
def test_nested_flat_and_aliased_bodies_mean_the_same(call: Request, body: Any) -> None:
    call("POST", "/instance/create", {"instanceName": "i"})

    row = call("POST", "/webhook/set/i", body).json

    assert row["url"] == "https://e.com/"
    assert row["byEvents"] is row["webhookByEvents"] is True
    assert row["base64"] is row["webhookBase64"] is True
    assert row["events"] == []


def test_two_spellings_that_differ_are_400(call: Request, instance: str) -> None:
    body = {"webhook": {"byEvents": True, "webhookByEvents": False}}

    answer = call("POST", "/webhook/set/a", body)

    assert answer.status_code == 400
    assert messages(answer) == ["webhook.byEvents: Given twice, with different values."]


def test_enabled_is_required_the_first_time_kept_later_and_obeyed_as_given(call: Request) -> None:
    call("POST", "/instance/create", {"instanceName": "i"})

    first = call("POST", "/webhook/set/i", {"webhook": {"url": "https://example.com"}})
    off = call("POST", "/webhook/set/i", {"webhook": {"enabled": False, "events": ["CALL"]}})
    kept = call("POST", "/webhook/set/i", {"webhook": {"url": "https://example.com"}})
    on = call("POST", "/webhook/set/i", {"webhook": {"enabled": True}})

    assert messages(first) == ["webhook.enabled: Missing data for required field."]
    assert (off.json["enabled"], off.json["events"], off.json["url"]) == (False, ["CALL"], None)
    assert (kept.json["enabled"], kept.json["events"]) == (False, ["CALL"])
    assert (on.json["enabled"], on.json["events"]) == (True, ["CALL"])


def test_a_partial_update_keeps_what_it_does_not_name_and_the_id(
    call: Request, instance: str
) -> None:
    old = call("GET", "/webhook/find/a").json

    new = call("POST", "/webhook/set/a", {"headers": {"X-A": "b"}, "concurrency": 1}).json

    changed = {name for name in new if new[name] != old[name]}
    assert changed <= {"headers", "concurrency", "updatedAt"}
    assert (new["headers"], new["concurrency"]) == ({"X-A": MASK}, 1)
    assert Subscription.get().open_settings()["headers"] == {"X-A": "b"}


def test_headers_are_masked_and_each_mask_sent_back_keeps_its_value(
    call: Request, instance: str
) -> None:
    call("POST", "/webhook/set/a", {"headers": {"Authorization": "Bearer 1", "X-A": "b"}})
    shown = call("GET", "/webhook/find/a").json["headers"]

    call("POST", "/webhook/set/a", {"headers": shown | {"X-A": "c", "X-New": "d"}})
    refused = call("POST", "/webhook/set/a", {"webhook": {"headers": {"X-Other": MASK}}})

    assert shown == {"Authorization": MASK, "X-A": MASK}
    assert Subscription.get().open_settings()["headers"] == {
        "Authorization": "Bearer 1",
        "X-A": "c",
        "X-New": "d",
    }
    assert refused.status_code == 400
    assert messages(refused) == [
        "webhook.headers.X-Other: The mask stands for nothing: no value is stored."
    ]


def test_a_jwt_key_is_masked_like_every_header_and_its_mask_keeps_it(
    call: Request, instance: str
) -> None:
    first = call("POST", "/webhook/set/a", {"headers": {"jwt_key": "clé €"}})
    shown = call("GET", "/webhook/find/a").json["headers"]

    call("POST", "/webhook/set/a", {"headers": shown, "concurrency": 1})

    assert first.status_code == 201, first.text
    assert first.json["headers"] == shown == {"jwt_key": MASK}
    assert Subscription.get().open_settings()["headers"] == {"jwt_key": "clé €"}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ([404], [404]),
        ([], []),
        (None, [400, 410, 413, 422]),
        ([503, 404.0, 503], [503, 404]),
        ([300, 999], [300, 999]),
    ],
)
def test_give_up_on_is_stored_as_given_each_status_once(
    call: Request, instance: str, given: Any, stored: list[int]
) -> None:
    fresh = call("POST", "/webhook/set/a", {"concurrency": 2}).json["giveUpOn"]
    first = call("POST", "/webhook/set/a", {"giveUpOn": given})
    named = call("PUT", "/subscription/a/webhook", {"concurrency": 3}).json["giveUpOn"]
    found = call("GET", "/webhook/find/a").json["giveUpOn"]

    assert fresh == [400, 410, 413, 422]
    assert (first.status_code, first.json["giveUpOn"]) == (201, stored)
    assert named == found == stored
    assert Subscription.get().open_settings()["giveUpOn"] == stored


def test_a_row_of_before_give_up_on_has_the_default(call: Request, instance: str) -> None:
    call("POST", "/webhook/set/a", {"concurrency": 2})
    old = Subscription.get()
    settings = {k: v for k, v in old.open_settings().items() if k != "giveUpOn"}
    Subscription.update(settings=json.dumps(settings)).where(Subscription.id == old.id).execute()

    found = call("GET", "/webhook/find/a")

    assert found.json["giveUpOn"] == [400, 410, 413, 422]


def test_half_a_surrogate_pair_is_no_jwt_key() -> None:
    faults = schemas.SCHEMAS["webhook"].validate({"headers": {"jwt_key": "k\ud800"}})

    assert faults == {"headers": {"jwt_key": ["Must be text that UTF-8 can carry."]}}


OLD_URL = "https://user:hunter2@example.com/hook"


def test_a_password_in_a_url_of_old_is_masked_and_the_mask_sent_back_keeps_it(
    call: Request, instance: str
) -> None:
    own = json.dumps({"url": OLD_URL})
    Subscription.update(settings=own).where(Subscription.name == "webhook").execute()
    shown = call("GET", "/subscription/a/webhook").json
    masked = shown["url"]

    sent_back = call("PUT", "/subscription/a/webhook", shown | {"concurrency": 3})
    moved = call("PUT", "/subscription/a/webhook", {"url": masked.replace("/hook", "/other")})
    anew = call("POST", "/subscription/a", {"name": "b", "sink": "webhook", "url": masked})
    known = call("PUT", "/subscription/a/webhook", {"url": OLD_URL})

    assert masked == f"https://user:{MASK}@example.com/hook"
    assert (sent_back.status_code, sent_back.json["concurrency"]) == (200, 3)
    assert Subscription.get().open_settings()["url"] == OLD_URL
    for refused in (moved, anew):
        assert refused.status_code == 400
        assert messages(refused) == ["url: The mask stands for nothing: no value is stored."]
    assert known.status_code == 400


def test_null_means_as_by_default_and_for_order_by_none(call: Request, instance: str) -> None:
    given = {"headers": {"X-A": "b"}, "byEvents": True, "retry": [1], "concurrency": 2}
    call("POST", "/webhook/set/a", {"webhook": given})

    row = call("POST", "/webhook/set/a", dict.fromkeys([*given, "orderBy", "events"])).json

    assert (row["headers"], row["byEvents"], row["retry"]) == (None, False, None)
    assert (row["concurrency"], row["orderBy"], row["events"]) == (8, None, [])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        (["messages.upsert", "MESSAGES_UPSERT", "messages-update"],
         ["MESSAGES_UPSERT", "MESSAGES_UPDATE"]),
        (["GROUP_UPDATE", "group-participants.update"],
         ["GROUPS_UPDATE", "GROUP_PARTICIPANTS_UPDATE"]),
        (["SEND_MESSAGE_UPDATE"], ["SEND_MESSAGE_UPDATE"]),
    ],
)  # fmt: skip
def test_events_are_taken_in_every_spelling_and_answered_as_given(
    call: Request, instance: str, given: list[str], kept: list[str]
) -> None:
    assert call("POST", "/webhook/set/a", {"events": given}).json["events"] == kept


def test_a_url_is_needed_to_enable_a_webhook_and_an_empty_one_is_none(call: Request) -> None:
    call("POST", "/instance/create", {"instanceName": "i"})

    enabled = call("POST", "/webhook/set/i", {"webhook": {"enabled": True, "url": ""}})
    disabled = call("POST", "/webhook/set/i", {"webhook": {"enabled": False, "url": ""}})

    assert messages(enabled) == ["webhook.url: Missing data for required field."]
    assert (disabled.status_code, disabled.json["url"]) == (201, None)


def test_pusher_s_secret_is_masked_and_the_mask_sent_back_keeps_it(
    call: Request, instance: str
) -> None:
    body = {"enabled": False, **WORKING["pusher"]}
    first = call("POST", "/pusher/set/a", {"pusher": body}).json

    second = call("POST", "/pusher/set/a", {"pusher": first | {"cluster": "us2"}}).json

    assert first["secret"] == second["secret"] == "********"
    assert second["cluster"] == "us2"
    assert Subscription.get(Subscription.name == "pusher").open_settings()["secret"] == "s"


def test_the_mask_is_no_secret_where_none_is_stored(call: Request, instance: str) -> None:
    body = {"enabled": True, **WORKING["pusher"], "secret": "********"}

    answer = call("POST", "/pusher/set/a", {"pusher": body})

    assert messages(answer) == ["pusher.secret: Missing data for required field."]


def test_a_signing_secret_is_never_shown(call: Request, instance: str) -> None:
    secret = "whsec_" + "QUJD" * 8

    made = call("POST", "/webhook/set/a", {"webhook": {"secret": secret}})

    assert made.json["secretSet"] is True
    for path in ("/webhook/find/a", "/event/find/a", "/subscription/a", "/instance/fetchInstances"):
        assert b"QUJD" not in call("GET", path).get_data()
    assert Subscription.get().open_secret() == secret


def test_defaults_are_those_of_the_contract(call: Request, instance: str) -> None:
    rows = {
        sink: call("POST", f"/{sink}/set/a", {sink: {"enabled": False}}).json
        for sink in schemas.SINKS
    }

    assert {name: rows["webhook"][name] for name in COMMON} == {
        "format": "standard", "concurrency": 8, "orderBy": "conversation",
        "onFailure": "pass", "retry": None, "timeout": 30,
    }  # fmt: skip
    assert (rows["rabbitmq"]["exchange"], rows["rabbitmq"]["mandatory"]) == (
        "evolution-events",
        True,
    )
    assert rows["nats"]["subject"] == "evolution.events"
    assert (rows["nats"]["jetstream"], rows["nats"]["createStream"]) == (True, False)
    assert (rows["pusher"]["useTLS"], rows["pusher"]["oversize"]) == (True, "reject")
    assert rows["sqs"]["queueUrl"] is None


def test_event_set_sets_several_and_answers_all_six(call: Request, instance: str) -> None:
    body = {"webhook": {"base64": True}, "nats": {"enabled": False, "subject": "x.y"}}

    answer = call("POST", "/event/set/a", body)

    assert answer.status_code == 201
    assert list(answer.json) == list(schemas.SINKS)
    assert answer.json["webhook"]["base64"] is True
    assert answer.json["nats"]["subject"] == "x.y"
    assert answer.json["sqs"] is None
    assert call("GET", "/event/find/a").json == answer.json


@pytest.mark.parametrize("body", [{}, {"kafka": {"enabled": True}}, {"webhook": None}])
def test_event_set_needs_at_least_one_sink(call: Request, instance: str, body: Any) -> None:
    answer = call("POST", "/event/set/a", body)

    assert answer.status_code == 400
    assert messages(answer)[0].startswith("At least one of webhook, websocket")


def test_one_bad_sink_of_several_stores_nothing_and_every_fault_is_told(
    call: Request, instance: str, dump: Any
) -> None:
    before = dump()
    body = {
        "webhook": {"url": "https://example.com/new"},
        "nats": {"subject": "a.*"},
        "sqs": {"enabled": True},
    }

    answer = call("POST", "/event/set/a", body)

    assert answer.status_code == 400
    assert "nats.subject: Not a valid subject." in messages(answer)
    assert dump() == before


def test_a_set_holds_in_redis_when_it_is_answered(
    call: Request, instance: str, config_in_redis: Any, redis_client: Any
) -> None:
    call("POST", "/webhook/set/a", {"enabled": False, "onFailure": "wait"})
    call("POST", "/websocket/set/a", {"websocket": {"enabled": False}})

    row = Instance.get()
    config = config_in_redis("a")
    lanes = json.loads(config[b"lanes"])
    assert int(config[b"revision"]) == row.revision == row.pushed == 3
    assert [lane[1] for lane in lanes] == ["webhook"]  # a websocket has no lane


def test_a_literal_address_that_must_not_be_reached_is_refused_at_set(
    call: Request, instance: str
) -> None:
    for url in ("http://10.0.0.1/", "http://[fd00::1]/", "http://169.254.169.254/latest"):
        answer = call("POST", "/webhook/set/a", {"webhook": {"url": url}})
        assert answer.status_code == 400, url
        assert messages(answer)[0].startswith("webhook.url: Must not be reached")
    allowed = call("POST", "/webhook/set/a", {"webhook": {"url": "http://127.0.0.1:9/"}})
    assert allowed.status_code == 201


@pytest.mark.parametrize(
    ("jetstream", "promised"), [(True, "at-least-once"), (False, "at-most-once")]
)
def test_nats_says_what_it_promises_wherever_the_subscription_is_shown(
    call: Request, instance: str, jetstream: bool, promised: str
) -> None:
    made = call("POST", "/nats/set/a", {"nats": {"enabled": False, "jetstream": jetstream}}).json

    again = call("POST", "/nats/set/a", {"nats": {**made, "delivery": "exactly-once"}})
    shown = [
        made,
        again.json,
        call("GET", "/nats/find/a").json,
        call("GET", "/event/find/a").json["nats"],
        call("GET", "/subscription/a/nats").json,
        *[each for each in call("GET", "/lane").json["lanes"] if each["sink"] == "nats"],
    ]

    assert [each["delivery"] for each in shown] == [promised] * 6
    assert "delivery" not in call("GET", "/webhook/find/a").json
