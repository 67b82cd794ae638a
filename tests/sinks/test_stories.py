"""The story that a test of a subscription tells, of each sink against its real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from evoflask.delivery.trials import send
from evoflask.dev.receiver import Receiver
from evoflask.net import certificate, story
from evoflask.sinks import delivering
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink
from evoflask.sinks.webhook import WebhookSink
from tests.certificates import self_signed
from tests.sinks.answers import read_request, server
from tests.sinks.harness import Harness, closed_port, delivery, running, settings, target

DEPENDS = {"sqs": ["server"]}
"""What is known of where it went, where that is not all: boto3 tells no address."""


def tell(sink: Sink, one: Delivery) -> dict[str, Any]:
    """The story of a test, sent as a worker does."""

    async def run() -> dict[str, Any]:
        try:
            return await send(sink, one)
        finally:
            await sink.close()

    return asyncio.run(run())


@pytest.fixture(params=sorted(delivering()), scope="module")
def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    with running(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


def test_a_test_that_arrives_says_where_it_went_what_was_sent_and_how_long_it_took(
    harness: Harness,
) -> None:
    one = delivery(harness.good(), "test-1", mark="test")

    told = tell(harness.sink(), one)

    assert told["delivered"], told
    for fact in DEPENDS.get(harness.name, ["server", "address"]):
        assert told[fact], told
    assert '"test":true' in told["request"]["body"].replace("\\", "")
    assert "answer" in told["timing"]
    assert ("test-1", harness.hash_of(one)) in harness.arrived()


def test_a_test_without_a_destination_says_so_in_words(harness: Harness) -> None:
    told = tell(harness.sink(), delivery(harness.broken(), "test-2", mark="test"))

    assert not told["delivered"]
    assert told["verdict"].endswith(".")
    assert told["answer"] is None


def test_credentials_that_are_refused_are_shown_to_nobody(harness: Harness) -> None:
    wrong = harness.wrong_credentials()
    if wrong is None:
        pytest.skip(f"the server of {harness.name} knows no credentials here")
    sink, locked, secret = wrong

    told = tell(sink, delivery(locked, "test-3", mark="test"))

    assert not told["delivered"]
    assert secret not in json.dumps(told)


# webhooks in particular


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def test_a_receiver_that_repeats_the_request_shows_no_secret_of_it(receiver: Receiver) -> None:
    url = receiver.url("/status/500?echo=1&token=abcdefgh")
    secret = {"X-Secret": "hidden-word", "Authorization": "Bearer another-word"}
    one = delivery(target("webhook", url=url, headers=secret), "test-1", mark="test")

    told = tell(WebhookSink(settings()), one)

    assert "x-secret" in told["answer"]["body"].lower()
    shown = json.dumps(told)
    assert all(each not in shown for each in ("hidden-word", "another-word", "abcdefgh"))


def test_a_test_send_shows_neither_a_jwt_key_nor_its_bearer(receiver: Receiver) -> None:
    receiver.control(keep=True)
    url = receiver.url("/status/500?echo=1")
    headers = {"JWT_KEY": "hidden-word"}
    one = delivery(target("webhook", url=url, headers=headers), "test-1", mark="test")

    told = tell(WebhookSink(settings()), one)

    bearer = receiver.received()[-1].headers()["authorization"]
    shown = json.dumps(told)
    assert told["request"]["headers"]["Authorization"] == story.SECRET
    assert "Authorization: Bearer …" in told["answer"]["body"]
    assert "jwt_key" not in shown.lower()
    assert all(each not in shown for each in ("hidden-word", *bearer.split(".")[1:]))


def test_a_secret_is_hidden_as_json_writes_it_too(receiver: Receiver) -> None:
    url = receiver.url("/status/500?echo=json")
    secret = {"Authorization": 'Bearer "quoted"\\back<slash>&more'}
    one = delivery(target("webhook", url=url, headers=secret), "test-1", mark="test")

    told = tell(WebhookSink(settings()), one)

    assert "Authorization: …" in told["answer"]["body"]
    assert not any(word in json.dumps(told) for word in ("quoted", "slash", "more"))


@pytest.mark.parametrize("before", [0, 5, 45, 89, 90])
def test_a_secret_that_an_answer_is_cut_off_in_shows_no_part_of_it(before: int) -> None:
    secret = "".join(chr(65 + n % 26) for n in range(90))
    at = story.MAX_SHOWN - before
    told = story.Story(hidden=(secret,))
    told.answers(status=500)

    for piece in (b"x" * at, secret.encode() * 100):
        told.hears(piece)
    told.sends(body=b"x" * at + secret.encode() * 100)

    for shown in (told.told()["answer"]["body"], told.told()["request"]["body"]):
        assert not any(secret[n : n + 4] in shown for n in range(87))
        assert len(shown) <= story.MAX_SHOWN


def test_a_header_that_is_cut_off_in_a_secret_shows_no_part_of_it() -> None:
    told = story.Story(hidden=("S" * 90,))

    shown = told.headers({"X": "x" * (story.MAX_VALUE - 40) + "S" * 90})

    assert "S" not in shown["X"]


@pytest.mark.parametrize(
    "line", [b"X-A: f\xf8r", b"X-\xe9: y", "X-A: €".encode(), b"X-A: \xed\xa0\x80\xff"]
)
def test_bytes_beyond_ascii_in_a_header_are_shown_as_latin_1(line: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 0\r\n\r\n")
        connection.recv(1)

    with server(talk) as port:
        url = f"http://127.0.0.1:{port}/"
        told = tell(WebhookSink(settings()), delivery(target("webhook", url=url), mark="test"))

    assert told["delivered"]
    name, value = line.decode("latin-1").split(": ")
    assert told["answer"]["headers"][name] == value
    assert orjson.loads(orjson.dumps(told)) == told


def test_a_header_that_a_library_read_as_utf_8_can_be_told_too() -> None:
    shown = story.Story().headers({"X-\udce9": "f\udcf8r", "X-B": "€"})

    assert shown == {"X-é": "før", "X-B": "€"}


def test_an_answer_is_shown_to_its_first_four_kilobytes(receiver: Receiver) -> None:
    one = delivery(target("webhook", url=receiver.url("/big/9000")), "test-1", mark="test")

    told = tell(WebhookSink(settings()), one)

    assert len(told["answer"]["body"]) == story.MAX_SHOWN
    assert told["answer"]["cut"] is True


def test_a_name_is_told_with_its_addresses_and_why_they_may_not_be_reached() -> None:
    one = delivery(target("webhook", url=f"http://localhost:{closed_port()}/"), mark="test")

    # Patient: this is about names and not about time, and a name has its own thread to wait for.
    patient = settings(webhook_allow_networks=(), webhook_connect_timeout=5)
    told = tell(WebhookSink(patient), one)

    assert told["code"] == "forbidden-address"
    assert {each["refused"] for each in told["addresses"]} == {"loopback"}
    assert "may not be reached from here" in told["verdict"]


def test_a_delivery_that_nobody_listens_to_keeps_its_connection(receiver: Receiver) -> None:
    receiver.clear()
    before = receiver.counts()["connections"]

    async def run() -> None:
        sink = WebhookSink(settings())
        one = delivery(target("webhook", url=receiver.url("/ok")))
        for _ in range(3):
            await sink.deliver([one])
        await send(sink, one)
        await sink.deliver([one])
        await sink.close()

    asyncio.run(run())
    connections = {one.connection for one in receiver.received()}
    assert len(connections) == 2  # the kept one, and the test's own
    assert receiver.counts()["connections"] <= before + 2


# TLS


def make_certificate(folder: Path, name: str, *, days: int) -> Path:
    """A self-signed one and its key, in one file. `days` below 0: it has expired."""
    names = "DNS:receiver.example,IP:127.0.0.1"
    return self_signed(folder, name, names=names, days=days, together=True)[0]


@contextlib.contextmanager
def tls_server(pem: Path) -> Iterator[int]:
    """Answers every connection's first request with 200; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), connection:
                    connection.settimeout(5)
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(65536)
                        secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                        secured.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def tell_tls(pem: Path, host: str, *, trusted: bool) -> dict[str, Any]:
    trusting = ssl.create_default_context(cafile=str(pem)) if trusted else None
    with tls_server(pem) as port:
        one = delivery(target("webhook", url=f"https://{host}:{port}/"), mark="test")
        return tell(WebhookSink(settings(), ssl_context=trusting), one)


def test_tls_is_told_with_its_version_and_the_certificate_that_was_accepted(
    tmp_path: Path,
) -> None:
    pem = make_certificate(tmp_path, "good", days=9)

    told = tell_tls(pem, "127.0.0.1", trusted=True)

    assert told["delivered"], told
    assert told["tls"]["version"] == "TLSv1.3"
    shown = told["tls"]["certificate"]
    assert (shown["subject"], shown["issuer"]) == ("good", "good")
    assert shown["names"] == ["receiver.example", "127.0.0.1"]
    end = datetime.fromisoformat(shown["notAfter"])
    assert abs(end - datetime.now(UTC) - timedelta(days=9)) < timedelta(hours=1)
    assert list(told["timing"]) == ["connect", "tls", "answer", "body", "total"]


def test_a_certificate_that_has_expired_is_told_with_its_date(tmp_path: Path) -> None:
    pem = make_certificate(tmp_path, "old", days=-1)

    told = tell_tls(pem, "127.0.0.1", trusted=True)

    gone = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
    assert told["code"] == "tls"
    assert told["verdict"] == f"The certificate expired on {gone}."
    assert told["tls"]["certificate"]["subject"] == "old"
    assert "expired" in told["tls"]["refused"]


def test_a_certificate_that_nobody_vouches_for_is_told(tmp_path: Path) -> None:
    told = tell_tls(make_certificate(tmp_path, "own", days=9), "127.0.0.1", trusted=False)

    assert told["verdict"] == "The certificate is self-signed: nobody vouches for it."


def test_a_certificate_for_another_host_is_told_with_the_hosts_it_is_for(tmp_path: Path) -> None:
    told = tell_tls(make_certificate(tmp_path, "other", days=9), "localhost", trusted=True)

    assert told["verdict"] == "The certificate is for another host (receiver.example, 127.0.0.1)."


def test_a_port_without_tls_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        told = tell(WebhookSink(settings()), delivery(target("webhook", url=url), mark="test"))
        thread.join(10)

    assert told["code"] == "tls"
    assert told["verdict"].startswith("There is no TLS connection")


USE_HTTPS = "he server speaks TLS at this port: use https:// instead of http://"
ALERT = b"\x15\x03\x01\x00\x02\x02\x46"
PAGES = {
    "nginx": "<html>\r\n<title>400 The plain HTTP request was sent to HTTPS port</title>",
    "go": "Client sent an HTTP request to an HTTPS server.\n",
    "apache": "<p>Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
    "tomcat": "Bad Request\r\nThis combination of host and port requires TLS.\r\n",
}


def test_plain_http_to_a_tls_server_that_hangs_up_says_to_use_https(tmp_path: Path) -> None:
    with tls_server(make_certificate(tmp_path, "own", days=9)) as port:
        one = delivery(target("webhook", url=f"http://127.0.0.1:{port}/"), mark="test")
        told = tell(WebhookSink(settings()), one)
        lane = asyncio.run(deliver(WebhookSink(settings()), one, 2))

    assert (told["outcome"], told["code"]) == ("unreachable", "plain-http")
    assert told["verdict"] == f"T{USE_HTTPS}."
    assert told["tls"] is None
    assert {each.detail for each in lane} == {f"t{USE_HTTPS}"}


async def deliver(sink: Sink, one: Delivery, n: int) -> list[Attempt]:
    """`n` attempts, one after the other, as a lane makes them."""
    try:
        return [(await sink.deliver([one]))[0] for _ in range(n)]
    finally:
        await sink.close()


@pytest.mark.parametrize("piece", [7, 1])
def test_an_alert_of_tls_says_to_use_https(piece: int) -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(ALERT[:piece])
        connection.sendall(ALERT[piece:])

    with server(talk) as port:
        one = delivery(target("webhook", url=f"http://127.0.0.1:{port}/"), mark="test")
        told = tell(WebhookSink(settings()), one)

    assert (told["outcome"], told["code"]) == ("unreachable", "plain-http")
    assert told["verdict"] == f"T{USE_HTTPS}."


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_asks_for_tls_says_to_use_https(name: str) -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        connection.sendall(PAGES[name].encode())

    with server(talk) as port:
        one = delivery(target("webhook", url=f"http://127.0.0.1:{port}/"), mark="test")
        told = tell(WebhookSink(settings()), one)

    assert (told["outcome"], told["code"]) == ("rejected", "400")
    assert told["detail"].startswith(f"answered 400 Bad Request: t{USE_HTTPS}: ")
    assert told["verdict"].startswith(f"T{USE_HTTPS}. An event that gets this answer")


def test_a_plain_server_that_hangs_up_is_not_said_to_speak_tls() -> None:
    heard: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        heard.append(connection.recv(65536)[:5])

    with server(talk) as port:
        one = delivery(target("webhook", url=f"http://127.0.0.1:{port}/"))
        attempts = asyncio.run(deliver(WebhookSink(settings()), one, 3))

    assert {(each.outcome, each.code) for each in attempts} == {(Outcome.AMBIGUOUS, "reset")}
    assert "https" not in "".join(each.detail for each in attempts)
    assert sum(each.startswith(b"\x16") for each in heard) == 1


@pytest.mark.parametrize(
    "junk", [b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", b"no", b"\x30\x03\x02\x01\x01", b"\x30\x00"]
)
def test_what_is_no_certificate_is_refused_as_such(junk: bytes) -> None:
    with pytest.raises(ValueError):
        certificate.read(junk)
