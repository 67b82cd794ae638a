"""What NATS alone has: streams, subjects, sizes, permissions, and how a connection ends."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import logging
import os
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, RawStreamMsg, StreamInfo

from evoflask.dev.nats_server import NatsServer
from evoflask.errors import Misconfigured
from evoflask.sinks import _nats_link
from evoflask.sinks import nats as module
from evoflask.sinks._nats_parcels import NOWHERE, Parcel
from evoflask.sinks._nats_streams import stream_name, wildcards
from evoflask.sinks.base import Attempt, Delivery, Outcome
from evoflask.sinks.nats import NatsSink, translate
from tests.certificates import self_signed
from tests.conftest import missing
from tests.sinks.harness import closed_port, delivery, settings, target
from tests.sinks.harness_nats import no_noise
from tests.sinks.signed import check, signed

T = TypeVar("T")
ACCOUNTS = """
accounts {
  MAIN {
    jetstream: enabled
    users: [
      { user: all, password: all }
      { user: narrow, password: narrow, permissions: { publish: { deny: ["secret.>", "Twin.>"] } } }
      { user: deaf, password: deaf, permissions: { subscribe: { deny: ["_INBOX.>"] } } }
    ]
  }
  OFF { users: [ { user: "off", password: "off" } ] }
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"), more=ACCOUNTS)
    try:
        server.start()
    except Misconfigured as error:
        missing(str(error))
    yield server
    server.stop()


def url_of(server: NatsServer, user: str = "all") -> str:
    return f"nats://{user}:{user}@127.0.0.1:{server.port}"


def sink_of(server: NatsServer, user: str = "all") -> NatsSink:
    return NatsSink(settings(nats_uri=url_of(server, user)))


def run(sink: NatsSink, work: Callable[[NatsSink], Awaitable[T]]) -> T:
    """Something on a loop; the sink is closed and has left no task behind."""

    async def all_of_it() -> T:
        try:
            return await work(sink)
        finally:
            await sink.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(all_of_it())


def deliver(sink: NatsSink, *batch: Delivery) -> list[Attempt]:
    return run(sink, lambda sink: sink.deliver(batch))


def aside(server: NatsServer, work: Callable[[Client], Awaitable[T]]) -> T:
    """Something by another client."""

    async def all_of_it() -> T:
        client = await nats.connect(url_of(server), error_cb=no_noise)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(all_of_it())


def add_stream(server: NatsServer, name: str, *subjects: str, **config: Any) -> None:
    async def add(client: Client) -> None:
        await client.jetstream().add_stream(name=name, subjects=list(subjects), **config)

    aside(server, add)


def info(server: NatsServer, name: str) -> StreamInfo:
    return aside(server, lambda client: client.jetstream().stream_info(name))


def kept(server: NatsServer, name: str) -> list[RawStreamMsg]:
    async def read(client: Client) -> list[RawStreamMsg]:
        js = client.jetstream()
        count = (await js.stream_info(name)).state.messages
        return [await js.get_msg(name, n + 1) for n in range(count)]

    return aside(server, read)


def to(subject: str, event_id: str = "e-1", *, data: bytes = b"{}", **config: Any) -> Delivery:
    config["sid"] = json.dumps([subject, config])
    return delivery(target("nats", subject=subject, **config), event_id, data=data)


# Messages


def test_a_message_has_its_id_and_type_in_the_headers_and_its_subject_filled_in(
    server: NatsServer,
) -> None:
    add_stream(server, "exact", "exact.>")
    one = to("exact.{instance}.x.{event}", "e-1", instance="acme.eu-1")

    [attempt] = deliver(sink_of(server), one)

    assert (attempt.outcome, attempt.code) == (Outcome.DELIVERED, "stored")
    [message] = kept(server, "exact")
    assert message.subject == "exact.acme_eu-1.x.messages_upsert"
    assert message.headers == {"Nats-Msg-Id": "e-1", "Content-Type": "application/json"}
    assert message.data is not None
    assert json.loads(message.data)["instance"] == "acme.eu-1"


def test_a_signed_message_verifies(server: NatsServer) -> None:
    add_stream(server, "signed", "signed")
    one = signed(to("signed", data='{"a":"ü"}'.encode()))

    [attempt] = deliver(sink_of(server), one)

    assert (attempt.outcome, attempt.code) == (Outcome.DELIVERED, "stored")
    [message] = kept(server, "signed")
    assert message.headers is not None
    assert message.data is not None
    check(message.headers, message.data, "e-1")
    assert message.headers["Nats-Msg-Id"] == "e-1"


def test_each_replay_is_stored_once_and_marked(server: NatsServer) -> None:
    add_stream(server, "replay", "replay")
    event, replayed = to("replay"), dataclasses.replace(to("replay"), mark="replay")
    one, two = (dataclasses.replace(replayed, again=each) for each in ("run1", "run2"))

    attempts = [deliver(sink_of(server), each)[0] for each in (event, one, two, two)]

    assert [each.code for each in attempts] == ["stored", "stored", "stored", "duplicate"]
    headers = [message.headers or {} for message in kept(server, "replay")]
    ids = [each["Nats-Msg-Id"] for each in headers]
    assert ids == ["e-1", "e-1/run1", "e-1/run2"]
    assert [each.get("webhook-replay") for each in headers] == [None, "true", "true"]


def test_a_stream_would_swallow_a_second_replay_under_the_event_s_own_id(
    server: NatsServer,
) -> None:
    add_stream(server, "swallow", "swallow")
    bare = dataclasses.replace(to("swallow"), mark="replay")

    attempts = [deliver(sink_of(server), each)[0] for each in (to("swallow"), bare, bare)]

    assert [each.outcome for each in attempts] == [Outcome.DELIVERED] * 3
    assert attempts[2].code == "duplicate"
    assert len(kept(server, "swallow")) == 2


def test_a_repeat_is_dropped_by_the_stream_and_is_delivered(server: NatsServer) -> None:
    add_stream(server, "repeat", "repeat")

    first = deliver(sink_of(server), to("repeat"))
    again = deliver(sink_of(server), to("repeat"))

    assert [each.code for each in first + again] == ["stored", "duplicate"]
    assert again[0].outcome is Outcome.DELIVERED
    assert info(server, "repeat").state.messages == 1


def test_another_s_event_of_the_same_id_is_not_taken_for_a_repeat(server: NatsServer) -> None:
    add_stream(server, "shared", "shared.>")
    mine = to("shared.{instance}", "order-1", instance="a")
    theirs = dataclasses.replace(
        mine, target=dataclasses.replace(mine.target, instance="b", sid="b1")
    )

    attempts = deliver(sink_of(server), mine, theirs) + deliver(sink_of(server), theirs)

    assert [each.code for each in attempts] == ["stored", "stored", "duplicate"]
    messages = kept(server, "shared")
    assert [each.subject for each in messages] == ["shared.a", "shared.b"]
    ids = [each.headers["Nats-Msg-Id"] for each in messages if each.headers]
    assert ids == ["order-1", "order-1/b1"]


def test_core_nats_reaches_who_listens_and_needs_no_stream(server: NatsServer) -> None:
    async def listen(sink: NatsSink) -> tuple[list[Attempt], str, dict[str, str] | None]:
        client = await nats.connect(url_of(server))
        listener = await client.subscribe("core.>")
        await client.flush()
        attempts = await sink.deliver([to("core.{event}", jetstream=False)])
        message = await listener.next_msg(5)
        await client.close()
        return attempts, message.subject, message.headers

    [attempt], subject, headers = run(sink_of(server), listen)

    assert (attempt.outcome, attempt.code) == (Outcome.DELIVERED, "flushed")
    assert subject == "core.messages_upsert"
    assert headers is not None
    assert headers["Nats-Msg-Id"] == "e-1"


def test_core_nats_is_delivered_only_when_the_server_has_read_it() -> None:
    """By a peer that answers each PING when it comes to it. The second batch is published while
    the first, larger than the sockets hold, is still being written."""
    read: set[str] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"HPUB"):
                message = await reader.readexactly(int(line.split()[-1]) + 2)
                read.add(message.partition(b"Nats-Msg-Id: ")[2].partition(b"\r")[0].decode())
            elif line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
                await asyncio.sleep(0.05)  # what comes behind a PING is read late
        writer.close()

    async def all_of_it() -> list[tuple[set[Outcome], set[str]]]:
        peer = await asyncio.start_server(served, "127.0.0.1", 0)
        port = peer.sockets[0].getsockname()[1]
        sink = NatsSink(settings(nats_uri=f"nats://127.0.0.1:{port}"))
        await sink.deliver([to("core", "first", jetstream=False)])

        async def some(name: str, size: int) -> tuple[set[Outcome], set[str]]:
            data = b'"' + b"x" * size + b'"'
            batch = [to("core", f"{name}-{n}", data=data, jetstream=False) for n in range(20)]
            attempts = await sink.deliver(batch)
            return {each.outcome for each in attempts}, {each.event_id for each in batch} - read

        first = asyncio.create_task(some("large", 900_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found = [await some("small", 1), await first]
        await sink.close()
        peer.close()
        return found

    assert asyncio.run(all_of_it()) == [({Outcome.DELIVERED}, set())] * 2


# Streams


def test_no_stream_is_refused_with_the_command_that_makes_one(server: NatsServer) -> None:
    [attempt] = deliver(sink_of(server), to("nobody.{instance}.{event}"))

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, "no-stream")
    assert "nats stream add nobody_instance_event_" in attempt.detail
    assert "--subjects 'nobody.*.*'" in attempt.detail
    assert "createStream" in attempt.detail


def test_create_stream_makes_one_once_with_limits(server: NatsServer) -> None:
    batch = [to("made.{instance}.{event}", f"e-{n}", createStream=True) for n in range(3)]

    attempts = deliver(sink_of(server), *batch) + deliver(sink_of(server), *batch)

    assert {each.outcome for each in attempts} == {Outcome.DELIVERED}
    found = info(server, stream_name("made.{instance}.{event}"))
    assert found.config.subjects == ["made.*.*"]
    assert (found.config.max_age, found.config.max_bytes) == (259_200, 1024**3)
    assert found.config.duplicate_window == 900
    assert found.state.messages == 3


def test_two_processes_that_create_the_same_stream_both_deliver(server: NatsServer) -> None:
    async def both(sink: NatsSink) -> list[Attempt]:
        other = sink_of(server)
        try:
            one = sink.deliver([to("race.{event}", "e-1", createStream=True)])
            two = other.deliver([to("race.{event}", "e-2", createStream=True)])
            return [each for got in await asyncio.gather(one, two) for each in got]
        finally:
            await other.close()

    attempts = run(sink_of(server), both)

    assert [each.outcome for each in attempts] == [Outcome.DELIVERED] * 2, attempts
    assert info(server, stream_name("race.{event}")).state.messages == 2


def test_a_stream_that_overlaps_another_is_refused_in_words(server: NatsServer) -> None:
    add_stream(server, "part", "overlap.other.x")

    [attempt] = deliver(sink_of(server), to("overlap.{instance}.x", createStream=True))

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, "10065")
    assert "another stream takes a part" in attempt.detail


def test_a_stream_of_the_same_name_with_other_subjects_is_refused_in_words(
    server: NatsServer,
) -> None:
    add_stream(server, stream_name("named.x"), "elsewhere")

    [attempt] = deliver(sink_of(server), to("named.x", createStream=True))

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, "10058")
    assert "add the subject" in attempt.detail


def test_a_full_stream_is_refused_in_words(server: NatsServer) -> None:
    add_stream(server, "full", "full", max_msgs=1, discard=DiscardPolicy.NEW)

    attempts = deliver(sink_of(server), to("full", "e-1"), to("full", "e-2"))

    assert [each.outcome for each in attempts] == [Outcome.DELIVERED, Outcome.REFUSED]
    assert attempts[1].code == "10077"
    assert "full: maximum messages exceeded" in attempts[1].detail


def test_a_message_larger_than_the_stream_takes_is_rejected(server: NatsServer) -> None:
    add_stream(server, "small", "small", max_msg_size=1_000)

    [attempt] = deliver(sink_of(server), to("small", data=b'"' + b"x" * 1_000 + b'"'))

    assert (attempt.outcome, attempt.code) == (Outcome.REJECTED, "10054")


@pytest.mark.parametrize("create", [False, True])
def test_an_account_without_jetstream_is_told_in_words(server: NatsServer, create: bool) -> None:
    [attempt] = deliver(sink_of(server, "off"), to("off", createStream=create))

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, "no-jetstream")
    assert "JetStream is off" in attempt.detail


def test_a_server_without_jetstream_is_told_in_words_and_serves_core(tmp_path: Path) -> None:
    with NatsServer(tmp_path, jetstream=False) as plain:
        sink = NatsSink(settings(nats_uri=plain.url))
        attempts = deliver(sink, to("a"), to("b", jetstream=False))

    assert [each.code for each in attempts] == ["no-jetstream", "flushed"]


@pytest.mark.parametrize(
    ("template", "subjects"),
    [
        ("evolution.events", "evolution.events"),
        ("{instance}", "*"),
        ("a.{instance}.{event}.b", "a.*.*.b"),
        ("a.x{instance}y.b", "a.*.b"),
    ],
)
def test_a_template_s_subjects(template: str, subjects: str) -> None:
    assert wildcards(template) == subjects


def test_streams_of_different_templates_have_different_names_that_are_allowed() -> None:
    templates = [
        "a.b", "a_b", "a-b", "a.{instance}", "a.instance", "a.{event}", "{event}.a", "A.b",
        "/a", "a" * 255, "a" * 254 + "b", "a.$", "a!b", "a b".replace(" ", "~"),
    ]  # fmt: skip

    names = [stream_name(each) for each in templates]

    assert len(set(names)) == len(names)
    assert all(len(each) <= 120 for each in names)
    assert all(set(each).isdisjoint(". */\\>") for each in names)
    assert stream_name("evolution.events") == "evolution_events"


# Sizes


def test_what_just_fits_is_delivered_and_a_byte_more_is_rejected_with_both_sizes(
    tmp_path: Path,
) -> None:
    most = 20_000

    def sized(size: int) -> Delivery:
        return to("size", data=b'"' + b"x" * size + b'"', jetstream=False)

    base = Parcel("size", b"", sized(0), NOWHERE).size
    format = module.formats.Standard("demo")
    room = most - base - len(format.body(sized(0)))
    with NatsServer(tmp_path, max_payload=most) as small:

        async def three(sink: NatsSink) -> tuple[list[Attempt], object, object]:
            [fits] = await sink.deliver([sized(room)])
            link = sink._link
            both = await sink.deliver([sized(room + 1), sized(0)])
            return [fits, *both], link, sink._link

        attempts, before, after = run(NatsSink(settings(nats_uri=small.url)), three)

    assert [each.outcome for each in attempts] == [
        Outcome.DELIVERED, Outcome.REJECTED, Outcome.DELIVERED,
    ], attempts  # fmt: skip
    assert attempts[1].code == "too-large"
    assert f"{most + 1} bytes" in attempts[1].detail
    assert f"takes {most}" in attempts[1].detail
    assert before is after is not None


@pytest.mark.parametrize("jetstream", [True, False])
def test_an_event_larger_than_the_server_takes_is_sent_as_a_reference_where_asked(
    tmp_path: Path, jetstream: bool
) -> None:
    with NatsServer(tmp_path, max_payload=20_000) as small:
        add_stream(small, "large", "large")
        config = {"jetstream": jetstream, "oversize": "reference"}
        large = to("large", data=b'"' + b"x" * 20_000 + b'"', **config)

        sink = NatsSink(settings(nats_uri=small.url))
        attempts = deliver(sink, large, to("large", "e-2", **config))
        messages = kept(small, "large")

    assert [each.outcome for each in attempts] == [Outcome.DELIVERED] * 2, attempts
    assert json.loads(messages[0].data or b"") == {
        "event": "MESSAGES_UPSERT",
        "instance": "demo",
        "id": "e-1",
        "size": len(module.formats.Standard("demo").body(large)),
        "oversize": True,
        "timestamp": "2023-11-14T22:13:20.123Z",
    }
    assert json.loads(messages[1].data or b"")["data"] == {}


def test_an_event_larger_than_the_stream_takes_is_sent_as_a_reference_where_asked(
    server: NatsServer,
) -> None:
    add_stream(server, "short", "short", max_msg_size=2_000)
    large = to("short", "e-large", data=b'"' + b"x" * 2_000 + b'"', oversize="reference")

    [attempt] = deliver(sink_of(server), large)
    [again] = deliver(sink_of(server), large)

    assert [attempt.outcome, again.outcome] == [Outcome.DELIVERED] * 2, (attempt, again)
    [message] = kept(server, "short")
    assert json.loads(message.data or b"")["oversize"] is True
    assert (message.headers or {})["Nats-Msg-Id"] == "e-large"


# Permissions and credentials


@pytest.mark.parametrize("jetstream", [True, False])
def test_a_subject_that_may_not_be_published_to_is_refused_in_words_at_once(
    server: NatsServer, jetstream: bool
) -> None:
    add_stream(server, "open", "open", "secret.>")
    batch = [
        to('secret."X"', jetstream=jetstream, timeout=20),
        to("open", f"e-{jetstream}", jetstream=jetstream, timeout=20),
    ]

    began = time.monotonic()
    attempts = deliver(sink_of(server, "narrow"), *batch)

    assert [each.outcome for each in attempts] == [Outcome.REFUSED, Outcome.DELIVERED], attempts
    assert attempts[0].code == "permission"
    assert 'secret."X"' in attempts[0].detail
    assert time.monotonic() - began < 10


def test_a_refusal_of_a_subject_does_not_fall_on_its_twin_in_lower_case(
    server: NatsServer,
) -> None:
    add_stream(server, "twins", "twin.>", "Twin.>")
    batch = [to("Twin.x", "e-1", timeout=3), to("twin.x", "e-2", timeout=3)]

    attempts = deliver(sink_of(server, "narrow"), *batch)

    assert [each.outcome for each in attempts] == [Outcome.AMBIGUOUS, Outcome.DELIVERED]


def test_without_an_inbox_jetstream_is_refused_in_words_and_core_works(
    server: NatsServer,
) -> None:
    attempts = deliver(sink_of(server, "deaf"), to("x"), to("x", jetstream=False))

    assert [each.outcome for each in attempts] == [Outcome.REFUSED, Outcome.DELIVERED], attempts
    assert "_INBOX" in attempts[0].detail


@pytest.mark.parametrize("userinfo", ["evo:wrong-p%40ss%2Fword", "wrong-t%C3%B6ken", "evo:"])
def test_wrong_credentials_are_told_in_words_and_shown_nowhere(
    tmp_path: Path, userinfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with NatsServer(tmp_path, auth=("evo", "right")) as locked:
        uri = f"nats://{userinfo}@127.0.0.1:{locked.port}"
        [attempt] = deliver(NatsSink(settings(nats_uri=uri)), to("x"))

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "auth")
    assert "does not accept the credentials" in attempt.detail
    shown = repr(attempt) + caplog.text
    assert "wrong" not in shown
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("auth", [("e:v/o", "p@ss/w:rd%2F,ö"), ("evo", "x,nats://y")])
def test_credentials_in_the_uri_are_decoded(tmp_path: Path, auth: tuple[str, str]) -> None:
    with NatsServer(tmp_path, auth=auth) as locked:
        [attempt] = deliver(NatsSink(settings(nats_uri=locked.url)), to("x", jetstream=False))

    assert attempt.outcome is Outcome.DELIVERED, attempt


def test_a_token_in_the_uri_lets_in(tmp_path: Path) -> None:
    with NatsServer(tmp_path, more='authorization { token: "t/ken" }') as locked:
        uri = f"nats://t%2Fken@127.0.0.1:{locked.port}"
        [attempt] = deliver(NatsSink(settings(nats_uri=uri)), to("x", jetstream=False))

    assert attempt.outcome is Outcome.DELIVERED, attempt


def test_a_secret_that_a_server_repeats_is_cut_out() -> None:
    address = _nats_link.Address.of("nats://me:s%40cret@h:1,nats://other:2")

    hidden = address.hide(Attempt(Outcome.REFUSED, "x", "no s@cret and no s%40cret"))

    assert hidden.detail == "no … and no …"
    assert "cret" not in repr(address)
    assert address.servers == ["nats://h:1", "nats://other:2"]


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key beside it."""
    return self_signed(tmp_path_factory.mktemp("tls"))[0]


def test_tls_is_verified_and_carries_credentials(tmp_path: Path, certificate: Path) -> None:
    files = {"cert_file": certificate, "key_file": certificate.with_suffix(".key")}
    more = ", ".join(f"{name}: {json.dumps(str(path))}" for name, path in files.items())
    with NatsServer(tmp_path, auth=("evo", "secret"), more=f"tls {{ {more} }}") as secured:
        uri = secured.url.replace("nats://", "tls://")
        trusting = ssl.create_default_context(cafile=str(certificate))
        [good] = deliver(
            NatsSink(settings(nats_uri=uri), ssl_context=trusting), to("x", jetstream=False)
        )
        [bad] = deliver(NatsSink(settings(nats_uri=uri)), to("x", jetstream=False))

    assert good.outcome is Outcome.DELIVERED, good
    assert (bad.outcome, bad.code) == (Outcome.UNREACHABLE, "tls")
    assert "self-signed" in bad.detail


def test_a_tls_uri_does_not_give_its_password_to_a_server_without_tls(tmp_path: Path) -> None:
    with NatsServer(tmp_path, auth=("evo", "secret"), more="trace: true, debug: true") as plain:
        uri = plain.url.replace("nats://", "tls://")
        [attempt] = deliver(NatsSink(settings(nats_uri=uri)), to("x"))
        assert plain.process is not None
        heard = plain.process.output()

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "tls")
    assert "does not speak TLS at this port: use nats:// instead of tls://" in attempt.detail
    assert "[CONNECT" not in heard


def test_a_wss_uri_to_a_port_without_tls_names_ws(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as plain:
        uri = plain.url.replace("nats://", "wss://")
        [attempt] = deliver(NatsSink(settings(nats_uri=uri)), to("x"))

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "tls")
    assert "does not speak TLS at this port: use ws:// instead of wss://" in attempt.detail


# Connections


def test_while_no_connection_can_be_made_deliveries_fail_at_once() -> None:
    sink = NatsSink(settings(nats_uri=f"nats://127.0.0.1:{closed_port()}"))

    async def many(sink: NatsSink) -> tuple[set[tuple[Outcome, str]], float]:
        began = time.monotonic()
        got = [(await sink.deliver([to("x", timeout=30)]))[0] for _ in range(200)]
        return {(each.outcome, each.code) for each in got}, time.monotonic() - began

    endings, took = run(sink, many)

    assert endings == {(Outcome.UNREACHABLE, "refused")}
    assert took < 5


def test_the_second_of_two_servers_is_used_where_the_first_is_down(server: NatsServer) -> None:
    uri = f"{url_of(server)},nats://127.0.0.1:{closed_port()}"
    for each in (uri, ",".join(reversed(uri.split(",")))):
        [attempt] = deliver(NatsSink(settings(nats_uri=each)), to("x", jetstream=False))

        assert attempt.outcome is Outcome.DELIVERED, attempt


@pytest.mark.parametrize("uri", ["nats://[::1", "nats://127.0.0.1:port", "nats://"])
def test_a_uri_that_cannot_be_used_is_told_in_words(uri: str) -> None:
    [attempt] = deliver(NatsSink(settings(nats_uri=uri)), to("x"))

    assert attempt.outcome is Outcome.UNREACHABLE
    assert attempt.detail


def test_something_that_is_no_nats_server_is_told_in_words() -> None:
    async def served(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    async def all_of_it() -> Attempt:
        other = await asyncio.start_server(served, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        sink = NatsSink(settings(nats_uri=f"nats://127.0.0.1:{port}"))
        [attempt] = await sink.deliver([to("x")])
        await sink.close()
        other.close()
        return attempt

    attempt = asyncio.run(all_of_it())

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "protocol")


def test_a_server_that_hangs_up_after_the_greeting_is_unreachable() -> None:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload":1048576,"headers":true}\r\n')
        await reader.readline()
        writer.close()

    async def all_of_it() -> list[Attempt]:
        other = await asyncio.start_server(served, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        sink = NatsSink(settings(nats_uri=f"nats://127.0.0.1:{port}"))
        attempts = [(await sink.deliver([to("x")]))[0] for _ in range(3)]
        await sink.close()
        other.close()
        return attempts

    attempts = asyncio.run(all_of_it())

    assert {each.outcome for each in attempts} == {Outcome.UNREACHABLE}, attempts


def test_a_server_that_stays_silent_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_nats_link, "CHECK_SECONDS", 0.3)
    large = b'"' + b"x" * 900_000 + b'"'
    with NatsServer(tmp_path) as mute:

        async def work(sink: NatsSink) -> tuple[list[Attempt], Attempt, Attempt]:
            await sink.deliver([to("x", jetstream=False)])
            mute.pause()
            # More than the sockets hold: nats-py's own close would wait for ever.
            batch = [to("x", f"e-{n}", data=large, timeout=1) for n in range(20)]
            silent = await sink.deliver(batch)
            for _ in range(300):
                if sink._link is None:
                    break
                await asyncio.sleep(0.01)
            [meanwhile] = await sink.deliver([to("x", jetstream=False, timeout=1)])
            mute.resume()
            end = time.monotonic() + 15
            while True:
                [after] = await sink.deliver([to("x", jetstream=False)])
                if after.outcome is Outcome.DELIVERED or time.monotonic() > end:
                    return silent, meanwhile, after

        silent, meanwhile, after = run(NatsSink(settings(nats_uri=mute.url)), work)

    assert {each.outcome for each in silent} == {Outcome.AMBIGUOUS}
    assert meanwhile.outcome is Outcome.UNREACHABLE, meanwhile
    assert after.outcome is Outcome.DELIVERED, after


def test_close_does_not_wait_for_a_silent_server(tmp_path: Path) -> None:
    large = b'"' + b"x" * 900_000 + b'"'
    with NatsServer(tmp_path) as mute:

        async def work(sink: NatsSink) -> float:
            await sink.deliver([to("x", jetstream=False)])
            mute.pause()
            batch = [to("x", f"e-{n}", data=large, timeout=1) for n in range(20)]
            under_way = asyncio.create_task(sink.deliver(batch))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await sink.close()
            took = time.monotonic() - began
            assert {each.outcome for each in await under_way} == {Outcome.AMBIGUOUS}
            return took

        took = run(NatsSink(settings(nats_uri=mute.url)), work)

    assert took < 10


def test_a_server_that_is_killed_ends_what_is_under_way_long_before_its_timeout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = b'"' + b"x" * 900_000 + b'"'
    server = NatsServer(tmp_path).start()

    async def work(sink: NatsSink) -> tuple[list[Attempt], float]:
        await sink.deliver([to("x", jetstream=False)])
        server.pause()
        batch = [to("x", f"e-{n}", data=large, timeout=60) for n in range(20)]
        under_way = asyncio.create_task(sink.deliver(batch))
        await asyncio.sleep(0.1)
        server.kill9()
        began = time.monotonic()
        return await under_way, time.monotonic() - began

    attempts, took = run(NatsSink(settings(nats_uri=server.url)), work)

    assert {each.outcome for each in attempts} == {Outcome.AMBIGUOUS}
    assert took < 10
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_a_server_that_is_about_to_close_is_used_until_it_does(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as leaving:

        async def work(sink: NatsSink) -> list[Attempt]:
            await sink.deliver([to("x", jetstream=False)])
            assert leaving.process is not None
            os.kill(leaving.process.pid, signal.SIGUSR2)
            for _ in range(500):
                if sink._link is not None and sink._link.retiring:
                    break
                await asyncio.sleep(0.01)
            assert sink._link is not None
            assert sink._link.retiring
            return [(await sink.deliver([to("x", jetstream=False)]))[0] for _ in range(5)]

        attempts = run(NatsSink(settings(nats_uri=leaving.url)), work)
        leaving.kill9()

    assert {each.outcome for each in attempts} == {Outcome.DELIVERED}, attempts


def test_deliveries_share_a_call_only_where_they_wait_for_the_same() -> None:
    sink = NatsSink(settings(nats_uri="nats://h"))
    base = target("nats", subject="a", jetstream=True, createStream=False)
    other = [
        dataclasses.replace(base, timeout=1),
        dataclasses.replace(base, settings={**base.settings, "subject": "b"}),
        dataclasses.replace(base, settings={**base.settings, "jetstream": False}),
    ]

    keys = {sink.batch_key(each) for each in (base, *other)}

    assert len(keys) == 4
    assert sink.batch_key(dataclasses.replace(base, sid="b", instance="c")) in keys


# The door


def exceptions_of(*modules: Any) -> list[type[BaseException]]:
    return sorted(
        {
            each
            for one in modules
            for _, each in inspect.getmembers(one, inspect.isclass)
            if issubclass(each, BaseException)
        },
        key=lambda each: each.__name__,
    )


def made(kind: type[BaseException]) -> BaseException:
    """One of it, whatever its constructor wants."""
    error = kind.__new__(kind)
    for name in ("description", "code", "err_code", "key", "_msg", "message"):
        if not hasattr(error, name):
            error.__dict__[name] = None
    return error


KNOWN = {nats.errors.Error, nats.errors.BadTimeoutError, nats.errors.InvalidCallbackTypeError,
         nats.errors.BadSubscriptionError, nats.errors.SlowConsumerError,
         nats.errors.NotJSMessageError, nats.errors.MsgAlreadyAckdError}  # fmt: skip
"""What only a mistake of ours could raise, or says nothing by its class."""


@pytest.mark.parametrize("kind", exceptions_of(nats.errors, nats.js.errors))
def test_every_exception_of_the_client_has_an_ending(kind: type[BaseException]) -> None:
    attempts = [translate(made(kind), sent=sent) for sent in (False, True)]

    assert all(each.code and 0 < len(each.detail) <= 300 for each in attempts)
    assert all(each.outcome is not Outcome.DELIVERED for each in attempts)
    if kind not in KNOWN:
        assert all(each.code not in ("client", "internal") for each in attempts), attempts


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("nats: 'Authorization Violation'", "auth"),
        ("nats: 'user authentication expired'", "auth"),
        ("nats: 'Secure Connection - TLS Required'", "tls"),
        ("nats: empty response from server when expecting INFO message", "protocol"),
        ("nats: 'maximum connections exceeded'", "client"),
    ],
)
def test_what_the_server_said_is_understood(said: str, code: str) -> None:
    attempt = translate(nats.errors.Error(said), sent=False)

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, code)


def test_a_connection_closed_for_one_large_message_rejects_nobody_else_s() -> None:
    attempt = translate(nats.errors.Error("nats: maximum payload violation"), sent=True)

    assert attempt.outcome is Outcome.AMBIGUOUS
    assert "maximum payload" in attempt.detail


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{}", b'{"stream":"a"}', b"\xff"])
def test_an_answer_that_is_not_jetstream_s_is_ambiguous(data: bytes) -> None:
    attempt, copy = module.read_answer(data)

    assert (attempt.outcome, attempt.code, copy) == (Outcome.AMBIGUOUS, "bad-answer", None)
