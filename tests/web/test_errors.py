"""How errors are answered."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from evoflask import errors
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

RAISED = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.EvoflaskError)
]


@pytest.mark.parametrize("kind", RAISED)
def test_every_error_of_ours_has_the_one_shape(application: Flask, kind: Any) -> None:
    def fail() -> None:
        raise kind("One.", "Two.")

    application.add_url_rule("/fail", view_func=fail)

    answer = application.test_client().get("/fail")

    assert answer.status_code == kind.status
    assert answer.json is not None
    assert list(answer.json) == ["status", "error", "response"]
    assert answer.json["response"] == {"message": ["One.", "Two."]}
    later = issubclass(kind, errors.Unavailable | errors.TooMany)
    retry_after = str(kind.retry_after) if later else None
    assert answer.headers.get("Retry-After") == retry_after


def test_a_defect_is_500_and_shows_nothing_of_the_inside(
    application: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("password=hunter2")

    application.add_url_rule("/fail", view_func=fail)

    answer = application.test_client().get("/fail")

    assert answer.status_code == 500
    assert answer.json == {
        "status": 500,
        "error": "Internal Server Error",
        "response": {"message": ["Internal error; the server's log has the reason."]},
    }
    assert "RuntimeError" in caplog.text


def test_an_unknown_route_is_404_in_evolution_api_s_words(client: FlaskClient) -> None:
    answer = client.get("/nope?apikey=x")

    assert answer.status_code == 404
    assert answer.json is not None
    assert answer.json["response"] == {"message": ["Cannot GET /nope"]}


def test_a_wrong_method_says_which_are_allowed(client: FlaskClient) -> None:
    answer = client.put("/webhook/set/a")

    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert answer.json is not None
    assert answer.json["status"] == 405


def test_a_database_without_tables_is_503(settings: Any, empty_url: str) -> None:
    import app as composition
    from evoflask import db
    from tests.web.conftest import GLOBAL

    client = composition.create_app(settings(database_url=empty_url)).test_client()

    answer = client.get("/instance/fetchInstances", headers=GLOBAL)
    db.close()

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json is not None
    assert "no such table" not in str(answer.json)
    assert "does not exist" not in str(answer.json)


def test_a_view_s_connection_is_given_back(call: Request, instance: str) -> None:
    from evoflask import db

    call("GET", "/webhook/find/a")

    assert db.database.is_closed()


def test_what_does_not_ask_the_database_opens_no_connection(client: FlaskClient) -> None:
    from evoflask import db

    db.close()
    opened = []
    connect = db.database.obj.connect
    db.database.obj.connect = lambda *a, **k: (opened.append(1), connect(*a, **k))[1]

    client.get("/nope")
    client.get("/webhook/find/a")  # no key: refused before anything is read

    assert opened == []
