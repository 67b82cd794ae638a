"""A browser at /docs with an instance's token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import app as composition
from evoflask.settings import Settings
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


def test_forged_cookies_count_as_wrong_keys_and_a_right_cookie_still_passes(
    instance: str, settings: Callable[..., Settings]
) -> None:
    made = composition.create_app(settings(auth_failures_per_minute=3))
    browser, forger = made.test_client(), made.test_client()
    log_in(browser, "token-a")
    right = browser.get_cookie("evoflask_docs", path="/docs")
    assert right is not None
    forged = right.value[:-64] + "0" * 64
    forger.set_cookie("evoflask_docs", forged, path="/docs")

    answers = [forger.get("/docs").status_code for _ in range(5)]

    assert answers == [303] * 3 + [429] * 2
    assert browser.get("/docs").status_code == 200


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
