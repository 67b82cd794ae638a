"""Pusher, beyond the contract that all sinks keep."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from marshmallow import ValidationError
from pusher import errors as pusher_errors
from pusher.http import process_response
from pusher.pusher_client import PusherClient

from evoflask import events, schemas
from evoflask.dev.receiver import Receiver
from evoflask.dev.soketi_server import SoketiServer
from evoflask.errors import Misconfigured
from evoflask.formats import Standard
from evoflask.settings import Settings
from evoflask.sinks import pusher
from evoflask.sinks._schemes import PLAIN
from evoflask.sinks.base import Attempt, Delivery, Outcome, Target
from evoflask.sinks.pusher import MAX_DATA, PusherSink, classify, fault
from tests.sinks.harness import delivery, running, settings
from tests.sinks.harness_pusher import (
    APP,
    KEY,
    OTHER,
    SECRET,
    SINGLE,
    SLOW,
    SMALL,
    PusherHarness,
    of,
    subscriber,
)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PusherHarness]:
    with running("pusher", tmp_path_factory.mktemp("pusher")) as found:
        yield found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def send(settings: Settings, *batches: list[Delivery]) -> list[list[Attempt]]:
    """Batches through one sink, one after the other."""

    async def run() -> list[list[Attempt]]:
        sink = PusherSink(settings)
        try:
            return [await sink.deliver(batch) for batch in batches]
        finally:
            await sink.close()

    return asyncio.run(run())


def of_size(target: Target, size: int, event_id: str, letter: str = "x") -> Delivery:
    """An event whose body has so many bytes."""
    empty = delivery(target, event_id, data=b'""')
    left = size - len(Standard(target.instance).body(empty))
    text = letter * (left // len(letter.encode()))
    text += "x" * (left - len(text.encode()))
    sized = dataclasses.replace(empty, data=b'"' + text.encode() + b'"')
    assert len(Standard(target.instance).body(sized)) == size
    return sized


def arrived(harness: PusherHarness) -> list[str]:
    return [event_id for event_id, _ in harness.arrived()]


# What a client sees


def test_a_subscribed_client_gets_the_event_by_name_with_its_body_to_the_byte(
    harness: PusherHarness,
) -> None:
    one = delivery(harness.good(), "seen")

    with subscriber(harness.server, "demo") as read:
        [[attempt]] = send(harness.settings(), [one])
        message = read()

    assert attempt.outcome is Outcome.DELIVERED
    assert (message["channel"], message["event"]) == ("demo", "MESSAGES_UPSERT")
    assert message["data"].encode() == harness.body_of(one)
    assert json.loads(message["data"])["id"] == "seen"


def test_what_is_too_large_is_announced_where_the_subscription_says_so(
    harness: PusherHarness,
) -> None:
    target = harness.good("announced", oversize="reference")
    size = MAX_DATA + 1

    with subscriber(harness.server, "demo") as read:
        [[attempt]] = send(harness.settings(), [of_size(target, size, "announced")])
        message = read()

    assert attempt.outcome is Outcome.DELIVERED
    assert json.loads(message["data"]) == {
        "event": "MESSAGES_UPSERT",
        "instance": "demo",
        "id": "announced",
        "size": size,
        "oversize": True,
        "timestamp": "2023-11-14T22:13:20.123Z",
    }


# What does not fit


@pytest.mark.parametrize("letter", ["x", "é", "🎉"])
def test_the_limit_is_one_of_encoded_bytes_and_told_with_both_sizes(
    harness: PusherHarness, letter: str
) -> None:
    target = harness.good()
    fits = of_size(target, MAX_DATA, f"fits-{ord(letter)}", letter)
    not_quite = of_size(target, MAX_DATA + 1, f"too-large-{ord(letter)}", letter)

    [[good], [bad]] = send(harness.settings(), [fits], [not_quite])

    assert good.outcome is Outcome.DELIVERED, good
    assert (bad.outcome, bad.code) == (Outcome.REJECTED, "too-large")
    assert "10241" in bad.detail
    assert "10240" in bad.detail
    assert fits.event_id in arrived(harness)
    assert not_quite.event_id not in arrived(harness)


def test_one_event_that_is_too_large_leaves_the_nine_others_of_its_call_alone(
    harness: PusherHarness,
) -> None:
    target = harness.good()
    batch = [delivery(target, f"nine-{n}") for n in range(10)]
    batch[4] = of_size(target, MAX_DATA + 1, "nine-4")

    [attempts] = send(harness.settings(), batch)

    expected = [Outcome.DELIVERED] * 10
    expected[4] = Outcome.REJECTED
    assert [each.outcome for each in attempts] == expected
    assert [n for n in arrived(harness) if n.startswith("nine-")] == [
        f"nine-{n}" for n in range(10) if n != 4
    ]


def test_a_call_that_the_server_refuses_for_one_event_is_taken_apart(
    harness: PusherHarness,
) -> None:
    target = harness.good("small", **of(SMALL))
    batch = [delivery(target, f"apart-{n}") for n in range(10)]
    batch[7] = of_size(target, 2000, "apart-7")

    [attempts] = send(harness.settings(), batch)

    assert attempts[7].outcome is Outcome.REJECTED
    assert attempts[7].code == "413"
    rest = attempts[:7] + attempts[8:]
    assert {each.outcome for each in rest} == {Outcome.DELIVERED}
    came = sorted(n for n in arrived(harness) if n.startswith("apart-"))
    assert came == [f"apart-{n}" for n in range(10) if n != 7]


def test_a_server_that_takes_one_event_a_call_gets_them_singly(harness: PusherHarness) -> None:
    target = harness.good("single", **of(SINGLE))

    [attempts] = send(harness.settings(), [delivery(target, f"single-{n}") for n in range(10)])

    assert {each.outcome for each in attempts} == {Outcome.DELIVERED}
    came = sorted(n for n in arrived(harness) if n.startswith("single-"))
    assert came == [f"single-{n}" for n in range(10)]


@pytest.mark.parametrize(
    ("channel", "name", "good"),
    [
        ("a" * 164, "n" * 200, True),
        ("-_=@,.;aZ9", "CALL", True),
        ("a" * 165, "CALL", False),
        ("", "CALL", False),
        ("a b", "CALL", False),
        ("ü", "CALL", False),
        ("a/b", "CALL", False),
        ("a\n", "CALL", False),
        ("#server-to-user-1", "CALL", False),
        ("a", "", False),
        ("a", "n" * 201, False),
    ],
)
def test_channels_and_events_have_names_that_pusher_takes(
    channel: str, name: str, good: bool
) -> None:
    assert (fault(channel, name) == "") is good


def test_every_instance_and_every_event_has_such_a_name(harness: PusherHarness) -> None:
    longest = "A" + "._-9" * 24 + "zzz"
    assert len(longest) == 100

    assert [name for name in events.NAMES if fault(longest, name)] == []


def test_a_call_is_the_librarys_own_but_for_the_escapes_in_its_body(harness: PusherHarness) -> None:
    app = PusherSink(harness.settings())._app(harness.good().settings)
    calls = [{"channel": "demo", "name": "CALL", "data": '{"text":"ü🎉\\u2028\\n"}'}]

    ours = pusher._Signed(app.client, calls)
    theirs = app.client.trigger_batch.make_request(calls, True)

    assert json.loads(ours.body) == json.loads(theirs.body)
    assert (ours.method, ours.path, ours.base_url, ours.headers) == (
        theirs.method, theirs.path, theirs.base_url, theirs.headers,
    )  # fmt: skip
    assert set(ours.query_params) == set(theirs.query_params)


# Who is let in


def test_a_wrong_secret_is_a_failure_though_the_server_says_200(harness: PusherHarness) -> None:
    wrong = "a-secret-that-is-wrong"
    bare = PusherClient(
        APP, KEY, wrong, ssl=False, host=harness.server.host, port=harness.server.port
    )
    believed = bare.trigger_batch([{"channel": "demo", "name": "CALL", "data": "{}"}], True)
    assert believed["code"] == 401  # what the library hands back as if it had worked

    target = harness.good("wrong", settings_secret=wrong)
    [attempts] = send(harness.settings(), [delivery(target, f"wrong-{n}") for n in range(3)])

    assert {(each.outcome, each.code) for each in attempts} == {(Outcome.REFUSED, "401")}
    assert "credentials" in attempts[0].detail
    assert wrong not in repr(attempts)
    assert not [n for n in arrived(harness) if n.startswith("wrong-")]


def test_an_unknown_app_is_a_refusal_in_words(harness: PusherHarness) -> None:
    [[attempt]] = send(harness.settings(), [delivery(harness.good("gone", appId="4040"))])

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, "404")
    assert "no such app" in attempt.detail


def test_an_app_that_sends_too_much_is_refused_with_a_wait(harness: PusherHarness) -> None:
    target = harness.good("slow", **of(SLOW))

    [attempts] = send(harness.settings(), [delivery(target, f"slow-{n}") for n in range(10)])

    assert {(each.outcome, each.code) for each in attempts} == {(Outcome.REFUSED, "429")}
    assert attempts[0].retry_after == pusher.BUSY_SECONDS


def test_two_apps_do_not_share_a_call_nor_its_fate(harness: PusherHarness) -> None:
    mine, theirs = harness.good("mine"), harness.good("theirs", **of(OTHER))
    wrong = harness.good("wrong", settings_secret="not-the-secret")
    batch = [delivery(lane, f"two-{n}") for n, lane in enumerate([mine, wrong, theirs, mine])]

    [attempts] = send(harness.settings(), batch)

    good, bad = Outcome.DELIVERED, Outcome.REFUSED
    assert [each.outcome for each in attempts] == [good, bad, good, good]


@pytest.mark.parametrize(
    "change",
    [
        {"appId": "9"},
        {"key": "k"},
        {"settings_secret": "s"},
        {"cluster": "us"},
        {"useTLS": True},
        {"timeout": 1.0},
    ],
)
def test_lanes_share_calls_by_app_and_credentials_and_timeout_alone(
    harness: PusherHarness, change: dict[str, Any]
) -> None:
    sink = PusherSink(harness.settings())
    key = sink.batch_key(harness.good("one"))

    assert sink.batch_key(harness.good("another", oversize="reference")) == key
    assert sink.batch_key(harness.good("one", **change)) != key


def test_changed_credentials_are_used_at_once(harness: PusherHarness) -> None:
    before = harness.good("changed", settings_secret="the-old-secret")
    after = dataclasses.replace(harness.good("changed"), version=2)

    [[old], [new]] = send(
        harness.settings(), [delivery(before, "changed-1")], [delivery(after, "changed-2")]
    )

    assert (old.outcome, new.outcome) == (Outcome.REFUSED, Outcome.DELIVERED)


# Where it goes


@pytest.mark.parametrize(
    ("own", "tls", "expected"),
    [
        ({}, True, "https://api-eu.pusher.com:443"),
        ({}, False, "http://api-eu.pusher.com:80"),
        ({"pusher_port": "6001"}, True, "https://api-eu.pusher.com:443"),
        ({"pusher_host": "ws.internal"}, True, "https://ws.internal:443"),
        ({"pusher_host": "ws.internal"}, False, "http://ws.internal:80"),
        ({"pusher_host": "[::1]", "pusher_port": "6001"}, False, "http://[::1]:6001"),
    ],
)
def test_the_cluster_makes_the_host_unless_the_operator_has_a_server(
    harness: PusherHarness, own: dict[str, str], tls: bool, expected: str
) -> None:
    sink = PusherSink(settings(**own))

    app = sink._app(harness.good(useTLS=tls).settings)

    assert pusher._Signed(app.client, []).base_url == expected


@pytest.mark.parametrize("cluster", ["eu.evil.com/", "x@y", "a:1", "a#", "eu\n", "é", "", "a" * 51])
def test_a_cluster_can_not_become_another_host(cluster: str) -> None:
    with pytest.raises(ValidationError):
        schemas.SCHEMAS["pusher"].fields["cluster"].deserialize(cluster)


def test_pushers_own_host_is_reached_through_the_guard(harness: PusherHarness) -> None:
    async def run() -> Attempt:
        sink = PusherSink(settings())  # which lets webhooks reach loopback
        client = PusherClient(
            APP,
            KEY,
            SECRET,
            ssl=False,
            host="127.0.0.1",  # what somebody's name server makes of api-eu.pusher.com
            port=harness.server.port,
            backend=pusher._Unsent,
        )
        try:
            event = {"channel": "demo", "name": "CALL", "data": "{}"}
            return await sink._call(pusher._App(client, ()), [event], 5)
        finally:
            await sink.close()

    attempt = asyncio.run(run())

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "forbidden-address")


def test_tls_to_a_server_that_speaks_none_is_unreachable(harness: PusherHarness) -> None:
    [[attempt]] = send(harness.settings(), [delivery(harness.good("tls", useTLS=True))])

    # soketi takes the greeting for the beginning of a request and waits for its end.
    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "connect-timeout")


@pytest.mark.parametrize(
    ("secure", "code", "detail", "says"),
    [
        (True, "tls", f"no TLS connection: {PLAIN}", "set useTLS to false"),
        (False, "bad-answer", "the answer is not HTTP", "set useTLS to true"),
        (False, "reset", "the connection broke", "set useTLS to true"),
        (False, "400", "answered 400: The plain HTTP request was sent to HTTPS port", "to true"),
    ],
)
def test_a_scheme_that_does_not_fit_names_use_tls(
    secure: bool, code: str, detail: str, says: str
) -> None:
    attempt = pusher._with_scheme(Attempt(Outcome.UNREACHABLE, code, detail), secure)

    assert says in attempt.detail
    assert "http://" not in attempt.detail


def test_a_connection_is_kept_and_shared_by_lanes_and_apps(
    harness: PusherHarness, receiver: Receiver
) -> None:
    here = settings(pusher_host="127.0.0.1", pusher_port=receiver.url().split(":")[2].split("/")[0])
    lanes = [harness.good("one"), harness.good("two"), harness.good("three", **of(OTHER))]

    ended = send(here, *([delivery(lane)] for lane in lanes for _ in range(3)))

    assert receiver.counts()["requests"] == 9
    assert receiver.counts()["connections"] == 1
    # And a 200 of somebody who is no Pusher proves nothing.
    codes = {(attempt.outcome, attempt.code) for [attempt] in ended}
    assert codes == {(Outcome.AMBIGUOUS, "bad-answer")}


def test_a_failure_is_told_with_its_status_and_waited_for_as_asked(
    harness: PusherHarness, receiver: Receiver
) -> None:
    here = settings(pusher_host="127.0.0.1", pusher_port=receiver.url().split(":")[2].split("/")[0])
    receiver.control(path="/apps", **{"as": "/status/503?retry-after=7"})

    [attempts] = send(here, [delivery(harness.good(), f"later-{n}") for n in range(3)])

    assert receiver.counts()["requests"] == 1
    assert {each.outcome for each in attempts} == {Outcome.REFUSED}
    assert (attempts[0].code, attempts[0].retry_after) == ("503", 7.0)


# What an answer means


@pytest.mark.parametrize(
    ("status", "answer", "outcome", "code", "wait"),
    [
        (200, b"{}", Outcome.DELIVERED, "200", None),
        (202, b'{"ok":true}', Outcome.DELIVERED, "202", None),
        (200, b"", Outcome.AMBIGUOUS, "bad-answer", None),
        (200, b"<html>", Outcome.AMBIGUOUS, "bad-answer", None),
        (200, b"[]", Outcome.AMBIGUOUS, "bad-answer", None),
        (200, b'{"error":"no","code":401}', Outcome.REFUSED, "401", None),
        (200, b'{"error":"no","code":400}', Outcome.REJECTED, "400", None),
        (200, b'{"error":"no","code":429}', Outcome.REFUSED, "429", 5.0),
        (200, b'{"error":"no"}', Outcome.REFUSED, "500", None),
        (200, b'{"error":null,"code":"x"}', Outcome.REFUSED, "500", None),
        (200, b'{"error":"no","code":200}', Outcome.REFUSED, "500", None),
        (200, b'{"error":"no","code":true}', Outcome.REFUSED, "500", None),
        (204, b"", Outcome.REFUSED, "204", None),
        (301, b"", Outcome.REFUSED, "301", None),
        (400, b"bad", Outcome.REJECTED, "400", None),
        (401, b"bad", Outcome.REFUSED, "401", None),
        (403, b"bad", Outcome.REFUSED, "403", 60.0),
        (404, b"bad", Outcome.REFUSED, "404", None),
        (413, b"bad", Outcome.REJECTED, "413", None),
        (429, b"bad", Outcome.REFUSED, "429", 5.0),
        (500, b"bad", Outcome.REFUSED, "500", None),
        (503, b"\xff\x00" * 999, Outcome.REFUSED, "503", None),
    ],
)
def test_an_answer_means(
    status: int, answer: bytes, outcome: Outcome, code: str, wait: float | None
) -> None:
    attempt = classify(status, answer)

    assert (attempt.outcome, attempt.code, attempt.retry_after) == (outcome, code, wait)
    assert len(attempt.detail) <= 300
    assert bool(attempt.detail) is (outcome is not Outcome.DELIVERED)
    assert attempt.detail.isprintable()


def test_a_wait_that_is_asked_for_goes_before_ours() -> None:
    assert classify(429, b"", 77.0).retry_after == 77.0


def test_an_answer_that_repeats_the_secret_does_not_show_it() -> None:
    answer = json.dumps({"error": f"signed with {SECRET}?"}).encode()

    for attempt in (classify(401, answer, None, (SECRET,)), classify(200, answer, None, (SECRET,))):
        assert "signed with" in attempt.detail
        assert SECRET not in attempt.detail


def test_every_error_that_the_library_knows_is_a_failure_here_too() -> None:
    known = set(pusher_errors.PusherError.__subclasses__())
    raised = set()

    for status in (*range(100, 200), 201, *range(203, 600)):
        try:
            process_response(status, "{}")
        except pusher_errors.PusherError as error:
            raised.add(type(error))
        assert classify(status, b"{}").outcome in (Outcome.REFUSED, Outcome.REJECTED)

    assert raised == known


# The server


def test_a_taken_port_is_told_instead_of_shared(harness: PusherHarness, tmp_path: Path) -> None:
    second = SoketiServer(tmp_path, "1", "key", "secret", port=harness.server.port)

    with pytest.raises(Misconfigured, match=f"Port {harness.server.port} is taken"):
        second.start()


def test_the_server_opens_nothing_beyond_loopback(harness: PusherHarness) -> None:
    process = harness.server.process
    assert process is not None
    mine = {
        link.readlink().name
        for link in Path(f"/proc/{process.pid}/fd").iterdir()
        if link.is_symlink()
    }
    addresses = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]:
            row = line.split()
            if f"socket:[{row[9]}]" in mine:
                addresses.add(row[1].partition(":")[0])

    assert addresses == {"0100007F"}
