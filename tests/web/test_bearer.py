"""Keys as `Authorization: Bearer`, and the sentences of a 401."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from evoflask.keyring import given_key
from tests.conftest import API_KEY
from tests.web.conftest import GLOBAL, Dump
from tests.web.test_keys import path, routes


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_bearer_opens_every_route_that_the_header_apikey_opens(
    application: Flask, client: FlaskClient, instance: str
) -> None:
    found = [*routes(application, instance=True), *routes(application, instance=False)]
    wrong = []
    for method, rule in found:
        where = path(rule, "nobody")
        by_header = client.open(where, method=method, json={}, headers=GLOBAL)
        by_bearer = client.open(where, method=method, json={}, headers=bearer(API_KEY))
        if by_bearer.status_code != by_header.status_code or by_header.status_code == 401:
            wrong.append((method, where, by_header.status_code, by_bearer.status_code))

    assert len(found) > 30
    assert wrong == []


@pytest.mark.parametrize("where", ["/rq/", "/metrics", "/openapi.json", "/docs", "/lane"])
def test_pages_and_numbers_take_a_bearer_too(client: FlaskClient, where: str) -> None:
    assert client.get(where, headers=bearer(API_KEY)).status_code == 200


def test_a_token_as_bearer_sees_its_own_instance_and_no_other(
    client: FlaskClient, instance: str
) -> None:
    client.post("/instance/create", json={"instanceName": "b"}, headers=GLOBAL)

    own = client.get("/webhook/find/a", headers=bearer("token-a"))
    other = client.get("/webhook/find/b", headers=bearer("token-a"))

    assert (own.status_code, other.status_code) == (200, 401)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_scheme_is_written_in_any_case(client: FlaskClient, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {API_KEY}"}

    assert client.get("/lane", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("apikey", "authorization", "key"),
    [
        (None, None, ""),
        ("", "", ""),
        ("k", None, "k"),
        ("k", "Bearer other", "k"),
        ("", "Bearer k", "k"),
        (None, "Basic azpr", ""),
        (None, "Bearer", ""),
        (None, "Bearer ", ""),
        (None, "k", ""),
        (None, "Bearer a b", "a b"),
        (None, "Bearerk", ""),
    ],
)
def test_the_header_apikey_counts_before_a_bearer(
    apikey: str | None, authorization: str | None, key: str
) -> None:
    assert given_key(apikey, authorization) == key


def test_a_wrong_apikey_is_not_saved_by_a_right_bearer(
    client: FlaskClient, instance: str, dump: Dump
) -> None:
    before = dump()
    headers = {"apikey": "wrong", **bearer(API_KEY)}

    assert client.delete("/instance/delete/a", headers=headers).status_code == 401
    assert dump() == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "the request has no key."),
        ({"headers": {"X-Api-Key": "k"}}, 'The header "X-Api-Key" is not read here.'),
        ({"headers": {"Authorization": "k"}}, '"Authorization" without "Bearer <key>" is not'),
        ({"headers": {"Authorization": "Basic azpr"}}, '"Authorization" without "Bearer <key>"'),
        ({"query_string": {"apikey": "k"}}, "A key in the query is not read here."),
        ({"headers": {"apikey": "k"}}, "the key is not valid for this."),
        ({"headers": bearer("k")}, "the key is not valid for this."),
    ],
)
def test_a_401_names_the_header_and_the_place_where_a_key_was_looked_for_in_vain(
    client: FlaskClient, instance: str, given: dict[str, Any], says: str
) -> None:
    for method, where in (("GET", "/lane"), ("GET", "/webhook/find/a"), ("POST", "/event/emit/a")):
        answer = client.open(where, method=method, **given)

        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json is not None
        (sentence,) = answer.json["response"]["message"]
        assert says in sentence
        assert 'Send one in the header "apikey", or as "Authorization: Bearer <key>".' in sentence
