"""The audit log: what is noted, who sees it, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from evoflask import auditlog, models
from evoflask.errors import DatabaseDown
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

HOOK = {"url": "https://example.com/secret-path", "headers": {"Authorization": "Bearer hidden"}}


def entries(call: Request, query: str = "", **how: Any) -> Any:
    answer = call("GET", f"/audit-log{query}", **how)
    assert answer.status_code == 200, answer.json
    return answer.json["entries"]


def test_every_change_of_configuration_is_noted_with_its_key_and_no_value(
    call: Request, instance: str
) -> None:
    call("POST", "/subscription/a", {"name": "crm", "sink": "webhook", "enabled": True, **HOOK})
    call("PUT", "/subscription/a/crm", {"enabled": False}, key="token-a")
    call("POST", "/webhook/set/a", {"webhook": HOOK}, key="token-a")
    call("DELETE", "/subscription/a/crm")
    call("DELETE", "/instance/delete/a")

    found = list(reversed(entries(call, "?instance=a")))

    assert [(e["action"], e["subscription"], e["by"]) for e in found] == [
        ("instance.create", None, "global"),
        ("subscription.create", "webhook", "global"),
        ("subscription.create", "crm", "global"),
        ("subscription.change", "crm", "instance:a"),
        ("subscription.change", "webhook", "instance:a"),
        ("subscription.delete", "crm", "global"),
        ("instance.delete", None, "global"),
    ]
    assert found[3]["facts"] == {"sink": "webhook", "enabled": False, "fields": ["enabled"]}
    assert found[4]["facts"]["fields"] == ["headers", "url"]
    assert found[5]["facts"] == {"sink": "webhook", "discarded": 0}
    assert all("hidden" not in str(e) and "secret" not in str(e) for e in found)


def test_a_delete_says_how_many_deliveries_went_with_it(call: Request, instance: str) -> None:
    call("POST", "/event/emit/a", [{"event": "CALL", "data": 1}] * 3)

    call("DELETE", "/subscription/a/webhook")

    (entry,) = entries(call, "?action=subscription.delete")
    assert entry["facts"]["discarded"] == 3


def test_what_was_refused_is_not_noted(call: Request, instance: str) -> None:
    before = entries(call)

    for method, path, body in (
        ("POST", "/instance/create", {"instanceName": "a"}),
        ("POST", "/webhook/set/a", {"webhook": {"url": "nonsense"}}),
        ("POST", "/subscription/a", {"name": "webhook", "sink": "webhook"}),
        ("DELETE", "/subscription/a/nope", None),
        ("POST", "/lane/a/nope/pause", None),
        ("POST", "/lane/a/webhook/purge", {"confirm": 7}),
        ("POST", "/lane/a/webhook/skip", None),
    ):
        assert 400 <= call(method, path, body).status_code < 500

    assert entries(call) == before


def test_an_event_set_notes_each_sink(call: Request, instance: str) -> None:
    body = {"webhook": {"enabled": False}, "websocket": {"enabled": True}}
    assert call("POST", "/event/set/a", body).status_code == 201

    found = entries(call, "?limit=2")

    assert {(e["action"], e["subscription"]) for e in found} == {
        ("subscription.change", "webhook"),
        ("subscription.create", "websocket"),
    }


def test_a_token_sees_its_own_instance_only_also_when_it_has_the_name_of_a_deleted_one(
    call: Request, instance: str
) -> None:
    call("DELETE", "/instance/delete/a")
    call("POST", "/instance/create", {"instanceName": "a", "token": "token-2"})
    call("POST", "/instance/create", {"instanceName": "b", "token": "token-b"})

    mine = entries(call, key="token-2")

    assert [e["action"] for e in mine] == ["instance.create"]
    assert [e["instance"] for e in entries(call, key="token-b")] == ["b"]
    assert entries(call, "?instance=a", key="token-b") == []
    assert len(entries(call, "?instance=a")) == 4
    assert call("GET", "/audit-log", key="token-a").status_code == 401


def test_pages_are_stable_while_entries_come(call: Request, instance: str) -> None:
    for _ in range(4):
        call("POST", "/lane/a/webhook/pause")
        call("POST", "/lane/a/webhook/resume")

    seen, after = [], ""
    while after is not None:
        page = call("GET", f"/audit-log?action=lane&limit=3{after and f'&after={after}'}").json
        seen += [e["action"] for e in page["entries"]]
        after = page["next"]
        call("POST", "/lane/a/webhook/pause")

    assert seen == ["lane.resume", "lane.pause"] * 4


def test_filters_by_key_action_subscription_and_time(call: Request, instance: str) -> None:
    call("POST", "/lane/a/webhook/pause", key="token-a")
    models.AuditLog.update(at=1000.0).where(models.AuditLog.action == "lane.pause").execute()

    def actions(query: str) -> list[str]:
        return [e["action"] for e in entries(call, query)]

    assert actions("?by=instance:a") == ["lane.pause"]
    assert actions("?action=lane.pause") == ["lane.pause"]
    assert actions("?until=2000") == ["lane.pause"]
    assert "lane.pause" not in actions("?since=2000")
    assert actions("?subscription=webhook") == ["lane.pause", "subscription.create"]
    assert actions("?action=lan") == []


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=501", "?after=x", "?since=noon", "?instance=..%00", "?who=me"]
)
def test_a_query_that_makes_no_sense_is_400(call: Request, instance: str, query: str) -> None:
    assert call("GET", f"/audit-log{query}").status_code == 400


def test_no_key_is_401(application: Flask, instance: str) -> None:
    assert application.test_client().get("/audit-log").status_code == 401


def test_old_entries_are_forgotten_a_piece_at_a_time(
    call: Request, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("POST", "/lane/a/webhook/pause")
    models.AuditLog.update(at=1000.0).where(models.AuditLog.action != "lane.pause").execute()
    monkeypatch.setattr(auditlog, "PIECE", 1)

    gone = [auditlog.forget(2000.0) for _ in range(3)]

    assert gone == [1, 1, 0]
    assert [e["action"] for e in entries(call)] == ["lane.pause"]


def test_what_cannot_be_noted_does_not_undo_what_was_done(
    call: Request, instance: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    monkeypatch.setattr(auditlog, "note", _down)

    answer = call("POST", "/lane/a/webhook/purge", {"confirm": 1})

    assert (answer.status_code, answer.json["discarded"]) == (200, 1)
    assert "in this log only" in caplog.text


def _down(*_: Any, **__: Any) -> None:
    raise DatabaseDown("The database cannot be reached, or refuses.")
