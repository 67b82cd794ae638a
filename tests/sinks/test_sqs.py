"""SQS: batches, limits, FIFO queues, refusals; against moto, and against a server that ends
as it is told where moto cannot."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import inspect
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from evoflask.dev.sqs_server import REGION
from evoflask.formats import Standard
from evoflask.ids import event_id
from evoflask.settings import Settings
from evoflask.sinks import _sqs_clients, sqs
from evoflask.sinks._sqs_clients import ClientKey, Clients
from evoflask.sinks._sqs_messages import MAX_BYTES, deduplication_id, group_id
from evoflask.sinks.base import Attempt, Delivery, Outcome, Target
from evoflask.sinks.sqs import SqsSink, classify, translate
from tests.sinks.harness import closed_port, delivery, running, settings, target
from tests.sinks.harness_sqs import OWN, SqsHarness
from tests.sinks.signed import check, signed


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsHarness]:
    with running("sqs", tmp_path_factory.mktemp("sqs")) as found:
        yield found


def send(config: Settings, *batches: Sequence[Delivery]) -> list[list[Attempt]]:
    async def run() -> list[list[Attempt]]:
        sink = SqsSink(config)
        try:
            return [await sink.deliver(batch) for batch in batches]
        finally:
            await sink.close()

    return asyncio.run(run())


def received(moto: SqsHarness, queue: str) -> list[dict[str, Any]]:
    """All messages of a queue, in its order, which then has none."""
    client = moto.server.client()
    found: list[dict[str, Any]] = []
    try:
        while True:
            some = client.receive_message(
                QueueUrl=moto.server.url(queue),
                MaxNumberOfMessages=10,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            ).get("Messages", [])
            if not some:
                return found
            found += some
            for each in some:
                client.delete_message(
                    QueueUrl=moto.server.url(queue), ReceiptHandle=each["ReceiptHandle"]
                )
    finally:
        client.close()


class Calls(ThreadingHTTPServer):
    """An SQS that ends as the queue's name says, and remembers who called.

    `hang`: no answer until it is closed; `throttled`, `denied`, `unavailable`: refusals;
    `poison`: a call with a body that contains "poison" is refused as a whole; `entries`:
    each entry ends as its body says; `md5`, `nonsense`: answers that cannot be right.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[tuple[str, str, list[str]]] = []
        """Queue, access key id, ids of the events."""
        self.hung = 0
        self.let_go = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def settings(self, **changes: Any) -> Settings:
        return settings(sqs_endpoint_url=self.endpoint, sqs_region=REGION, **changes)

    def target(self, queue: str, sid: str = "", timeout: float = 5.0, **changes: Any) -> Target:
        url = f"{self.endpoint}/123456789012/{queue}"
        return target("sqs", sid=sid or queue, timeout=timeout, queueUrl=url, **(OWN | changes))

    def end(self) -> None:
        self.let_go.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Calls

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        queue = request["QueueUrl"].rpartition("/")[2]
        key = self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        ids = [each["MessageAttributes"]["id"]["StringValue"] for each in request["Entries"]]
        self.server.calls.append((queue, key, ids))
        status, headers, answer = getattr(self, f"_{queue}", self._fine)(request["Entries"])
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def _fine(self, entries: list[Any]) -> tuple[int, dict[str, str], Any]:
        return 200, {}, {"Successful": [_kept(each) for each in entries], "Failed": []}

    def _hang(self, entries: list[Any]) -> tuple[int, dict[str, str], Any]:
        self.server.hung += 1
        self.server.let_go.wait(60)
        return self._fine(entries)

    def _throttled(self, _: Any) -> tuple[int, dict[str, str], Any]:
        return _error(400, "RequestThrottled", "Slow down.")

    def _asked(self, _: Any) -> tuple[int, dict[str, str], Any]:
        status, headers, body = _error(400, "ThrottlingException", "Slow down.")
        return status, headers | {"Retry-After": "17"}, body

    def _unavailable(self, _: Any) -> tuple[int, dict[str, str], Any]:
        return 503, {}, b"<html>no</html>"

    def _denied(self, _: Any) -> tuple[int, dict[str, str], Any]:
        message = f"{OWN['accessKeyId']} with {OWN['secretAccessKey']} may not\nsend."
        return _error(403, "AccessDeniedException", message)

    def _poison(self, entries: list[Any]) -> tuple[int, dict[str, str], Any]:
        if any("poison" in each["MessageBody"] for each in entries):
            return _error(400, "InvalidParameterValue", "One or more parameters are invalid.")
        return self._fine(entries)

    def _entries(self, entries: list[Any]) -> tuple[int, dict[str, str], Any]:
        ends = [json.loads(each["MessageBody"])["data"] for each in entries]
        failed = [
            {"Id": each["Id"], "Code": end, "SenderFault": end != "InternalError", "Message": "x"}
            for each, end in zip(entries, ends, strict=True)
            if end not in ("fine", "forgotten")
        ]
        fine = [_kept(e) for e, end in zip(entries, ends, strict=True) if end == "fine"]
        # In another order than they were sent.
        return 200, {}, {"Successful": fine[::-1], "Failed": failed[::-1]}

    def _md5(self, entries: list[Any]) -> tuple[int, dict[str, str], Any]:
        wrong = {"MD5OfMessageBody": "0" * 32}
        return 200, {}, {"Successful": [_kept(each) | wrong for each in entries]}

    def _nonsense(self, _: Any) -> tuple[int, dict[str, str], Any]:
        return 200, {}, b"<html>welcome</html>"


def _kept(entry: dict[str, Any]) -> dict[str, str]:
    md5 = hashlib.md5(entry["MessageBody"].encode(), usedforsecurity=False).hexdigest()
    return {"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": md5}


def _error(status: int, code: str, message: str) -> tuple[int, dict[str, str], Any]:
    return status, {}, {"__type": f"com.amazonaws.sqs#{code}", "message": message}


@pytest.fixture
def calls() -> Iterator[Calls]:
    server = Calls()
    try:
        yield server
    finally:
        server.end()


def some(target: Target, count: int, **changes: Any) -> list[Delivery]:
    return [delivery(target, f"e-{n}", key=f"k{n}", **changes) for n in range(count)]


# What is sent


def test_a_message_is_the_body_and_three_attributes(moto: SqsHarness) -> None:
    moto.server.create("plain")
    one = delivery(moto.queue("plain"), "an id")

    send(moto.settings(), [one])

    [message] = received(moto, "plain")
    assert message["Body"].encode() == Standard("demo").body(one)
    assert {k: v["StringValue"] for k, v in message["MessageAttributes"].items()} == {
        "event": "MESSAGES_UPSERT",
        "instance": "demo",
        "id": "an id",
    }
    assert {v["DataType"] for v in message["MessageAttributes"].values()} == {"String"}
    assert "MessageGroupId" not in message["Attributes"]


def test_ten_events_are_one_call(calls: Calls) -> None:
    [attempts] = send(calls.settings(), some(calls.target("fine"), 10))

    assert {each.outcome for each in attempts} == {Outcome.DELIVERED}
    assert [ids for _, _, ids in calls.calls] == [[f"e-{n}" for n in range(10)]]


def test_a_batch_with_one_oversized_entry_delivers_the_other_nine(moto: SqsHarness) -> None:
    moto.server.create("nine")
    batch = some(moto.queue("nine"), 10)
    batch[4] = delivery(batch[4].target, "large", data=b'"' + b"x" * MAX_BYTES + b'"')

    [attempts] = send(moto.settings(), batch)

    ends = [each.outcome for each in attempts]
    assert ends == [Outcome.DELIVERED] * 4 + [Outcome.REJECTED] + [Outcome.DELIVERED] * 5
    assert attempts[4].code == "too-large"
    body = len(Standard("demo").body(batch[4]))
    attributes = "eventStringMESSAGES_UPSERTinstanceStringdemoidStringlarge"
    assert str(body + len(attributes)) in attempts[4].detail
    assert str(MAX_BYTES) in attempts[4].detail
    assert len(received(moto, "nine")) == 9


def test_an_event_larger_than_sqs_takes_is_sent_as_a_reference_where_asked(
    moto: SqsHarness,
) -> None:
    moto.server.create("references.fifo")
    target = moto.queue("references.fifo")
    target = dataclasses.replace(target, settings={**target.settings, "oversize": "reference"})
    large = delivery(target, "large", data=b'"' + b"x" * MAX_BYTES + b'"')

    [attempts] = send(moto.settings(), [large, delivery(target, "small")])

    assert {each.outcome for each in attempts} == {Outcome.DELIVERED}, attempts
    bodies = {
        body["id"]: body
        for body in (json.loads(each["Body"]) for each in received(moto, "references.fifo"))
    }
    assert bodies["large"] == {
        "event": "MESSAGES_UPSERT",
        "instance": "demo",
        "id": "large",
        "size": len(Standard("demo").body(large)),
        "oversize": True,
        "timestamp": "2023-11-14T22:13:20.123Z",
    }
    assert "data" in bodies["small"]


def test_the_largest_message_is_exactly_the_limit_with_its_attributes(moto: SqsHarness) -> None:
    one = delivery(moto.good(), "edge", data=b'""')
    around = len(Standard("demo").body(one))
    around += len("eventStringMESSAGES_UPSERTinstanceStringdemoidStringedge")
    fits, over = (b'"' + b"x" * (MAX_BYTES - around + more) + b'"' for more in (0, 1))

    [[fit], [not_fit]] = send(
        moto.settings(),
        [delivery(one.target, "edge", data=fits)],
        [delivery(one.target, "edge", data=over)],
    )

    assert fit.outcome is Outcome.DELIVERED, fit
    assert not_fit.outcome is Outcome.REJECTED


def test_a_batch_whose_sum_is_over_the_limit_is_split(calls: Calls) -> None:
    data = b'"' + b"x" * 300_000 + b'"'

    [attempts] = send(calls.settings(), some(calls.target("fine"), 10, data=data))

    assert {each.outcome for each in attempts} == {Outcome.DELIVERED}
    assert sorted(len(ids) for _, _, ids in calls.calls) == [1, 3, 3, 3]
    assert sorted(each for _, _, ids in calls.calls for each in ids) == [
        f"e-{n}" for n in range(10)
    ]


def test_characters_that_sqs_refuses_arrive_escaped(moto: SqsHarness) -> None:
    moto.server.create("characters")
    text = "a\ufffe\uffff\x7f😀\t"
    data = json.dumps({"text": text}, ensure_ascii=False).encode()

    send(moto.settings(), [delivery(moto.queue("characters"), data=data)])

    [message] = received(moto, "characters")
    assert json.loads(message["Body"])["data"] == {"text": text}
    assert not {"\ufffe", "\uffff"} & set(message["Body"])


# FIFO queues


def test_two_events_in_one_millisecond_both_arrive_at_a_fifo_queue(moto: SqsHarness) -> None:
    moto.server.create("two.fifo")
    ids = [event_id(1_700_000_000.0), event_id(1_700_000_000.0)]
    one, two = (delivery(moto.queue("two.fifo"), each, data=b"1") for each in ids)

    send(moto.settings(), [one], [two])

    messages = received(moto, "two.fifo")
    assert [json.loads(each["Body"])["id"] for each in messages] == ids
    assert [each["Attributes"]["MessageDeduplicationId"] for each in messages] == ids
    assert {each["Attributes"]["MessageGroupId"] for each in messages} == {"demo:1@s"}


def test_a_repeat_is_delivered_and_dropped_by_a_fifo_queue(moto: SqsHarness) -> None:
    moto.server.create("repeat.fifo")
    one = delivery(moto.queue("repeat.fifo"), event_id())

    attempts = send(moto.settings(), [one], [one])

    assert {attempt.outcome for [attempt] in attempts} == {Outcome.DELIVERED}
    assert len(received(moto, "repeat.fifo")) == 1


def test_a_signed_message_verifies_and_its_attributes_count_for_its_size(moto: SqsHarness) -> None:
    moto.server.create("signed")
    one = signed(delivery(moto.queue("signed"), event_id(), data='{"a":"ü"}'.encode()))
    room = MAX_BYTES - len(Standard("demo").body(one)) - 150
    large = dataclasses.replace(one, data=b'"' + b"x" * room + b'"')

    attempts = send(moto.settings(), [one], [large])

    assert [attempt.code for [attempt] in attempts][1] == "too-large"
    [message] = received(moto, "signed")
    attributes = {name: each["StringValue"] for name, each in message["MessageAttributes"].items()}
    check(attributes, message["Body"].encode(), one.event_id)


def test_each_replay_is_kept_once_by_a_fifo_queue_and_marked(moto: SqsHarness) -> None:
    moto.server.create("replay.fifo")
    one = delivery(moto.queue("replay.fifo"), event_id())
    again = [dataclasses.replace(one, mark="replay", again=each) for each in ("r1", "r2", "r2")]

    attempts = send(moto.settings(), [one], *([each] for each in again))

    assert {attempt.outcome for [attempt] in attempts} == {Outcome.DELIVERED}
    messages = received(moto, "replay.fifo")
    ids = [each["Attributes"]["MessageDeduplicationId"] for each in messages]
    assert ids == [one.event_id, f"{one.event_id}/r1", f"{one.event_id}/r2"]
    marks = [each["MessageAttributes"].get("replay", {}).get("StringValue") for each in messages]
    assert marks == [None, "true", "true"]
    assert {each["MessageAttributes"]["id"]["StringValue"] for each in messages} == {one.event_id}


def test_two_instances_may_give_the_same_id_to_one_fifo_queue(moto: SqsHarness) -> None:
    moto.server.create("shared.fifo")
    url = moto.server.url("shared.fifo")
    targets = [target("sqs", sid=each, instance=each, queueUrl=url, **OWN) for each in "ab"]

    send(moto.settings(), [delivery(each, "the-callers-own") for each in targets])

    messages = received(moto, "shared.fifo")
    assert sorted(json.loads(each["Body"])["instance"] for each in messages) == ["a", "b"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("49@s", "demo:49@s"),
        ("", "demo:"),
        ("~" * 123, "demo:" + "~" * 123),
        ("~" * 124, "demo#" + hashlib.sha256(b"~" * 124).hexdigest()[:27]),
        ("a b", "demo#" + hashlib.sha256(b"a b").hexdigest()[:27]),
        ("ü", "demo#" + hashlib.sha256("ü".encode()).hexdigest()[:27]),
    ],
)
def test_a_group_is_the_instance_and_the_order_key(key: str, expected: str) -> None:
    assert group_id("demo", key) == expected


def test_a_group_has_the_characters_and_the_length_that_sqs_takes() -> None:
    for key in ("x" * 500, "\n", "🎉" * 60):
        assert len(group_id("i" * 100, key)) == 128
        assert group_id("i" * 100, key).isascii()


def test_a_callers_id_is_its_instances_own() -> None:
    ours = event_id()

    assert deduplication_id("demo", ours) == ours
    assert deduplication_id("demo", "mine") == "demo:mine"
    assert deduplication_id("demo", "x" * 123) == "demo:" + "x" * 123
    assert len(deduplication_id("demo", "x" * 128)) == 64
    assert deduplication_id("demo", "x" * 128) != deduplication_id("demo2", "x" * 128)


# How an attempt ends


def test_an_entry_that_fails_is_alone_in_it(calls: Calls) -> None:
    ends = {
        "fine": Outcome.DELIVERED,
        "InvalidMessageContents": Outcome.REJECTED,
        "Whatever": Outcome.REJECTED,
        "AccessDenied": Outcome.REFUSED,
        "InternalError": Outcome.REFUSED,
        "KmsThrottled": Outcome.REFUSED,
        "forgotten": Outcome.AMBIGUOUS,
    }
    chosen = calls.target("entries")
    batch = [delivery(chosen, end, data=json.dumps(end).encode()) for end in ends]

    [attempts] = send(calls.settings(), batch)

    assert [each.outcome for each in attempts] == list(ends.values()), attempts
    assert attempts[5].retry_after
    assert len(calls.calls) == 1


def test_a_call_refused_for_one_message_is_that_messages_alone(calls: Calls) -> None:
    batch = some(calls.target("poison"), 5)
    batch[2] = delivery(batch[2].target, "bad", data=b'"poison"')

    [attempts] = send(calls.settings(), batch)

    outcomes = [each.outcome for each in attempts]
    assert outcomes == [Outcome.DELIVERED] * 2 + [Outcome.REJECTED] + [Outcome.DELIVERED] * 2
    assert len(calls.calls) == 6


def test_a_queue_that_is_not_there_is_refused_in_words(moto: SqsHarness) -> None:
    [[attempt]] = send(moto.settings(), [delivery(moto.queue("nowhere"))])

    assert attempt.outcome is Outcome.REFUSED
    assert "the queue does not exist" in attempt.detail


@pytest.mark.parametrize(
    ("queue", "wait"), [("throttled", sqs.THROTTLED_SECONDS), ("asked", 17.0), ("unavailable", 5.0)]
)
def test_throttling_is_refused_with_a_wait_and_not_tried_again(
    calls: Calls, queue: str, wait: float
) -> None:
    [attempts] = send(calls.settings(), some(calls.target(queue), 3))

    assert {each.outcome for each in attempts} == {Outcome.REFUSED}
    assert {each.retry_after for each in attempts} == {wait}
    assert len(calls.calls) == 1


def test_credentials_that_may_not_send_are_refused_and_not_shown(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    [[attempt]] = send(calls.settings(), [delivery(calls.target("denied"))])

    assert attempt.outcome is Outcome.REFUSED
    assert "may not send" in attempt.detail
    for secret in OWN.values():
        assert secret not in attempt.detail + caplog.text


@pytest.mark.parametrize(("queue", "code"), [("md5", "md5"), ("nonsense", "no-word")])
def test_an_answer_that_proves_nothing_is_ambiguous(calls: Calls, queue: str, code: str) -> None:
    [[attempt]] = send(calls.settings(), [delivery(calls.target(queue))])

    assert (attempt.outcome, attempt.code) == (Outcome.AMBIGUOUS, code)


def test_nobody_listens_is_unreachable_at_once() -> None:
    endpoint = f"http://127.0.0.1:{closed_port()}"
    url = f"{endpoint}/123456789012/q"
    config = settings(sqs_endpoint_url=endpoint, sqs_region=REGION)

    [[attempt]] = send(config, [delivery(target("sqs", queueUrl=url, **OWN))])

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "refused")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://169.254.169.254/123456789012/q", "url"),
        ("http://localhost:1/123456789012/q", "region"),
    ],
)
def test_a_queue_that_may_not_be_named_is_not_called(url: str, code: str) -> None:
    config = settings(sqs_endpoint_url="http://localhost:1")

    [[attempt]] = send(config, [delivery(target("sqs", queueUrl=url, **OWN))])

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, code)


def test_no_credentials_in_the_chain_is_unreachable(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    chosen = calls.target("fine", accessKeyId=None, secretAccessKey=None)

    [[attempt]] = send(calls.settings(), [delivery(chosen)])

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "credentials")
    assert calls.calls == []


def test_the_chain_is_used_where_a_subscription_has_no_keys(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOPERATOR")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    chosen = calls.target("fine", accessKeyId=None, secretAccessKey=None)

    send(calls.settings(), [delivery(chosen)], [delivery(calls.target("fine", "own"))])

    assert [key for _, key, _ in calls.calls] == ["AKIDOPERATOR", OWN["accessKeyId"]]


def test_changed_credentials_hold_from_the_next_call_on(calls: Calls) -> None:
    chosen = calls.target("fine", "lane")
    changed = calls.target("fine", "lane", accessKeyId="AKIDNEW", version=2)

    send(calls.settings(), [delivery(chosen)], [delivery(changed)])

    assert [key for _, key, _ in calls.calls] == [OWN["accessKeyId"], "AKIDNEW"]


# Who waits for whom


def test_who_shares_a_call_has_queue_credentials_and_timeout_in_common(calls: Calls) -> None:
    sink = SqsSink(calls.settings())
    key = sink.batch_key(calls.target("fine", "a"))

    assert sink.batch_key(calls.target("fine", "b")) == key
    assert sink.batch_key(calls.target("other", "c")) != key
    assert sink.batch_key(calls.target("fine", "d", timeout=6.0)) != key
    assert sink.batch_key(calls.target("fine", "e", secretAccessKey="x")) != key
    assert OWN["secretAccessKey"] not in repr(key)


def test_a_silent_queue_makes_nobody_else_wait(calls: Calls) -> None:
    """More calls to it than there are threads for young ones."""
    silent = [delivery(calls.target("hang", timeout=5.0), f"hang-{n}") for n in range(40)]
    fine = [delivery(calls.target("fine"), f"fine-{n}") for n in range(5)]

    async def run() -> tuple[list[Attempt], float, int, list[Attempt]]:
        sink = SqsSink(calls.settings(sqs_threads=4))
        try:
            waiting = [asyncio.create_task(sink.deliver([each])) for each in silent]
            async with asyncio.timeout(10):
                while calls.hung < sqs.A_QUEUE:  # noqa: ASYNC110 - the server is in a thread
                    await asyncio.sleep(0.01)
            began = time.monotonic()
            served = [(await sink.deliver([each]))[0] for each in fine]
            took, hung = time.monotonic() - began, calls.hung
            return served, took, hung, [each for [each] in await asyncio.gather(*waiting)]
        finally:
            await sink.close()

    served, took, hung, ends = asyncio.run(run())

    assert {each.outcome for each in served} == {Outcome.DELIVERED}
    assert took < 2
    assert hung == sqs.A_QUEUE
    # Those that got a thread were sent, the others were not.
    sent = {event_id for queue, _, ids in calls.calls if queue == "hang" for event_id in ids}
    for one, end in zip(silent, ends, strict=True):
        expected = Outcome.AMBIGUOUS if one.event_id in sent else Outcome.UNREACHABLE
        assert end.outcome is expected, end
    assert [end.code for end in ends].count("busy") >= len(silent) - 2 * sqs.A_QUEUE


def test_close_leaves_no_thread_behind(calls: Calls) -> None:
    batches = [[each] for each in some(calls.target("fine"), 3)]

    send(calls.settings(), *batches)

    assert not [each for each in threading.enumerate() if each.name == "sqs"]


def test_a_closed_sink_says_so_and_sends_nothing(calls: Calls) -> None:
    async def run() -> list[Attempt]:
        sink = SqsSink(calls.settings())
        await sink.close()
        return await sink.deliver([delivery(calls.target("fine"))])

    [attempt] = asyncio.run(run())

    assert attempt.outcome is Outcome.UNREACHABLE
    assert calls.calls == []


def test_clients_are_bounded_and_closed_when_they_fall_out(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqs_clients, "CLIENTS", 2)
    clients = Clients(4)
    keys = [ClientKey(REGION, calls.endpoint, 1.0, str(n)) for n in range(3)]
    pair = ("AKID", "secret")

    with clients.use(keys[0], pair) as first:
        for key in keys[1:]:
            with clients.use(key, pair):
                pass
        with clients.use(keys[0], pair) as again:
            assert again is not first, "it fell out, though somebody has it still"
        assert first.send_message_batch is not None
    with clients.use(keys[2], pair) as kept, clients.use(keys[2], pair) as same:
        assert kept is same
    clients.close()


# The door


def _classes() -> list[type[BaseException]]:
    return [
        each
        for _, each in inspect.getmembers(botocore.exceptions, inspect.isclass)
        if issubclass(each, Exception) and not issubclass(each, Warning)
    ]


_OF_OTHER_SERVICES = frozenset(
    {
        *("AliasConflictParameterError", "AwsChunkedWrapperError", "BotoCoreError"),
        *("CapacityNotAvailableError", "ClientError", "InvalidEndpointDiscoveryConfigurationError"),
        *("InvalidExpressionError", "InvalidS3AddressingStyleError", "MissingServiceIdError"),
        *("InvalidS3UsEast1RegionalEndpointConfigError", "OperationNotPageableError"),
        *("PaginationError", "StubAssertionError", "StubResponseError", "UnStubbedResponseError"),
        *(
            "UndefinedModelAttributeError",
            "UnseekableStreamError",
            "UnsupportedOutpostResourceError",
        ),
        *("UnsupportedS3AccesspointConfigurationError", "UnsupportedS3ArnError"),
        *("UnsupportedS3ConfigurationError", "UnsupportedS3ControlArnError", "WaiterConfigError"),
        *("UnsupportedS3ControlConfigurationError", "WaiterError"),
    }
)
"""What sending a message does not raise, or only a class of: they end as `internal`."""


def test_every_exception_of_botocore_has_an_ending_that_was_thought_of() -> None:
    ends = {each: translate(each.__new__(each)) for each in _classes()}

    unnamed = {each.__name__ for each, attempt in ends.items() if attempt.code == "internal"}
    assert unnamed <= _OF_OTHER_SERVICES, "look at the new ones"
    assert all(attempt.detail for attempt in ends.values())
    assert Outcome.DELIVERED not in {attempt.outcome for attempt in ends.values()}


def test_what_broke_before_sending_is_unreachable_and_afterwards_ambiguous() -> None:
    for each in _classes():
        attempt = translate(each.__new__(each))
        if issubclass(each, botocore.exceptions.HTTPClientError):
            assert attempt.outcome is Outcome.AMBIGUOUS, each
        if issubclass(each, botocore.exceptions.ConnectionError):
            assert attempt.outcome is Outcome.UNREACHABLE, each


def test_what_was_never_sent_is_unreachable() -> None:
    attempt = translate(TimeoutError(), sent=False)

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "busy")


@pytest.mark.parametrize(
    ("code", "status", "outcome"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", 400, Outcome.REFUSED),
        ("QueueDoesNotExist", 400, Outcome.REFUSED),
        ("InvalidMessageContents", 400, Outcome.REJECTED),
        ("BatchRequestTooLong", 400, Outcome.REJECTED),
        ("InvalidClientTokenId", 403, Outcome.REFUSED),
        ("SignatureDoesNotMatch", 403, Outcome.REFUSED),
        ("ExpiredToken", 403, Outcome.REFUSED),
        ("KMS.DisabledException", 400, Outcome.REFUSED),
        ("KmsAccessDenied", 400, Outcome.REFUSED),
        ("InternalError", 500, Outcome.REFUSED),
        ("SomethingNew", 400, Outcome.REFUSED),
        ("", 502, Outcome.REFUSED),
    ],
)
def test_a_refusal_has_its_outcome(code: str, status: int, outcome: Outcome) -> None:
    attempt = classify(code, "x" * 1_000, status=status)

    assert attempt.outcome is outcome
    assert attempt.code
    assert 0 < len(attempt.detail) <= 300


def test_what_was_signed_is_not_shown() -> None:
    attempt = classify("SignatureDoesNotMatch", "The canonical string was: POST /")

    assert "canonical" not in attempt.detail
