"""Tests of subscriptions: `POST /subscription/<i>/<name>/test`, in a house with a real worker."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.ids import random_id
from tests.system.house import House, message

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("trials"), retry_schedule="0.2,600") as house:
        try:
            yield house
        except BaseException:
            print(house.tail())
            raise


@pytest.fixture
def instance(home: House) -> str:
    """One of the test's own."""
    name = random_id()
    home.client().create(name)
    return name


def try_out(home: House, instance: str, name: str = "webhook", **body: object) -> Any:
    """The story of a test."""
    return home.client().good("POST", f"/subscription/{instance}/{name}/test", body or None)


def test_the_whole_story_of_a_test_is_answered_without_a_secret(
    home: House, receiver: Receiver, instance: str
) -> None:
    receiver.control(keep=True)
    url = receiver.url("/hook?key=hush-hush")
    headers = {"X-Key": "mum-is-the-word"}
    home.client().set_webhook(instance, url, headers=headers, secret=SECRET, events=["CALL"])

    told = try_out(home, instance)

    assert (told["state"], told["delivered"], told["code"]) == ("done", True, "200")
    assert told["verdict"] == "The receiver took it: it answered 200."
    assert told["address"] == "127.0.0.1"
    assert told["answer"]["status"] == 200
    assert list(told["timing"]) == ["connect", "answer", "body", "total"]
    assert told["request"]["url"].endswith("/hook?key=…")
    assert told["request"]["headers"]["X-Key"] == "…"
    assert told["request"]["headers"]["webhook-test"] == "true"
    assert all(each not in json.dumps(told) for each in ("hush-hush", "mum-is", SECRET))
    [arrived] = receiver.received()
    assert arrived.id == told["id"] == json.loads(arrived.body)["id"]
    assert arrived.id.startswith("test-")
    assert json.loads(arrived.body)["event"] == told["event"] == "CALL"
    assert json.loads(arrived.body)["test"] is True
    assert arrived.headers()["webhook-test"] == "true"
    books = home.lane(instance).facts
    assert not {"routed", "requeued", "delivered", "dead", "okat"} & set(books)


def test_the_event_and_its_data_may_be_given(
    home: House, receiver: Receiver, instance: str
) -> None:
    receiver.control(keep=True)
    home.client().set_webhook(instance, receiver.url("/given"), events=["CALL"])

    told = try_out(home, instance, event="messages.upsert", data={"n": 1, "text": "ü"})

    [arrived] = receiver.received()
    body = json.loads(arrived.body.encode("latin-1"))
    assert (body["event"], body["data"]) == ("MESSAGES_UPSERT", {"n": 1, "text": "ü"})
    assert told["event"] == "MESSAGES_UPSERT"


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/status/404", "404", "The receiver answered 404: the URL's path is wrong"),
        ("/status/401", "401", "An event that gets this answer is retried."),
        ("/status/422", "422", "becomes a dead letter at once: giveUpOn has 422."),
        ("/status/503", "503", "the receiver failed inside"),
        ("/redirect/302/elsewhere", "302", "the URL moved"),
        ("/garbage", "bad-answer", "not as this kind of receiver should"),
        ("/close", "reset", "The connection broke before the answer was complete"),
        ("/hang", "timeout", "no answer came within the timeout"),
    ],
)
def test_a_receiver_that_does_not_take_it_is_told_in_words(
    home: House, receiver: Receiver, instance: str, path: str, code: str, words: str
) -> None:
    home.client().set_webhook(instance, receiver.url(path), timeout=1)

    told = try_out(home, instance)

    assert (told["delivered"], told["code"]) == (False, code)
    assert words in told["verdict"]
    letters = home.client().good("GET", f"/deadletter?instance={instance}")
    assert letters["total"] == 0


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("http://no-such-name.invalid/hook", "dns", "no-such-name.invalid does not exist"),
        ("http://localhost:1/", "refused", "refuses connections on this port"),
    ],
)
def test_a_destination_that_cannot_be_reached_is_told_in_words(
    home: House, instance: str, url: str, code: str, words: str
) -> None:
    home.client().set_webhook(instance, url)

    told = try_out(home, instance)

    assert (told["delivered"], told["code"], told["answer"]) == (False, code, None)
    assert words in told["verdict"]


def test_a_redirect_that_is_followed_is_part_of_the_story(
    home: House, receiver: Receiver, instance: str
) -> None:
    home.client().set_webhook(instance, receiver.url("/redirect/307/there"))

    told = try_out(home, instance)

    assert told["delivered"]
    assert [each["status"] for each in told["redirects"]] == [307]
    assert told["request"]["url"].endswith("/there")


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_it_goes_while_the_lane_is_stopped_and_leaves_the_backlog_alone(
    home: House, receiver: Receiver, instance: str, state: str
) -> None:
    client = home.client()
    client.set_webhook(instance, receiver.url("/stopped"))
    client.good("POST", f"/lane/{instance}/webhook/pause")
    client.emit(instance, data=message(1))
    if state == "disabled":
        client.change(instance, "webhook", enabled=False)

    told = try_out(home, instance)

    assert told["delivered"]
    assert receiver.ids() == [told["id"]]
    assert home.lane(instance).waiting == 1


def test_it_does_not_wait_behind_a_backlog_of_its_own(
    home: House, receiver: Receiver, instance: str
) -> None:
    client = home.client()
    client.set_webhook(instance, receiver.url("/slow/1500"), concurrency=1)
    client.emit_many(instance, [{"event": "CALL", "data": {}} for _ in range(50)])
    receiver.wait_for(1)

    told = try_out(home, instance)

    assert told["delivered"]
    assert told["timing"]["total"] < 10
    assert home.lane(instance).waiting > 30
    client.good("DELETE", f"/subscription/{instance}/webhook")


def test_an_instance_has_four_tests_under_way_and_no_more(
    home: House, receiver: Receiver, instance: str
) -> None:
    client = home.client()
    client.set_webhook(instance, receiver.url("/slow/2000"))
    path = f"/subscription/{instance}/webhook/test?wait=0"

    answers = [client.call("POST", path) for _ in range(5)]

    assert [each.status_code for each in answers] == [202] * 4 + [409]
    for answer in answers[:4]:
        found = f"/subscription/{instance}/webhook/test/{answer.json()['id']}"
        wait_for(lambda found=found: client.call("GET", found).status_code == 200, 30)
        assert client.good("GET", found)["delivered"]
    assert client.call("POST", path).status_code == 202


def test_a_test_that_no_worker_takes_is_asked_for_by_its_id(
    home: House, receiver: Receiver, instance: str
) -> None:
    client = home.client()
    client.set_webhook(instance, receiver.url("/later"))
    home.stop("worker")
    try:
        asked = client.call("POST", f"/subscription/{instance}/webhook/test?wait=0.2")
    finally:
        home.start("worker")

    assert (asked.status_code, asked.json()["state"]) == (202, "waiting")
    path = f"/subscription/{instance}/webhook/test/{asked.json()['id']}"
    wait_for(lambda: client.call("GET", path).status_code == 200, 30)
    assert client.good("GET", path)["delivered"]


def test_a_test_is_of_its_subscription_only(home: House, receiver: Receiver, instance: str) -> None:
    client = home.client()
    client.set_webhook(instance, receiver.url("/mine"))
    client.subscribe(instance, "other", receiver.url("/other"))
    told = try_out(home, instance)

    answer = client.call("GET", f"/subscription/{instance}/other/test/{told['id']}")

    assert answer.status_code == 404


def test_the_command_tells_the_story_and_its_status(
    home: House, receiver: Receiver, instance: str
) -> None:
    client = home.client()
    client.set_webhook(instance, receiver.url("/ok"))
    client.subscribe(instance, "gone", receiver.url("/status/410"))

    good = home.flask("test-subscription", instance, "webhook", "--event", "CALL")
    bad = home.flask("test-subscription", instance, "gone", "--json")

    assert good[0] == 0
    assert "The receiver took it: it answered 200." in good[1]
    assert bad[0] == 1
    assert '"code": "410"' in bad[1]
    rows = home.query(
        'SELECT "by", subscription_name FROM audit_log WHERE instance_name = ?', instance
    )
    assert rows[-2:] == [("cli", "webhook"), ("cli", "gone")]
