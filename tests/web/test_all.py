"""Actions on many things: a filter, or `"all": true`; never everything by an empty filter."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from evoflask.models import AuditLog
from evoflask.outbox import Outbox
from tests.web import steps
from tests.web.conftest import Dump, Request

MANY = ["/deadletter/requeue", "/deadletter/discard"]


@pytest.fixture
def letters(call: Request, instance: str, outbox: Outbox) -> int:
    """Three letters of `a`, and two of `b` with the token `token-b`."""
    other = {"instanceName": "b", "token": "token-b", "webhook": {"url": "https://e.com"}}
    assert call("POST", "/instance/create", other).status_code == 201
    for name, n in (("a", 3), ("b", 2)):
        events = [{"event": "CALL", "data": {}}] * n
        assert call("POST", f"/event/emit/{name}", events).status_code == 202
    assert steps.kill(outbox) == 5
    return 5


def total(call: Request) -> int:
    found: int = call("GET", "/deadletter").json["total"]
    return found


def noted() -> dict[str, Any]:
    entry = AuditLog.select().order_by(AuditLog.id.desc()).first()
    facts: dict[str, Any] = entry.facts
    return facts


@pytest.mark.parametrize("path", MANY)
@pytest.mark.parametrize("key", ["test-key-of-the-suite", "token-b"])
@pytest.mark.parametrize(
    "body",
    [None, {}, {"limit": 1}, {"dryRun": True}, {"dryRun": False, "limit": 5}, {"all": False}],
)
def test_an_empty_filter_touches_nothing_and_the_refusal_says_how_to_mean_all(
    call: Request, letters: int, dump: Dump, path: str, key: str, body: Any
) -> None:
    before = dump()

    answer = call("POST", path, body, key=key)

    assert answer.status_code == 400
    (sentence,) = answer.json["response"]["message"]
    assert sentence.startswith("The filter is empty. Name what is meant by instance, ")
    assert sentence.endswith('or send "all": true for everything.')
    assert dump() == before


@pytest.mark.parametrize("path", MANY)
def test_all_is_everything_that_the_key_may_see(call: Request, letters: int, path: str) -> None:
    done = {"/deadletter/requeue": "requeued", "/deadletter/discard": "discarded"}[path]

    would = call("POST", path, {"all": True, "dryRun": True}, key="token-b").json["would"]
    tenant = call("POST", path, {"all": True}, key="token-b")
    tenants_facts, left = noted(), total(call)
    rest = call("POST", path, {"all": True, "limit": 2})

    assert (would, tenant.json[done], left) == (2, 2, 3)
    assert (rest.json[done], total(call)) == (2, 1)
    assert tenants_facts["wanted"] == {"all": True}
    assert noted()["wanted"] == {"all": True, "limit": 2}


@pytest.mark.parametrize("path", MANY)
def test_all_beside_a_filter_is_a_contradiction(
    call: Request, letters: int, dump: Dump, path: str
) -> None:
    before = dump()

    answer = call("POST", path, {"all": True, "instance": "a"})

    assert answer.status_code == 400
    assert "contradict each other" in answer.json["response"]["message"][0]
    assert dump() == before


@pytest.mark.parametrize(
    "filter_", [{"instance": "a"}, {"since": 0}, {"instance": "a", "all": False}]
)
def test_a_filter_needs_no_all(call: Request, letters: int, filter_: dict[str, Any]) -> None:
    answer = call("POST", "/deadletter/requeue", {**filter_, "dryRun": True})

    assert answer.status_code == 200
    assert answer.json["would"] > 0


# -- replay ---------------------------------------------------------------------------------


@pytest.fixture
def retained(call: Request, instance: str) -> str:
    """Three events on the outbox of `a`, and a subscription `archive` that came after them."""
    assert call("POST", "/event/emit/a", [{"event": "CALL", "data": {}}] * 3).status_code == 202
    archive = {"name": "archive", "sink": "webhook", "enabled": True, "url": "https://e.com"}
    assert call("POST", "/subscription/a", archive).status_code == 201
    return "archive"


@pytest.mark.parametrize("more", [{}, {"events": ["CALL"]}, {"dryRun": True}, {"all": False}])
def test_a_replay_names_its_events_or_says_all(
    call: Request, retained: str, dump: Dump, more: dict[str, Any]
) -> None:
    before = dump()

    answer = call("POST", "/replay", {"instance": "a", "onto": retained, **more})

    assert answer.status_code == 400
    assert '"all": true' in answer.json["response"]["message"][0]
    assert dump() == before


def test_a_replay_of_all_is_all_that_is_retained(call: Request, retained: str) -> None:
    body = {"instance": "a", "onto": retained, "all": True}

    none = call("POST", "/replay", {**body, "events": ["QRCODE_UPDATED"], "dryRun": True})
    contradiction = call("POST", "/replay", {**body, "since": 0})
    done = call("POST", "/replay", body)

    assert none.json["would"] == 0
    assert contradiction.status_code == 400
    assert done.json["replayed"] == 3
    assert noted()["wanted"] == {"all": True}


# -- purge ----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, {}, {"all": True}])
def test_a_purge_without_a_number_says_what_it_wants_and_discards_nothing(
    call: Request, instance: str, dump: Dump, body: Any
) -> None:
    call("POST", "/event/emit/a", {"event": "CALL", "data": {}})
    before = dump()

    answer = call("POST", "/lane/a/webhook/purge", body)

    assert answer.status_code == 400
    (sentence,) = answer.json["response"]["message"]
    assert '{"confirm": 12}' in sentence
    assert "GET /lane" in sentence
    assert dump() == before


# -- the commands ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("deadletters", "requeue"),
        ("deadletters", "discard"),
        ("deadletters", "requeue", "--limit", "1"),
        ("deadletters", "discard", "--dry-run"),
        ("deadletters", "discard", "--all", "--instance", "a"),
        ("replay", "a", "--onto", "webhook"),
        ("replay", "a", "--onto", "webhook", "--event", "CALL"),
    ],
)
def test_the_commands_have_the_same_rule_and_name_their_option(
    application: Flask, call: Request, letters: int, dump: Dump, words: tuple[str, ...]
) -> None:
    before = dump()

    done = application.test_cli_runner().invoke(args=list(words))

    assert done.exit_code == 2
    assert "or send --all for everything." in done.output
    assert dump() == before


def test_the_commands_take_all_and_the_audit_log_says_so(
    application: Flask, call: Request, letters: int
) -> None:
    done = application.test_cli_runner().invoke(args=["deadletters", "requeue", "--all"])

    assert "5 requeued" in done.output
    assert noted()["wanted"] == {"all": True}
