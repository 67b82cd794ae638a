"""The API's own documentation: complete, valid, and nothing from elsewhere. That it is true, every
test of this folder holds: its client compares each answer (`conforming`).
"""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from evoflask.errors import EvoflaskError
from evoflask.web.openapi import document
from tests.conftest import API_KEY
from tests.web.conftest import GLOBAL, Request

DOCUMENTED_ELSEWHERE = {"/docs", "/docs/openapi.json", "/docs/page.css", "/ws"}
"""Pages for people; the websocket is in the document, and no view of the usual kind."""


@pytest.fixture
def openapi(client: FlaskClient) -> dict[str, Any]:
    """What the server says of itself."""
    answer = client.get("/openapi.json", headers=GLOBAL)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json or {}
    return found


def operations(openapi: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and operation."""
    return [
        (method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_document_is_valid_openapi_3_1(openapi: dict[str, Any]) -> None:
    assert openapi["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(openapi).validate()


def test_every_route_is_in_it(application: Flask, openapi: dict[str, Any]) -> None:
    routes = {
        (method.lower(), re.sub(r"<[^<>]*?(\w+)>", r"{\1}", rule.rule))
        for rule in application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith("/rq") and rule.rule not in DOCUMENTED_ELSEWHERE
    }
    sinks = ("webhook", "websocket", "rabbitmq", "nats", "sqs", "pusher")
    one_each = {(m, p) for m, p in routes if "{sink}" not in p}
    one_each |= {
        (method, path.replace("{sink}", sink))
        for (method, path), sink in itertools.product(routes - one_each, sinks)
    }

    documented = {(method, path) for method, path, _ in operations(openapi) if path != "/ws"}

    assert documented == one_each


def test_a_view_that_says_nothing_of_itself_is_found(application: Flask) -> None:
    application.add_url_rule("/new", "health.new", lambda: "")

    with pytest.raises(LookupError, match=r"health\.new"):
        document.build(application)


def test_every_operation_has_a_name_words_and_a_group(openapi: dict[str, Any]) -> None:
    found = [operation for _, _, operation in operations(openapi)]
    groups = {tag["name"] for tag in openapi["tags"]}

    names = [operation["operationId"] for operation in found]
    assert len(set(names)) == len(names)
    assert [o["operationId"] for o in found if not o["summary"].strip()] == []
    assert [o["operationId"] for o in found if not set(o["tags"]) <= groups] == []
    assert [tag["name"] for tag in openapi["tags"] if not tag["description"]] == []


def test_every_status_that_we_raise_is_documented_somewhere(openapi: dict[str, Any]) -> None:
    raised = {kind.status for kind in _below(EvoflaskError)} - {500}  # a defect, or no start

    documented = {int(s) for _, _, o in operations(openapi) for s in o["responses"]}

    assert raised <= documented


def _below(kind: type[EvoflaskError]) -> list[type[EvoflaskError]]:
    return [each for below in kind.__subclasses__() for each in (below, *_below(below))]


def test_every_example_is_taken(openapi: dict[str, Any], call: Request) -> None:
    examples = {
        (method, path): operation["requestBody"]["content"]["application/json"]["example"]
        for method, path, operation in operations(openapi)
        if "example" in str(operation.get("requestBody", {}).get("content", {}))
    }
    first = [("post", "/instance/create"), ("post", "/subscription/{instance}")]
    last = [("post", "/instance/rotateToken/{instance}")]
    # One needs a letter or a lane's head, one a worker: they are sent by tests of their own.
    absent = [
        ("post", "/deadletter/{letter}/requeue"),
        ("post", "/lane/{instance}/{name}/skip"),
        ("post", "/subscription/{instance}/{name}/test"),
    ]
    rest = [each for each in examples if each not in (*first, *last, *absent)]

    wrong = []
    for method, path in (*first, *rest, *last):
        where = path.replace("{instance}", "support").replace("{name}", "archive")
        answer = call(method.upper(), where, examples[method, path])
        if answer.status_code >= 300:
            wrong.append((method, path, answer.status_code, answer.json))

    assert wrong == []
    assert len(rest) >= 14


# -- the page -------------------------------------------------------------------------------


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src", "action", "srcset"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(name)


@pytest.fixture
def page(client: FlaskClient) -> _Page:
    """The page, taken apart."""
    answer = client.get("/docs", headers=GLOBAL)
    assert answer.status_code == 200
    parser = _Page()
    parser.feed(answer.get_data(as_text=True))
    return parser


def test_the_page_needs_nothing_from_elsewhere_and_no_script(page: _Page) -> None:
    assert [link for link in page.links if not link.startswith(("/", "#"))] == []
    assert [link for link in page.links if link.startswith("//")] == []
    assert page.tags.isdisjoint({"script", "img", "iframe", "form", "base", "object"})
    assert page.inline == []


def test_the_page_has_every_operation_and_every_link_leads_somewhere(
    page: _Page, openapi: dict[str, Any], client: FlaskClient
) -> None:
    names = {operation["operationId"] for _, _, operation in operations(openapi)}
    here = [link[1:] for link in page.links if link.startswith("#")]
    other = {link for link in page.links if link.startswith("/")}

    assert names <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert [each for each in here if each not in page.ids] == []
    assert [client.get(each, headers=GLOBAL).status_code for each in other] == [200] * len(other)


def test_the_pages_policy_lets_a_browser_load_its_style_and_nothing_else(
    client: FlaskClient,
) -> None:
    policy = client.get("/docs", headers=GLOBAL).headers["Content-Security-Policy"]

    assert policy.startswith("default-src 'none'; style-src 'self';")
    assert "unsafe" not in policy
    assert client.get("/docs/page.css").mimetype == "text/css"


def test_a_browser_logs_in_for_the_page_and_comes_back_to_it(client: FlaskClient) -> None:
    asked = client.get("/docs")
    entered = client.post(asked.headers["Location"], data={"key": API_KEY})

    assert (asked.status_code, asked.headers["Location"]) == (303, "/rq/login?next=/docs")
    assert (entered.status_code, entered.headers["Location"]) == (303, "/docs")
    assert client.get("/docs").status_code == 200
    assert client.get("/docs/openapi.json").json == client.get("/openapi.json", headers=GLOBAL).json
    assert client.get("/openapi.json").status_code == 401, "a cookie is for pages"


@pytest.mark.parametrize("path", ["/docs", "/docs/openapi.json", "/openapi.json"])
def test_a_token_may_read_it_and_a_wrong_key_may_not(
    client: FlaskClient, instance: str, path: str
) -> None:
    right = client.get(path, headers={"apikey": "token-a"})
    wrong = client.get(path, headers={"apikey": "nope"})

    assert (right.status_code, wrong.status_code) == (200, 401)


def test_after_the_logout_the_page_is_closed(client: FlaskClient) -> None:
    client.post("/rq/login", data={"key": API_KEY})
    cookie = client.get_cookie("_csrf_token", path="/rq/")
    assert cookie is not None

    client.post("/rq/logout", headers={"X-CSRFToken": cookie.value})

    assert client.get("/docs").status_code == 303
