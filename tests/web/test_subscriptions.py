"""Named subscriptions."""

from __future__ import annotations

from typing import Any

import pytest

from evoflask import configuration as reads
from evoflask.models import AuditLog, Instance, Subscription
from tests.web.conftest import Dump, Request

pytestmark = pytest.mark.databases

CRM = {"name": "crm", "sink": "webhook", "enabled": True, "url": "https://crm.example.com/in"}


def messages(answer: Any) -> list[str]:
    found: list[str] = answer.json["response"]["message"]
    return found


def test_a_named_one_stands_beside_the_sink_s_own(call: Request, instance: str) -> None:
    answer = call("POST", "/subscription/a", CRM)

    assert answer.status_code == 201
    assert (answer.json["name"], answer.json["url"]) == ("crm", CRM["url"])
    listed = call("GET", "/subscription/a").json
    assert [row["name"] for row in listed] == ["webhook", "crm"]
    assert call("GET", "/subscription/a/crm").json == listed[1] == answer.json


def test_what_was_read_can_be_sent_back_and_changes_nothing(call: Request, instance: str) -> None:
    for sink, more in (("webhook", {"secret": "whsec_" + "QUJD" * 8, "url": "https://e.com"}),
                       ("pusher", {"secret": "s", "key": "k"})):  # fmt: skip
        made = {"name": f"x-{sink}", "sink": sink, "enabled": False, **more}
        row = call("POST", "/subscription/a", made).json
        stored = Subscription.get(Subscription.name == f"x-{sink}")

        again = call("PUT", f"/subscription/a/x-{sink}", row)

        assert again.status_code == 200
        assert again.json | {"updatedAt": ""} == row | {"updatedAt": ""}
        kept = Subscription.get_by_id(stored.id)
        assert kept.open_secret() == stored.open_secret()
        assert kept.open_settings() == stored.open_settings()


def test_a_put_changes_what_it_names(call: Request, instance: str) -> None:
    call("POST", "/subscription/a", CRM)
    body = {"events": ["call"], "retry": [1, 2.5], "timeout": 5, "orderBy": None,
            "onFailure": "wait", "concurrency": 64}  # fmt: skip

    row = call("PUT", "/subscription/a/crm", body).json

    assert {name: row[name] for name in body} == body | {"events": ["CALL"]}
    assert row["url"] == CRM["url"]


@pytest.mark.parametrize("body", [{"sink": "nats"}, {"name": "other"}])
def test_sink_and_name_cannot_be_changed(call: Request, instance: str, body: Any) -> None:
    call("POST", "/subscription/a", CRM)

    answer = call("PUT", "/subscription/a/crm", body)

    assert answer.status_code == 400
    assert messages(answer) == [f"{next(iter(body))}: Cannot be changed."]


def test_a_taken_name_is_409(call: Request, instance: str) -> None:
    call("POST", "/subscription/a", CRM)

    assert call("POST", "/subscription/a", CRM).status_code == 409
    own = CRM | {"name": "webhook"}
    assert call("POST", "/subscription/a", own).status_code == 409


def test_a_sink_s_name_is_kept_for_that_sink(call: Request, instance: str) -> None:
    answer = call("POST", "/subscription/a", CRM | {"name": "nats"})

    assert messages(answer) == ["name: nats is kept for the sink of that name."]


def test_a_misspelt_field_is_400_here(call: Request, instance: str) -> None:
    answer = call("POST", "/subscription/a", CRM | {"byEvent": True})

    assert messages(answer) == ['byEvent: Unknown field; did you mean "byEvents"?']


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_one_that_is_not_there_is_404(call: Request, instance: str, method: str) -> None:
    answer = call(method, "/subscription/a/nope", {})

    assert answer.status_code == 404
    assert messages(answer) == ['The subscription "nope" does not exist']


def test_delete_takes_the_lane_out_of_redis_and_answers_a_number(
    call: Request, instance: str, redis_client: Any
) -> None:
    lane = call("POST", "/subscription/a", CRM).json["id"]
    assert redis_client.exists(f"evo:{{p0}}:lane:{lane}")

    answer = call("DELETE", "/subscription/a/crm")

    assert answer.json == {"discarded": 0}
    assert not redis_client.exists(f"evo:{{p0}}:lane:{lane}")
    assert call("GET", "/subscription/a/crm").status_code == 404


def test_a_name_that_is_given_again_is_another_lane(call: Request, instance: str) -> None:
    first = call("POST", "/subscription/a", CRM).json["id"]
    call("DELETE", "/subscription/a/crm")

    assert call("POST", "/subscription/a", CRM).json["id"] != first


def test_every_change_raises_the_version_and_the_revision(call: Request, instance: str) -> None:
    call("POST", "/subscription/a", CRM)
    before = Subscription.get(Subscription.name == "crm").version, Instance.get().revision

    call("PUT", "/subscription/a/crm", {"url": "https://crm.example.com/new"})

    after = Subscription.get(Subscription.name == "crm").version, Instance.get().revision
    assert after == (before[0] + 1, before[1] + 1)


def test_the_drain_reads_many_lanes_in_one_query(call: Request, instance: str) -> None:
    crm = call("POST", "/subscription/a", CRM | {"retry": [1, 2], "onFailure": "wait"}).json["id"]
    own = call("GET", "/subscription/a/webhook").json["id"]

    found = reads.read_lane_settings([crm, own, "gone"])

    assert set(found) == {crm, own}
    assert (found[crm].retry, found[crm].wait, found[crm].concurrency) == ((1.0, 2.0), True, 8)
    assert (found[own].retry, found[own].wait) == (None, False)
    assert (found[crm].instance_name, found[crm].subscription_name) == ("a", "crm")
    assert found[crm].target.settings["url"] == CRM["url"]
    assert found[crm].target.instance == "a"
    assert reads.read_target("gone") is None


def test_the_route_of_an_emit_has_every_subscription_and_the_revision(
    call: Request, instance: str
) -> None:
    call("POST", "/subscription/a", CRM | {"enabled": False, "events": ["CALL"]})
    call("POST", "/websocket/set/a", {"enabled": False})

    route = reads.read_route("a")

    assert route is not None
    assert route.revision == Instance.get().revision
    assert [(rule.name, rule.enabled) for rule in route.rules] == [
        ("webhook", True),
        ("crm", False),
        ("websocket", False),
    ]
    assert route.rules[1].events == {"CALL"}
    assert reads.read_route("nope") is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"event": "NO_SUCH"}, "is not an event"),
        ({"evnt": "CALL"}, "evnt: Unknown field"),
        ([1], "must be a JSON object"),
        ({"data": "x" * 70_000}, "65536 bytes"),
    ],
)
def test_a_test_that_is_asked_for_wrongly_changes_nothing(
    call: Request, instance: str, dump: Dump, body: Any, words: str
) -> None:
    before = dump()

    answer = call("POST", f"/subscription/{instance}/webhook/test?wait=0", body)

    assert answer.status_code in (400, 413)
    assert words in str(answer.json)
    assert dump() == before


def test_a_test_needs_a_subscription_that_sends_to_somebody(call: Request, instance: str) -> None:
    call("POST", f"/websocket/set/{instance}", {"websocket": {"enabled": True}})

    assert call("POST", f"/subscription/{instance}/websocket/test").status_code == 409
    assert call("POST", f"/subscription/{instance}/nobody/test").status_code == 404
    assert call("POST", f"/subscription/{instance}/webhook/test?wait=36").status_code == 400
    assert call("POST", f"/subscription/{instance}/webhook/test", key="wrong").status_code == 401
    assert call("GET", f"/subscription/{instance}/webhook/test/test-1").status_code == 404


def test_a_test_that_nobody_takes_is_answered_by_its_id_and_noted(
    call: Request, instance: str
) -> None:
    answer = call("POST", f"/subscription/{instance}/webhook/test?wait=0", key="token-a")

    assert (answer.status_code, answer.json["state"]) == (202, "waiting")
    path = f"/subscription/{instance}/webhook/test/{answer.json['id']}"
    assert call("GET", path).json == answer.json
    noted = AuditLog.select().order_by(AuditLog.id.desc()).first()
    assert (noted.by, noted.action) == ("instance:a", "subscription.test")
    assert noted.facts == {"trial": answer.json["id"]}
