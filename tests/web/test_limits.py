"""What a tenant may have: as much as the setting says works, one more is refused and changes
nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import app as composition
from evoflask import db
from evoflask.models import Instance
from evoflask.settings import Settings
from tests.conftest import API_KEY
from tests.web.conftest import Dump

Limited = Callable[..., Callable[..., TestResponse]]


@pytest.fixture
def limited(settings: Callable[..., Settings], application: Any) -> Iterator[Limited]:
    """`limited(max_headers=2)`: calls to a server with these limits and an instance `a`."""

    def make(*, create: bool = True, **limits: int) -> Callable[..., TestResponse]:
        client: FlaskClient = composition.create_app(settings(**limits)).test_client()

        def call(method: str, path: str, body: Any = None) -> TestResponse:
            return client.open(path, method=method, json=body, headers={"apikey": API_KEY})

        if create:
            assert call("POST", "/instance/create", {"instanceName": "a"}).status_code == 201
        return call

    yield make
    db.close()


def said(answer: TestResponse) -> tuple[int, list[str]]:
    assert answer.json is not None
    return answer.status_code, answer.json["response"]["message"]


def hook(**own: Any) -> dict[str, Any]:
    return {"webhook": {"enabled": True, "url": "https://e.com", **own}}


@pytest.mark.parametrize(
    ("limits", "good", "more", "sentence"),
    [
        (
            {"max_url_length": 30},
            {"url": "https://e.com/" + "x" * 16},
            {"url": "https://e.com/" + "x" * 17},
            "webhook.url: Longer than 30 characters (MAX_URL_LENGTH).",
        ),
        (
            {"max_headers": 2},
            {"headers": {"A": "1", "B": "2"}},
            {"headers": {"A": "1", "B": "2", "C": "3"}},
            "webhook.headers: More than 2 (MAX_HEADERS).",
        ),
        (
            {"max_headers_bytes": 10},
            {"headers": {"AB": "12345678"}},
            {"headers": {"AB": "123456789"}},
            "webhook.headers: More than 10 bytes (MAX_HEADERS_BYTES).",
        ),
    ],
)
def test_a_subscription_at_its_limit_works_and_beyond_it_is_refused(
    limited: Limited, dump: Dump, limits: Any, good: Any, more: Any, sentence: str
) -> None:
    call = limited(**limits)

    at_it = call("POST", "/webhook/set/a", hook(**good))
    before = dump()
    beyond = call("POST", "/webhook/set/a", hook(**more))

    assert at_it.status_code == 201
    assert said(beyond) == (400, [sentence])
    assert dump() == before


def test_what_was_stored_before_a_limit_came_can_still_be_changed(limited: Limited) -> None:
    limited()("POST", "/webhook/set/a", hook(headers={"A": "1", "B": "2"}))
    call = limited(create=False, max_headers=1)

    assert call("POST", "/webhook/set/a", hook(url="https://e.com/2")).status_code == 201
    assert call("POST", "/webhook/set/a", hook(headers={"A": "1", "B": "3"})).status_code == 400


def test_an_instance_has_so_many_subscriptions_and_no_more(limited: Limited, dump: Dump) -> None:
    call = limited(max_subscriptions=3)
    one = {"sink": "webhook", "enabled": True, "url": "https://e.com"}

    made = [call("POST", "/subscription/a", {"name": f"s{n}", **one}) for n in range(3)]
    before = dump()
    named = call("POST", "/subscription/a", {"name": "s3", **one})
    by_sink = call("POST", "/webhook/set/a", hook())
    after = dump()
    changed = call("PUT", "/subscription/a/s0", {"url": "https://e.com/2"})
    call("DELETE", "/subscription/a/s0")

    sentence = "There are 3 subscriptions already, as many as there may be (MAX_SUBSCRIPTIONS)."
    assert [each.status_code for each in made] == [201] * 3
    assert said(named) == said(by_sink) == (409, [sentence])
    assert after == before
    assert changed.status_code == 200
    assert call("POST", "/webhook/set/a", hook()).status_code == 201


def test_there_are_so_many_instances_and_no_more(limited: Limited, dump: Dump) -> None:
    call = limited(max_instances=2)

    second = call("POST", "/instance/create", {"instanceName": "b"})
    before = dump()
    third = call("POST", "/instance/create", {"instanceName": "c"})
    after = dump()
    call("DELETE", "/instance/delete/b")

    assert second.status_code == 201
    assert said(third) == (
        409,
        ["There are 2 instances already, as many as there may be (MAX_INSTANCES)."],
    )
    assert after == before
    assert call("POST", "/instance/create", {"instanceName": "c"}).status_code == 201


def test_creators_side_by_side_make_no_more_than_there_may_be(limited: Limited) -> None:
    call = limited(max_instances=5)

    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(
                lambda n: call("POST", "/instance/create", {"instanceName": f"n{n}"}).status_code,
                range(16),
            )
        )

    assert sorted(answers) == [201] * 4 + [409] * 12
    assert Instance.select().where(Instance.deleted_at.is_null()).count() == 5


def emit(call: Callable[..., TestResponse], *ids: str) -> TestResponse:
    events = [{"event": "CALL", "id": each, "data": {}} for each in ids]
    return call("POST", "/event/emit/a", events if len(events) > 1 else events[0])


def test_events_beyond_the_rate_of_their_instance_are_429_in_every_process(
    limited: Limited,
) -> None:
    rate = {"max_events_per_second": 0.01, "max_events_burst": 100}
    one, other = limited(**rate), limited(create=False, **rate)
    assert other("POST", "/instance/create", {"instanceName": "b"}).status_code == 201
    assert one("POST", "/websocket/set/a", {"websocket": {"enabled": True}}).status_code == 201
    assert emit(one, *(f"e{n}" for n in range(99))).status_code == 202

    last, more = emit(other, "e99"), emit(one, "e100")

    assert last.status_code == 202
    status, [sentence] = said(more)
    assert (status, sentence) == (
        429,
        "The instance's events come faster than 0.01 a second; nothing was accepted.",
    )
    assert 90 <= int(more.headers["Retry-After"]) <= 100
    assert emit(one, "e5").json["duplicate"] is True  # type: ignore[index]
    free = other("POST", "/event/emit/b", {"event": "CALL", "data": {}})
    assert free.status_code == 202


def test_of_a_batch_beyond_the_rate_what_fits_is_kept_and_the_end_is_told(
    limited: Limited,
) -> None:
    call = limited(max_events_per_second=0.01, max_events_burst=100)

    answer = emit(call, *(f"e{n}" for n in range(150)))

    assert answer.status_code == 202
    assert answer.json is not None
    assert answer.json["accepted"] == 100
    assert answer.json["stopped"]["at"] == 100
    assert answer.json["stopped"]["status"] == 429
