"""A browser at /docs with an instance's token."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from evoflask.web.dashboard.session import sessions
from tests.web.conftest import Request

LOGIN = "/rq/login?next=/docs"


def log_in(client: FlaskClient, key: str, path: str = LOGIN) -> TestResponse:
    return client.post(path, data={"key": key})


def test_a_token_opens_the_documentation_in_a_browser(client: FlaskClient, instance: str) -> None:
    sent = client.get("/docs")
    form = client.get(sent.headers["Location"])
    entered = log_in(client, "token-a", sent.headers["Location"])
    page, document = client.get("/docs"), client.get("/docs/openapi.json")

    assert (sent.status_code, sent.headers["Location"]) == (303, LOGIN)
    assert "an instance&#39;s token" in form.get_data(as_text=True)
    assert (entered.status_code, entered.headers["Location"]) == (303, "/docs")
    assert (page.status_code, document.status_code) == (200, 200)


def test_the_cookie_of_a_token_opens_nothing_else(client: FlaskClient, instance: str) -> None:
    entered = log_in(client, "token-a")
    set_cookie = entered.headers.getlist("Set-Cookie")

    assert len(set_cookie) == 1
    assert "Path=/docs" in set_cookie[0]
    assert {"HttpOnly", "SameSite=Strict"} <= set(set_cookie[0].split("; "))
    assert client.get("/rq/").status_code == 303
    assert client.get("/webhook/find/a").status_code == 401


def test_a_token_at_the_dashboard_is_told_from_a_wrong_key(
    client: FlaskClient, instance: str
) -> None:
    token, wrong = (log_in(client, key, "/rq/login") for key in ("token-a", "nonsense"))

    assert (token.status_code, wrong.status_code) == (403, 401)
    assert "It opens /docs" in token.get_data(as_text=True)
    assert "Set-Cookie" not in token.headers


@pytest.mark.parametrize("end", ["rotate", "delete"])
def test_the_cookie_ends_with_the_token(
    client: FlaskClient, call: Request, instance: str, end: str
) -> None:
    log_in(client, "token-a")
    before = client.get("/docs").status_code
    if end == "rotate":
        call("POST", "/instance/rotateToken/a", {"token": "token-b"})
    else:
        call("DELETE", "/instance/delete/a")

    assert (before, client.get("/docs").status_code) == (200, 303)


def test_a_cookie_of_a_token_ends_by_the_clock_and_cannot_be_changed(
    application: Flask, call: Request, instance: str
) -> None:
    from evoflask import configuration

    with application.app_context():
        row = configuration.get("a").instance
        cookie = sessions().issue_for_token(row, 1_000.0)
        end = 1_000.0 + sessions().seconds
        later = cookie.replace(str(int(end)), str(int(end) + 1))

        assert sessions().admits_token(cookie, end - 1)
        assert not sessions().admits_token(cookie, end + 1)
        assert not sessions().admits_token(later, end - 1)
        assert not sessions().admits_token(cookie[:-1] + "x", end - 1)
