"""The whole HTTP application on a database and a Redis of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import app as composition
from evoflask import db, models
from evoflask.configuration import Configuration
from evoflask.delivery.operator import Operator
from evoflask.outbox import Outbox
from evoflask.settings import Settings
from tests.conftest import API_KEY
from tests.web.conforming import Conforming, the_document

Request = Callable[..., TestResponse]
Dump = Callable[[], object]

GLOBAL = {"apikey": API_KEY}


@pytest.fixture
def application(
    settings: Callable[..., Settings], make_tables: Callable[[], None]
) -> Iterator[Flask]:
    """Compose the application as gunicorn does, and make its tables."""
    made = composition.create_app(settings())
    made.test_client_class = Conforming
    the_document(made)  # before a test adds a view without a description
    make_tables()
    yield made
    db.close()


@pytest.fixture
def client(application: Flask) -> FlaskClient:
    """A client without a key."""
    return application.test_client()


@pytest.fixture
def call(client: FlaskClient) -> Request:
    """`call("POST", "/webhook/set/a", {...})` with the global key, or `key=`."""

    def request(method: str, path: str, body: Any = None, *, key: str = API_KEY) -> TestResponse:
        how: dict[str, Any] = {} if body is None else {"json": body}
        return client.open(path, method=method, headers={"apikey": key}, **how)

    return request


@pytest.fixture
def instance(call: Request) -> str:
    """An instance `a` with token `token-a` and a webhook."""
    body = {
        "instanceName": "a",
        "token": "token-a",
        "webhook": {"url": "https://example.com/hook", "events": ["CALL"]},
    }
    assert call("POST", "/instance/create", body).status_code == 201
    return "a"


@pytest.fixture
def operator(application: Flask) -> Operator:
    """Who goes on with operations, as the clock builds it."""
    return Operator(application.extensions["evoflask"].settings)


@pytest.fixture
def configuration(application: Flask) -> Configuration:
    """The application's own."""
    found: Configuration = application.extensions["evoflask"].configuration
    return found


@pytest.fixture
def outbox(application: Flask) -> Outbox:
    """The application's own."""
    found: Outbox = application.extensions["evoflask"].outbox
    return found


@pytest.fixture
def dump(application: Flask, redis_client: redis.Redis) -> Dump:
    """Every row and every key, to compare before and after."""

    def take() -> object:
        rows = {table.__name__: sorted(map(str, table.select().dicts())) for table in models.TABLES}
        keys = {key: redis_client.dump(key) for key in sorted(redis_client.scan_iter())}
        return rows, keys

    return take


@pytest.fixture
def config_in_redis(redis_client: redis.Redis) -> Callable[[str], dict[bytes, bytes]]:
    """What Redis was told of an instance, by name."""

    def read(name: str) -> dict[bytes, bytes]:
        row = models.Instance.get(
            (models.Instance.name == name) & models.Instance.deleted_at.is_null()
        )
        return redis_client.hgetall(f"evo:{{p{row.partition}}}:config:{row.outbox}")

    return read
