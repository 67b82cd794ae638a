"""RabbitMQ's own ways, against a real broker: returns, closed channels, alarms, limits."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pika import exceptions, spec
from pika.adapters.utils import connection_workflow

from evoflask import events, receiver
from evoflask.dev.process import free_port
from evoflask.errors import BadInput, Misconfigured
from evoflask.formats import Standard
from evoflask.schemas import set_body
from evoflask.sinks import _rabbitmq_frames, _rabbitmq_link, rabbitmq
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink, Target
from evoflask.sinks.rabbitmq import RabbitmqSink, translate
from tests.certificates import self_signed
from tests.conftest import missing
from tests.sinks.harness import delivery, settings, target
from tests.sinks.harness_rabbitmq import RabbitmqHarness
from tests.sinks.signed import SECRET, check, signed
from tests.sinks.test_contract import beside, insist, run, until, with_sink

KEY = "evolution.demo.messages_upsert"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    return self_signed(tmp_path_factory.mktemp("tls"), together=True)[0]


TLS = """
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {pem}
ssl_options.certfile = {pem}
ssl_options.keyfile = {pem}
"""


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def broker(
    tmp_path_factory: pytest.TempPathFactory, certificate: Path, tls_port: int
) -> Iterator[RabbitmqHarness]:
    tls = TLS.format(port=tls_port, pem=certificate)
    harness = RabbitmqHarness(tmp_path_factory.mktemp("rabbitmq"), tls)
    try:
        harness.server.start()
    except Misconfigured as error:
        missing(str(error))
    try:
        harness.prepare()
        yield harness
    finally:
        harness.resume()
        harness.server.stop()


def to(exchange: str, sid: str = "", timeout: float = 5.0, **config: object) -> Target:
    return target("rabbitmq", sid=sid or exchange, timeout=timeout, exchange=exchange, **config)


def bind(broker: RabbitmqHarness, exchange: str, key: str = "#", **arguments: object) -> str:
    """A durable queue of the exchange's name."""
    channel = broker.channel()
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.queue_declare(f"q-{exchange}", durable=True, arguments=arguments)
    channel.queue_bind(f"q-{exchange}", exchange, key)
    return f"q-{exchange}"


def take(broker: RabbitmqHarness, queue: str) -> Iterator[tuple[object, object, bytes]]:
    channel = broker.channel()
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield method, properties, body


def ids(broker: RabbitmqHarness, queue: str) -> list[str]:
    return [properties.message_id for _, properties, _ in take(broker, queue)]


def send(broker: RabbitmqHarness, *deliveries: Delivery) -> list[Attempt]:
    """One after the other, by one sink."""
    return [attempt for [attempt] in run(broker.sink(), *([one] for one in deliveries))]


# The message


def test_a_message_carries_its_properties_and_nothing_else(broker: RabbitmqHarness) -> None:
    queue = bind(broker, "properties")
    one = delivery(to("properties"), "id-1")

    assert send(broker, one) == [Attempt(Outcome.DELIVERED, "ack")]

    [(method, properties, body)] = take(broker, queue)
    assert (method.exchange, method.routing_key) == ("properties", KEY)
    given = {name: value for name, value in vars(properties).items() if value is not None}
    assert given == {
        "content_type": "application/json",
        "delivery_mode": 2,
        "message_id": "id-1",
        "timestamp": 1_700_000_000,
        "app_id": "evoflask",
    }
    assert body == Standard("demo").body(one)


@pytest.mark.parametrize("mark", ["", "replay"])
def test_a_signed_message_verifies_and_one_without_a_key_has_no_headers(
    broker: RabbitmqHarness, mark: str
) -> None:
    queue = bind(broker, f"signed{mark}")
    one = delivery(to(f"signed{mark}"), "id-1", data='{"a":"ü"}'.encode(), mark=mark)
    other = delivery(to(f"signed{mark}", sid="plain"), "id-2")

    assert send(broker, signed(one), other) == [Attempt(Outcome.DELIVERED, "ack")] * 2

    [(_, properties, body), (_, plain, _)] = take(broker, queue)
    check(properties.headers, body, "id-1")
    assert receiver.verify(SECRET, properties.headers, body).mark == mark
    assert (properties.message_id, properties.content_type) == ("id-1", "application/json")
    assert plain.headers is None


@pytest.mark.parametrize("mark", ["test", "replay"])
def test_what_is_marked_says_so_in_a_header(broker: RabbitmqHarness, mark: str) -> None:
    queue = bind(broker, f"marked-{mark}")
    one = delivery(to(f"marked-{mark}"), "id-1", mark=mark)

    assert send(broker, one) == [Attempt(Outcome.DELIVERED, "ack")]

    [(_, properties, body)] = take(broker, queue)
    assert properties.headers == {mark: True}
    assert (properties.message_id, properties.delivery_mode) == ("id-1", 2)
    assert properties.content_type == "application/json"
    assert json.loads(body)[mark] is True


@pytest.mark.parametrize("name", ["a", "x" * 128, "0193b0c4-7d3a-7000-8000-000000000000"])
def test_properties_are_encoded_as_pika_encodes_them(name: str) -> None:
    plain = spec.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        message_id=name,
        timestamp=1_700_000_000,
        app_id="evoflask",
    )

    ours = _rabbitmq_frames.Properties(name, 1_700_000_000)

    assert b"".join(ours.encode()) == b"".join(plain.encode())


def test_an_instance_is_one_word_of_the_routing_key_whatever_its_name(
    broker: RabbitmqHarness,
) -> None:
    queue = bind(broker, "words", "evolution.*.messages_upsert")
    named = to("words", instance="a.b-c.d")

    [attempt] = send(broker, delivery(named, "dots"))

    assert attempt.outcome is Outcome.DELIVERED
    [(method, _, body)] = take(broker, queue)
    assert method.routing_key == "evolution.a_b-c_d.messages_upsert"
    assert json.loads(body)["instance"] == "a.b-c.d"


def test_the_longest_names_fit_into_a_routing_key() -> None:
    longest = max(events.NAMES, key=len)

    key = Standard("i" * 100).routing_key(longest)

    assert len(key.encode()) <= rabbitmq.MAX_KEY


@pytest.mark.parametrize("exchange", ["amq.topic", "amq.", "x" * 128, "", "a b", "ü"])
def test_an_exchange_that_amqp_or_the_broker_would_not_take_is_refused_when_it_is_set(
    exchange: str,
) -> None:
    with pytest.raises(BadInput) as raised:
        set_body("rabbitmq", {"exchange": exchange})

    assert raised.value.messages[0].startswith("rabbitmq.exchange: ")


def test_the_longest_exchange_works(broker: RabbitmqHarness) -> None:
    exchange = set_body("rabbitmq", {"exchange": "x" * 127}).patches["rabbitmq"].given["exchange"]
    bind(broker, exchange)

    [attempt] = send(broker, delivery(to(exchange), "long"))

    assert attempt.outcome is Outcome.DELIVERED


# Unroutable


def test_unroutable_is_a_rejection_and_delivered_once_a_queue_is_bound(
    broker: RabbitmqHarness,
) -> None:
    one = delivery(to("nobody"), "unheard")

    [before] = send(broker, one)
    queue = bind(broker, "nobody")
    [after] = send(broker, one)

    assert (before.outcome, before.code) == (Outcome.REJECTED, "unroutable")
    assert KEY in before.detail
    assert after.outcome is Outcome.DELIVERED
    assert ids(broker, queue) == ["unheard"]


def test_unroutable_is_delivered_where_the_subscription_does_not_mind(
    broker: RabbitmqHarness,
) -> None:
    [attempt] = send(broker, delivery(to("nobody-minds", mandatory=False)))

    assert attempt.outcome is Outcome.DELIVERED


def test_of_a_call_those_are_returned_that_nobody_wants(broker: RabbitmqHarness) -> None:
    bind(broker, "half", "evolution.*.call")
    wanted, other = to("half", "a"), to("half", "b", mandatory=False)
    # The same id for all: returns name nothing but that and the routing key.
    batch = [
        delivery(each, "same", event=event)
        for event in ("CALL", "MESSAGES_UPSERT") * 12
        for each in (other, wanted)
    ]

    [attempts] = run(broker.sink(), batch)

    expected = [
        "unroutable" if each.target is wanted and each.event != "CALL" else "ack" for each in batch
    ]
    assert [attempt.code for attempt in attempts] == expected


# What the broker says no to


def test_an_exchange_of_another_type_is_told_in_words_and_hurts_no_other(
    broker: RabbitmqHarness,
) -> None:
    queue = bind(broker, "healthy")
    bad, good = to("of-another-type"), to("healthy")

    async def work(sink: Sink) -> list[list[Attempt]]:
        batches = [[delivery(each, f"{each.sid}-{n}")] for n in range(20) for each in (bad, good)]
        return list(await asyncio.gather(*map(sink.deliver, batches)))

    attempts = [attempt for [attempt] in with_sink(broker.sink(), work)]

    assert {(each.outcome, each.code) for each in attempts[::2]} == {(Outcome.REFUSED, "406")}
    assert "'of-another-type'" in attempts[0].detail
    assert "current is 'fanout'" in attempts[0].detail
    assert {each.outcome for each in attempts[1::2]} == {Outcome.DELIVERED}
    assert sorted(ids(broker, queue)) == sorted(f"healthy-{n}" for n in range(20))


def test_what_the_broker_said_is_remembered_and_asked_again_later(
    broker: RabbitmqHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rabbitmq_link, "REMEMBERED", 0.5)
    channel = broker.channel()
    channel.exchange_declare("mended", "fanout", durable=True)

    async def work(sink: Sink) -> tuple[Attempt, Attempt]:
        [first] = await sink.deliver([delivery(to("mended"))])
        await beside(lambda: channel.exchange_delete("mended") and bind(broker, "mended"))
        [second] = await sink.deliver([delivery(to("mended"))])
        await insist(sink, [delivery(to("mended"), "mended")])
        return first, second

    first, second = with_sink(broker.sink(), work)

    assert first.code == second.code == "406"
    assert ids(broker, "q-mended") == ["mended"]


def test_an_exchange_that_is_deleted_is_declared_again(broker: RabbitmqHarness) -> None:
    bind(broker, "deleted")

    async def work(sink: Sink) -> tuple[Attempt, Attempt]:
        await insist(sink, [delivery(to("deleted"), "before")])
        await beside(lambda: broker.channel().exchange_delete("deleted"))
        [lost] = await sink.deliver([delivery(to("deleted"), "lost")])
        [again] = await sink.deliver([delivery(to("deleted"), "again")])
        return lost, again

    lost, again = with_sink(broker.sink(), work)

    assert (lost.outcome, lost.code) == (Outcome.REFUSED, "404")
    # It is there again, and nobody is bound to it.
    assert (again.outcome, again.code) == (Outcome.REJECTED, "unroutable")


@pytest.fixture
def reader(broker: RabbitmqHarness) -> Iterator[str]:
    """Somebody who may publish to `allowed`, and declare nothing but `declared`."""
    broker.server.ctl("add_user", "reader", "reads-only")
    broker.server.ctl("set_permissions", "reader", "^declared$", "^allowed$", "")
    yield broker.server.url_of("reader", "reads-only")
    broker.server.ctl("delete_user", "reader")


def test_no_permission_is_told_in_words_and_is_no_matter_of_other_exchanges(
    broker: RabbitmqHarness, reader: str
) -> None:
    bind(broker, "allowed")
    bind(broker, "forbidden")
    names = ("forbidden", "declared", "missing", "allowed")
    sink = RabbitmqSink(settings(rabbitmq_uri=reader))

    found = run(sink, *([delivery(to(name))] for _ in range(3) for name in names))

    attempts = dict(zip(names, [attempt for [attempt] in found][-4:], strict=True))
    codes = {name: (each.outcome, each.code) for name, each in attempts.items()}
    assert codes == {
        "forbidden": (Outcome.REFUSED, "403"),
        "declared": (Outcome.REFUSED, "403"),
        "missing": (Outcome.REFUSED, "404"),
        "allowed": (Outcome.DELIVERED, "ack"),
    }
    assert "access to exchange 'forbidden'" in attempts["forbidden"].detail
    assert not any("reads-only" in repr(each) for each in attempts.values())


def test_a_virtual_host_that_does_not_exist_is_told_in_words(broker: RabbitmqHarness) -> None:
    uri = broker.server.url_of("guest", "guest", "nowhere")

    [[attempt]] = run(RabbitmqSink(settings(rabbitmq_uri=uri)), [delivery(to("x"))])

    assert attempt.outcome is Outcome.UNREACHABLE
    assert "nowhere" in attempt.detail


def test_a_queue_that_is_full_refuses(broker: RabbitmqHarness) -> None:
    bind(broker, "full", **{"x-max-length": 1, "x-overflow": "reject-publish"})

    attempts = send(broker, *(delivery(to("full"), f"full-{n}") for n in range(3)))

    assert attempts[0].outcome is Outcome.DELIVERED
    assert (attempts[-1].outcome, attempts[-1].code) == (Outcome.REFUSED, "nack")


def test_a_message_that_is_too_large_is_rejected_and_takes_no_other_along_twice(
    broker: RabbitmqHarness,
) -> None:
    queue = bind(broker, "sizes")
    large = delivery(to("sizes"), "large", data=b'"' + b"x" * 200_000 + b'"')
    small = [delivery(to("sizes"), f"small-{n}") for n in range(3)]
    limit = "application:set_env(rabbit, max_message_size, {})."
    broker.server.ctl("eval", limit.format(100_000))
    try:

        async def work(sink: Sink) -> list[list[Attempt]]:
            batch = [small[0], large, *small[1:]]
            return [await sink.deliver(batch), await sink.deliver(batch)]

        first, second = with_sink(broker.sink(), work)
    finally:
        broker.server.ctl("eval", limit.format(134_217_728))

    assert (first[1].outcome, first[1].code) == (Outcome.REJECTED, "too-large")
    assert "100000" in first[1].detail
    assert all(each.outcome is not Outcome.REJECTED for each in (first[0], *first[2:]))
    assert [each.code for each in second] == ["ack", "too-large", "ack", "ack"]
    assert {"small-0", "small-1", "small-2"} == set(ids(broker, queue))


# Alarms, silence, restarts


def test_an_alarm_is_backpressure(broker: RabbitmqHarness) -> None:
    queue = bind(broker, "pressed")

    async def work(sink: Sink) -> tuple[list[Attempt], list[Attempt]]:
        await insist(sink, [delivery(to("pressed"), "before")])
        await beside(lambda: broker.server.ctl("set_vm_memory_high_watermark", "absolute", "1"))
        try:
            # The broker says so to who publishes, and keeps what it read before.
            early = await sink.deliver([delivery(to("pressed", timeout=1), "first")])
            late = await sink.deliver([delivery(to("pressed", timeout=1), "not-sent")])
            tasks = [
                asyncio.create_task(sink.deliver([delivery(to("pressed", timeout=30), f"w-{n}")]))
                for n in range(50)
            ]
            done, _ = await asyncio.wait(tasks, timeout=0.5)
            assert not done
        finally:
            await beside(lambda: broker.server.ctl("set_vm_memory_high_watermark", "0.4"))
        waited = [each for task in tasks for each in await task]
        return early + late, waited

    tried, waited = with_sink(broker.sink(), work)

    assert tried[0].outcome in (Outcome.DELIVERED, Outcome.AMBIGUOUS)
    assert (tried[1].outcome, tried[1].code) == (Outcome.REFUSED, "blocked")
    assert "alarm" in tried[1].detail
    assert tried[1].retry_after
    assert {each.outcome for each in waited} == {Outcome.DELIVERED}
    arrived = ids(broker, queue)
    assert "not-sent" not in arrived
    assert sorted(each for each in arrived if each.startswith("w-")) == sorted(
        f"w-{n}" for n in range(50)
    )


def test_a_silent_broker_is_noticed_by_its_heartbeat(broker: RabbitmqHarness) -> None:
    bind(broker, "quiet")
    sink = RabbitmqSink(settings(rabbitmq_uri=broker.server.url + "?heartbeat=1"))

    async def work(sink: Sink) -> list[Attempt]:
        await insist(sink, [delivery(to("quiet"), "before")])
        await beside(broker.pause)
        try:
            return await sink.deliver([delivery(to("quiet", timeout=30), "unheard")])
        finally:
            await beside(broker.resume)

    began = time.monotonic()
    [attempt] = with_sink(sink, work)

    assert (attempt.outcome, attempt.code) == (Outcome.AMBIGUOUS, "heartbeat")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_a_broker_that_is_stopped_and_started_during_5000_events_has_them_all(
    broker: RabbitmqHarness, how: str
) -> None:
    queue = bind(broker, f"all-{how}")
    broker.server.keep()
    lanes = [to(f"all-{how}", f"lane-{n}") for n in range(8)]
    count = 5000

    async def work(sink: Sink) -> set[Outcome]:
        seen: set[Outcome] = set()
        todo = [delivery(lanes[n % 8], f"n-{n}") for n in range(count)]
        delivered = 0

        async def lane() -> None:
            nonlocal delivered
            while todo:
                batch = [todo.pop() for _ in range(min(len(todo), sink.batch_size))]
                attempts = await sink.deliver(batch)
                seen.update(each.outcome for each in attempts)
                pairs = zip(batch, attempts, strict=True)
                left = [each for each, a in pairs if a.outcome is not Outcome.DELIVERED]
                delivered += len(batch) - len(left)
                todo.extend(left)
                if left:
                    await asyncio.sleep(0.1)

        async def restart() -> None:
            while delivered < 1000:  # noqa: ASYNC110 - a number, not an event
                await asyncio.sleep(0.001)
            await beside(getattr(broker.server, how))
            await beside(broker.start)

        # The last lane to end may put back what the others would have had to take.
        await asyncio.gather(restart(), *(lane() for _ in range(4)))
        await lane()
        assert delivered == count
        return seen

    seen = with_sink(broker.sink(), work)

    assert Outcome.UNREACHABLE in seen
    assert seen <= {Outcome.DELIVERED, Outcome.AMBIGUOUS, Outcome.UNREACHABLE}
    assert set(ids(broker, queue)) == {f"n-{n}" for n in range(count)}


def test_while_a_failed_connection_waits_deliveries_end_at_once_with_its_reason() -> None:
    async def work(sink: Sink) -> list[Attempt]:
        batches = [[delivery(to("x"), str(n))] for n in range(500)]
        [first] = await sink.deliver(batches[0])
        began = time.monotonic()
        rest = [(await sink.deliver(batch))[0] for batch in batches]
        assert time.monotonic() - began < 5
        return [first, *rest]

    uri = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    attempts = with_sink(RabbitmqSink(settings(rabbitmq_uri=uri)), work)

    assert set(attempts) == {Attempt(Outcome.UNREACHABLE, "refused", "connection refused")}


def test_what_never_answers_the_handshake_is_unreachable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()

        [[attempt]] = run(
            RabbitmqSink(settings(rabbitmq_uri=uri)), [delivery(to("x", timeout=0.5))]
        )

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "connect-timeout")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "uri", ["amqp://", "amqp://u:hush-hush@h:x/", "amqp://u:hush-hush@h/?heartbeat=x", "http://h"]
)
def test_a_uri_that_is_none_is_told_without_what_is_in_it(uri: str) -> None:
    [[attempt]] = run(RabbitmqSink(settings(rabbitmq_uri=uri)), [delivery(to("x", timeout=3))])

    assert attempt.outcome is Outcome.UNREACHABLE
    assert attempt.detail
    assert "hush" not in repr(attempt)


def test_tls_to_what_speaks_none_is_unreachable(broker: RabbitmqHarness) -> None:
    uri = broker.server.url.replace("amqp:", "amqps:")

    [[attempt]] = run(RabbitmqSink(settings(rabbitmq_uri=uri)), [delivery(to("x"))])

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "tls")
    assert "does not speak TLS at this port: use amqp:// instead of amqps://" in attempt.detail


def test_plain_amqp_to_a_tls_port_names_amqps(broker: RabbitmqHarness, tls_port: int) -> None:
    uri = f"amqp://guest:guest@127.0.0.1:{tls_port}/"

    [[attempt]] = run(RabbitmqSink(settings(rabbitmq_uri=uri)), [delivery(to("x"))])

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "protocol")
    assert attempt.detail.endswith("a port that speaks TLS needs amqps://")


@pytest.mark.parametrize("trusted", [True, False])
def test_a_broker_by_tls_is_reached_where_its_certificate_is_trusted(
    broker: RabbitmqHarness,
    tls_port: int,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    trusted: bool,
) -> None:
    bind(broker, "secured")
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    uri = f"amqps://guest:guest@127.0.0.1:{tls_port}/"
    large = delivery(to("secured"), "large", data=b'"' + b"x" * 1_000_000 + b'"')

    [attempts] = run(RabbitmqSink(settings(rabbitmq_uri=uri)), [large, delivery(to("secured"))])

    if trusted:
        assert {each.outcome for each in attempts} == {Outcome.DELIVERED}
    else:
        assert {(each.outcome, each.code) for each in attempts} == {(Outcome.UNREACHABLE, "tls")}
        assert "self-signed" in attempts[0].detail.replace("self signed", "self-signed")


def test_user_and_password_may_have_any_character(broker: RabbitmqHarness) -> None:
    user, password = "some one@x", "p@ss/w:rd%?#é"
    broker.server.ctl("add_user", user, password)
    broker.server.ctl("set_permissions", user, ".*", ".*", ".*")
    bind(broker, "odd-names")
    uri = broker.server.url_of(user, password)

    [[attempt]] = run(RabbitmqSink(settings(rabbitmq_uri=uri)), [delivery(to("odd-names"))])

    assert attempt.outcome is Outcome.DELIVERED


# Channels and ends


def test_exchanges_share_one_connection_and_the_oldest_channels_go(
    broker: RabbitmqHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rabbitmq_link, "CHANNELS", 3)
    lanes = [to(f"many-{n}", mandatory=False) for n in range(8)]

    async def work(sink: Sink) -> tuple[list[Attempt], int, list[str]]:
        before = await beside(broker.connections)
        attempts = []
        for lane in lanes * 2:
            attempts += await sink.deliver([delivery(lane)])
        await until(lambda: len(channels(broker)) == 3)
        return attempts, await beside(broker.connections) - before, channels(broker)

    attempts, connections, _ = with_sink(broker.sink(), work)

    assert {each.outcome for each in attempts} == {Outcome.DELIVERED}
    assert connections == 1


def channels(broker: RabbitmqHarness) -> list[str]:
    """Those in confirm mode: ours."""
    lines = broker.server.ctl("list_channels", "number", "confirm").splitlines()
    return [line for line in lines if line.endswith("true")]


def test_all_channels_in_use_is_a_refusal(
    broker: RabbitmqHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rabbitmq_link, "CHANNELS", 2)

    async def work(sink: Sink) -> list[list[Attempt]]:
        batches = [[delivery(to(f"crowd-{n}", mandatory=False))] for n in range(3)]
        await sink.deliver([delivery(to("crowd-0", mandatory=False))])
        return list(await asyncio.gather(*map(sink.deliver, batches)))

    codes = [attempt.code for [attempt] in with_sink(broker.sink(), work)]

    assert sorted(codes) == ["ack", "ack", "channels"]


def test_closing_in_the_middle_ends_everything_and_leaves_nothing(
    broker: RabbitmqHarness,
) -> None:
    bind(broker, "closing")

    async def work() -> tuple[list[list[Attempt]], int]:
        sink = broker.sink()
        await insist(sink, [delivery(to("closing"))])
        batches = [[delivery(to("closing"), f"{b}-{n}") for n in range(64)] for b in range(20)]
        tasks = [asyncio.create_task(sink.deliver(batch)) for batch in batches]
        await asyncio.sleep(0)
        await sink.close()
        await sink.close()
        attempts = await asyncio.gather(*tasks)
        return attempts, len(asyncio.all_tasks())

    attempts, tasks = asyncio.run(work())

    outcomes = {each.outcome for got in attempts for each in got}
    assert outcomes <= {Outcome.DELIVERED, Outcome.AMBIGUOUS, Outcome.UNREACHABLE}
    assert tasks == 1


def test_closing_beside_a_silent_broker_takes_seconds_at_most(broker: RabbitmqHarness) -> None:
    bind(broker, "silent-end")

    async def work() -> float:
        sink = broker.sink()
        await insist(sink, [delivery(to("silent-end"))])
        await beside(broker.pause)
        try:
            began = time.monotonic()
            await sink.close()
            return time.monotonic() - began
        finally:
            await beside(broker.resume)

    assert asyncio.run(work()) < 3 * _rabbitmq_link.CLOSE_SECONDS


def test_pika_logs_nothing_that_the_attempts_do_not_say(
    broker: RabbitmqHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    uri = broker.server.url_of("guest", "not-let-in")

    run(RabbitmqSink(settings(rabbitmq_uri=uri)), [delivery(to("x"))])
    send(broker, delivery(to("of-another-type")))

    assert not [record for record in caplog.records if record.name.startswith("pika")]


# The door


def _kinds(module: ModuleType) -> list[type[BaseException]]:
    return [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, BaseException) and each.__module__ == module.__name__
    ]


KINDS = _kinds(exceptions) + _kinds(connection_workflow)


def test_every_exception_of_pika_has_its_row() -> None:
    generic = {exceptions.AMQPError, ValueError, Exception}

    assert len(KINDS) > 40
    for kind in KINDS:
        row = next(one for one in rabbitmq._ENDINGS if issubclass(kind, one.kind))

        assert row.kind not in generic or kind is exceptions.AMQPError, kind


def _made(kind: type[BaseException]) -> BaseException:
    for arguments in ((), (500, "words"), ([OSError()],), (OSError(),), ("hush-hush",), ([],)):
        with contextlib.suppress(TypeError, ValueError):
            made = kind(*arguments)
            if kind is not connection_workflow.AMQPConnectionWorkflowFailed or made.exceptions:
                return made
    raise AssertionError(kind)


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_exception_of_pika_becomes_an_attempt(kind: type[BaseException], sent: bool) -> None:
    attempt = translate(_made(kind), sent=sent)

    refused = {exceptions.ChannelClosedByBroker, exceptions.NoFreeChannels}
    unsent = Outcome.REFUSED if kind in refused else Outcome.UNREACHABLE
    assert attempt.outcome is (Outcome.AMBIGUOUS if sent else unsent)
    assert attempt.code
    assert 0 < len(attempt.detail) <= rabbitmq.MAX_DETAIL


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize(
    "error",
    [TimeoutError(), ConnectionResetError(), ssl.SSLError(), socket.gaierror(), KeyError("x"),
     UnicodeError(), RuntimeError("amqp://u:p@h/?secret"), MemoryError(), EOFError()],
)  # fmt: skip
def test_any_other_exception_is_ambiguous_if_something_was_sent(
    error: Exception, sent: bool
) -> None:
    attempt = translate(error, sent=sent)

    assert attempt.outcome is (Outcome.AMBIGUOUS if sent else Outcome.UNREACHABLE)
    assert "secret" not in attempt.detail


def test_words_of_the_broker_are_one_short_line() -> None:
    closed = exceptions.ChannelClosedByBroker(406, "a\r\nb\x00c " + "x" * 1000)

    attempt = translate(closed, sent=False)

    assert "a b c x" in attempt.detail
    assert len(attempt.detail) == rabbitmq.MAX_DETAIL


def test_a_message_returned_for_another_reason_is_refused() -> None:
    assert rabbitmq.returned(313, "NO_CONSUMERS", "k").outcome is Outcome.REFUSED
