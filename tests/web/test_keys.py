"""Keys and tokens: who may do what, on every route that there is."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

import app as composition
from evoflask import db
from evoflask.errors import Misconfigured
from evoflask.models import Instance
from evoflask.settings import Settings
from tests.conftest import API_KEY
from tests.web.conftest import Dump, Request

SECOND, EYES = "second-key-0123456789", "read-only-key-0123456789"
OPEN = {"/healthz", "/readyz", "/ws", "/docs", "/docs/page.css"}
"""Alive and ready tell nothing of tenants, a style nothing at all; the gateway and the page, which
sends to the login, have tests of their own."""


def routes(application: Flask, *, instance: bool) -> list[tuple[str, Rule]]:
    """Method and rule of every route but the dashboard's own."""
    return [
        (method, rule)
        for rule in application.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        if not rule.rule.startswith("/rq")
        and rule.rule not in OPEN
        and ("instance" in rule.arguments) == instance
    ]


def path(rule: Rule, instance: str) -> str:
    """The rule with something in each place."""
    built = rule.rule.replace("<instance>", instance)
    return re.sub(r"<[^<>]*>", "1", re.sub(r"<any\((\w+)[^<>]*>", r"\1", built))


@pytest.fixture
def several(settings: Callable[..., Settings], application: Flask) -> Iterator[FlaskClient]:
    """A client of a server with three keys."""
    made = composition.create_app(
        settings(api_keys=(("second", SECOND),), api_keys_read_only=(("eyes", EYES),))
    )
    yield made.test_client()
    db.close()


@contextmanager
def watching(queries: list[str]) -> Iterator[None]:
    """Record the statements that peewee sends to the database."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.msg, tuple):  # else about its connections
                queries.append(record.msg[0].lower())

    log, notes = logging.getLogger("peewee"), Notes()
    level = log.level
    log.addHandler(notes)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(notes)


def test_no_route_answers_without_a_key(application: Flask, client: FlaskClient) -> None:
    found = routes(application, instance=True) + routes(application, instance=False)
    wrong = [
        f"{method} {rule.rule}: {status}"
        for method, rule in found
        if (status := client.open(path(rule, "a"), method=method, json={}).status_code) != 401
    ]

    assert len(found) > 30
    assert wrong == []


def test_a_wrong_key_and_an_unknown_instance_are_answered_alike_on_every_route(
    application: Flask, client: FlaskClient, instance: str
) -> None:
    """To the byte, headers and all: else names could be found by asking."""
    wrong = []
    for method, rule in routes(application, instance=True):
        answers = [
            client.open(path(rule, name), method=method, json={}, headers={"apikey": "token-x"})
            for name in ("a", "nobody")
        ]
        seen = [(each.status_code, each.data, sorted(each.headers)) for each in answers]
        if seen[0] != seen[1] or seen[0][0] != 401:
            wrong.append((method, rule.rule, seen))

    assert wrong == []


def test_a_read_only_key_is_403_wherever_something_would_change(
    application: Flask, several: FlaskClient, instance: str, dump: Dump
) -> None:
    before = dump()
    wrong = []
    for method, rule in [
        *routes(application, instance=True),
        *routes(application, instance=False),
    ]:
        answer = several.open(path(rule, "a"), method=method, json={}, headers={"apikey": EYES})
        if (answer.status_code == 403) != (method != "GET") or answer.status_code in (401, 500):
            wrong.append((method, rule.rule, answer.status_code))

    assert wrong == []
    assert dump() == before


def test_each_key_is_as_good_as_the_first_and_the_audit_log_says_which(
    several: FlaskClient, instance: str
) -> None:
    body = {"webhook": {"url": "https://example.com/2"}}

    changed = several.post("/webhook/set/a", json=body, headers={"apikey": SECOND})
    log = several.get("/audit-log", headers={"apikey": EYES})

    assert changed.status_code == 201
    assert log.json["entries"][0]["by"] == "second"


def test_a_rotated_token_is_shown_once_and_the_old_one_ends(call: Request, instance: str) -> None:
    drawn = call("POST", "/instance/rotateToken/a", key="token-a")
    given = call("POST", "/instance/rotateToken/a", {"token": "token-b"}, key=drawn.json["hash"])

    assert (drawn.status_code, given.status_code) == (200, 200)
    assert given.json == {"instance": {"instanceName": "a"}, "hash": "token-b"}
    for old in ("token-a", drawn.json["hash"]):
        assert call("GET", "/webhook/find/a", key=old).status_code == 401
        emitted = call("POST", "/event/emit/a", {"event": "CALL", "data": {}}, key=old)
        assert emitted.status_code == 401
    assert call("GET", "/webhook/find/a", key="token-b").status_code == 200
    assert call("GET", "/audit-log").json["entries"][0]["action"] == "instance.rotate_token"


@pytest.mark.parametrize("token", ["", "with space", "x" * 129, 5, "ü"])
def test_a_token_that_is_none_changes_nothing(
    call: Request, instance: str, dump: Dump, token: Any
) -> None:
    before = dump()

    assert call("POST", "/instance/rotateToken/a", {"token": token}).status_code == 400
    assert dump() == before


def test_tokens_are_shown_again_only_where_that_was_asked_for(
    settings: Callable[..., Settings], application: Flask
) -> None:
    def fetched(client: FlaskClient, key: str = API_KEY) -> Any:
        return client.get("/instance/fetchInstances", headers={"apikey": key}).json[0]["token"]

    shy = application.test_client()
    frank = composition.create_app(
        settings(expose_tokens=True, api_keys_read_only=(("eyes", EYES),))
    ).test_client()
    made = {"instanceName": "a", "token": "token-a"}
    shy.post("/instance/create", json=made, headers={"apikey": API_KEY})
    first = fetched(frank)
    turned = frank.post(
        "/instance/rotateToken/a", json={"token": "token-b"}, headers={"apikey": API_KEY}
    )

    assert turned.status_code == 200
    assert (first, fetched(frank), fetched(frank, "token-b")) == (None, "token-b", "token-b")
    assert (fetched(frank, EYES), fetched(shy)) == (None, None)
    assert "token-b" not in str(Instance.select().dicts().get())


def test_after_too_many_wrong_keys_an_address_is_429_and_known_keys_go_on(
    settings: Callable[..., Settings], application: Flask
) -> None:
    networks = Settings.from_env({"TRUSTED_PROXIES": "127.0.0.0/8"}).trusted_proxies
    client = composition.create_app(
        settings(auth_failures_per_minute=5, trusted_proxies=networks)
    ).test_client()

    def ask(key: str, client_: str = "192.0.2.1") -> TestResponse:
        headers = {"apikey": key, "X-Forwarded-For": f"9.9.9.9, {client_}"}
        return client.get("/lane", headers=headers)

    known = ask(API_KEY)
    statuses = [ask(f"wrong-{n}").status_code for n in range(7)]
    refused = ask("another")

    assert statuses == [401] * 5 + [429] * 2
    assert 0 < int(refused.headers["Retry-After"]) <= 61
    assert refused.json["response"]["message"] == [
        "Too many wrong keys came from this address; wait a minute."
    ]
    assert (known.status_code, ask(API_KEY).status_code) == (200, 200)
    assert ask("another", "192.0.2.2").status_code == 401


@pytest.mark.databases
def test_a_right_token_passes_in_a_process_that_never_saw_it_after_sixty_wrong_ones(
    settings: Callable[..., Settings], application: Flask
) -> None:
    """Two applications stand for two web processes. All requests are from one address."""
    first = application.test_client()
    second = composition.create_app(settings(auth_failures_per_minute=30)).test_client()
    for name in ("b", "c"):
        made = {"instanceName": name, "token": f"token-{name}"}
        first.post("/instance/create", json=made, headers={"apikey": API_KEY})
    wrong = [
        second.get("/lane", headers={"apikey": f"wrong-{n}"}).status_code for n in range(59)
    ] + [second.get("/webhook/find/c", headers={"apikey": "token-b"}).status_code]

    answers = [
        second.post(
            "/event/emit/b", json={"event": "CALL", "data": {}}, headers={"apikey": "token-b"}
        ),
        second.get("/webhook/find/c", headers={"apikey": "token-c"}),
        second.get("/lane", headers={"apikey": API_KEY}),
    ]
    turned = first.post(
        "/instance/rotateToken/b", json={"token": "token-d"}, headers={"apikey": "token-b"}
    )

    assert wrong == [401] * 30 + [429] * 30
    assert [each.status_code for each in answers] == [202, 200, 200]
    assert turned.status_code == 200
    assert second.get("/webhook/find/b", headers={"apikey": "token-d"}).status_code == 200
    assert second.get("/webhook/find/b", headers={"apikey": "token-b"}).status_code == 429


@pytest.mark.databases
@pytest.mark.parametrize("path_", ["/lane", "/webhook/find/b", "/instance/fetchInstances"])
def test_a_wrong_key_beyond_the_limit_costs_one_small_query(
    settings: Callable[..., Settings], application: Flask, path_: str
) -> None:
    client = composition.create_app(settings(auth_failures_per_minute=1)).test_client()
    client.get(path_, headers={"apikey": "wrong"})
    queries: list[str] = []

    with watching(queries):
        answer = client.get(path_, headers={"apikey": "wrong"})

    assert answer.status_code == 429
    assert len(queries) == 1
    assert "subscription" not in queries[0]


@pytest.mark.parametrize("path_", ["/lane", "/instance/fetchInstances", "/webhook/find/a"])
def test_no_key_at_all_is_no_failure(settings: Callable[..., Settings], path_: str) -> None:
    client = composition.create_app(settings(auth_failures_per_minute=1)).test_client()
    db.upgrade()

    assert [client.get(path_).status_code for _ in range(3)] == [401] * 3
    db.close()


def test_metrics_are_open_where_that_was_asked_for(
    settings: Callable[..., Settings], application: Flask, client: FlaskClient
) -> None:
    opened = composition.create_app(settings(metrics_open=True)).test_client()

    assert client.get("/metrics").status_code == 401
    assert opened.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("API_KEYS", "hunter2hunter2hunter2", "must be a list of name:key"),
        ("API_KEYS", "a:short", "must have a key of 16 to 128"),
        ("API_KEYS", "global:hunter2hunter2hunter2", "must be a list of name:key"),
        ("API_KEYS", "A:hunter2hunter2hunter2", "must be a list of name:key"),
        ("API_KEYS_READ_ONLY", "a:hunter2 hunter2hunter2", "must have a key"),
        ("METRICS_OPEN", "yes", "must be true or false"),
    ],
)
def test_a_wrong_setting_says_so_and_shows_no_key(name: str, text: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        Settings.from_env({name: text})

    assert "hunter2" not in str(caught.value)
