"""Every ending of a webhook, each against a real socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hmac
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook

from evoflask import __version__, signing
from evoflask.dev.receiver import Received, Receiver
from evoflask.settings import Settings
from evoflask.sinks import _http, webhook
from evoflask.sinks.base import Attempt, Delivery, Outcome
from evoflask.sinks.webhook import WebhookSink
from tests.certificates import self_signed
from tests.sinks.answers import read_request
from tests.sinks.harness import DATA, closed_port, delivery, settings, target

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture(scope="module")
def _server() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(_server: Receiver) -> Receiver:
    _server.clear()
    _server.control(keep=True)
    return _server


def deliver(
    *deliveries: Delivery,
    config: Settings | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> list[Attempt]:
    """One after the other, by one sink."""

    async def run() -> list[Attempt]:
        sink = WebhookSink(config or settings(), ssl_context=ssl_context)
        try:
            return [(await sink.deliver([one]))[0] for one in deliveries]
        finally:
            await sink.close()

    return asyncio.run(run())


def post(url: str, *, config: Settings | None = None, **subscription: Any) -> Attempt:
    return deliver(delivery(target("webhook", url=url, **subscription)), config=config)[0]


def sent(receiver: Receiver, path: str = "/ok", **subscription: Any) -> Received:
    attempt = post(receiver.url(path), **subscription)
    assert attempt.outcome is Outcome.DELIVERED, attempt
    return receiver.received()[-1]


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does `talk` with each connection; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


# What is sent


def test_the_request_is_the_seeds(receiver: Receiver) -> None:
    got = sent(receiver, "/hook?x=1")

    headers = got.headers()
    assert got.head.startswith("POST /hook?x=1 HTTP/1.1\r\n")
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "Evolution-API-Webhook"
    assert headers["webhook-id"] == "e-1"
    assert "webhook-signature" not in headers
    assert list(json.loads(got.body)) == [
        *("event", "instance", "data", "timestamp", "sender", "server", "id")
    ]
    assert f'"data":{DATA.decode()},' in got.body.encode("latin-1").decode()
    assert json.loads(got.body)["server"] == {"version": __version__, "url": ""}


def test_own_headers_replace_ours_but_never_those_that_say_who_sent_it(
    receiver: Receiver,
) -> None:
    own = {
        "content-type": "application/vnd.x+json",
        "USER-AGENT": "mine",
        "X-Key": "ü",
        "webhook-id": "forged",
        "Webhook-Signature": "forged",
        "Content-Length": "3",
        "Transfer-Encoding": "chunked",
        "Host": "elsewhere",
    }

    got = sent(receiver, headers=own)

    headers = got.headers()
    assert headers["content-type"] == "application/vnd.x+json"
    assert headers["user-agent"] == "mine"
    assert headers["x-key"] == "ü"  # Latin-1, as `Received` reads it
    assert headers["webhook-id"] == "e-1"
    assert "webhook-signature" not in headers
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert int(headers["content-length"]) == len(got.body)
    assert "transfer-encoding" not in headers


def test_the_signature_is_verified_by_the_reference_library(receiver: Receiver) -> None:
    got = sent(receiver, secret=SECRET)

    Webhook(SECRET).verify(got.body.encode("latin-1"), got.headers())


def test_by_events_puts_the_event_below_the_path(receiver: Receiver) -> None:
    got = sent(receiver, "/hook/?token=a%2Fb", byEvents=True)

    assert got.head.startswith("POST /hook/messages_upsert?token=a%2Fb HTTP/1.1\r\n")


def test_base64_carries_the_data_to_the_byte(receiver: Receiver) -> None:
    got = sent(receiver, base64=True)

    assert base64.b64decode(json.loads(got.body)["data"]) == DATA


@pytest.mark.parametrize(
    "path", ["/a%20b%2Fc?q=%7E%2B+&s=a/b", "/x?sig=abc%3D&e=1;2", "/%C3%BC", "/a//b/"]
)
def test_the_url_is_sent_as_it_was_given(receiver: Receiver, path: str) -> None:
    assert sent(receiver, path).head.startswith(f"POST {path} HTTP/1.1\r\n")


def test_a_url_beyond_ascii_is_quoted(receiver: Receiver) -> None:
    assert sent(receiver, "/ü?ö#x").head.startswith("POST /%C3%BC?%C3%B6 HTTP/1.1\r\n")


def test_credentials_in_the_url_become_basic_authorization(receiver: Receiver) -> None:
    url = receiver.url("/ok").replace("//", "//user:pa%3Ass@")

    post(url)

    words = base64.b64decode(receiver.received()[-1].headers()["authorization"].split()[1])
    assert words == b"user:pa:ss"


def test_a_large_body_arrives_whole(receiver: Receiver) -> None:
    data = json.dumps({"media": "A" * 3_700_000}).encode()
    one = delivery(target("webhook", url=receiver.url()), data=data)

    [attempt] = deliver(one)

    assert attempt.outcome is Outcome.DELIVERED
    assert data.decode() in receiver.received()[-1].body


def test_a_changed_subscription_is_obeyed_from_the_next_event_on(receiver: Receiver) -> None:
    before = target("webhook", url=receiver.url("/before"))
    after = target("webhook", url=receiver.url("/after"), version=2)

    deliver(delivery(before), delivery(after))

    assert [one.path for one in receiver.received()] == ["/before", "/after"]


def test_connections_are_kept_and_used_again(receiver: Receiver) -> None:
    to = target("webhook", url=receiver.url("/status/204"))

    deliver(*(delivery(to, f"e-{n}") for n in range(20)))

    assert len({one.connection for one in receiver.received()}) == 1


def test_the_environment_sets_no_proxy_and_no_cookie_is_kept(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    cookie = target("webhook", url=receiver.url("/status/200?retry-after=1%0D%0ASet-Cookie:a%3Db"))

    attempts = deliver(delivery(cookie), delivery(cookie))

    assert [one.outcome for one in attempts] == [Outcome.DELIVERED] * 2
    assert "cookie" not in receiver.received()[-1].headers()


# Statuses


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(receiver: Receiver, status: int) -> None:
    attempt = post(receiver.url(f"/status/{status}"))

    assert attempt == Attempt(Outcome.DELIVERED, str(status))


@pytest.mark.parametrize("status", [400, 410, 413, 422])
def test_a_no_for_good_is_rejected(receiver: Receiver, status: int) -> None:
    attempt = post(receiver.url(f"/status/{status}"))

    assert (attempt.outcome, attempt.code) == (Outcome.REJECTED, str(status))
    assert '{"error": "as told"}' in attempt.detail


@pytest.mark.parametrize("give_up_on", [[404], (404, 503), [300, 404, 999]])
def test_give_up_on_replaces_the_statuses_that_are_a_no_for_good(
    receiver: Receiver, give_up_on: list[int]
) -> None:
    one = post(receiver.url("/status/404?echo=1&retry-after=7"), giveUpOn=give_up_on)
    other = post(receiver.url("/status/410?echo=1&retry-after=7"), giveUpOn=give_up_on)

    assert (one.outcome, one.code, one.retry_after) == (Outcome.REJECTED, "404", None)
    assert (other.outcome, other.code, other.retry_after) == (Outcome.REFUSED, "410", 7.0)
    assert "HTTP/1.1" in one.detail
    assert "HTTP/1.1" in other.detail


def test_give_up_on_takes_effect_with_the_next_version_of_a_subscription(
    receiver: Receiver,
) -> None:
    url = receiver.url("/status/422")
    first = target("webhook", url=url)
    second = target("webhook", url=url, giveUpOn=[], version=2)

    outcomes = [each.outcome for each in deliver(delivery(first), delivery(second))]

    assert outcomes == [Outcome.REJECTED, Outcome.REFUSED]


@pytest.mark.parametrize("status", [400, 404, 410, 413, 422, 500])
def test_an_empty_give_up_on_ends_no_event_by_its_status(receiver: Receiver, status: int) -> None:
    attempt = post(receiver.url(f"/status/{status}"), giveUpOn=[])

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, str(status))


@pytest.mark.parametrize(
    ("path", "status"),
    [("/redirect/302/ok", 302), ("/status/307", 307), ("/redirect/308" * 4 + "/ok", 308)],
)
def test_give_up_on_holds_for_redirects_that_are_not_followed(
    receiver: Receiver, path: str, status: int
) -> None:
    usual = post(receiver.url(path))
    attempt = post(receiver.url(path), giveUpOn=[status])

    assert (usual.outcome, usual.code) == (Outcome.REFUSED, str(status))
    assert (attempt.outcome, attempt.code) == (Outcome.REJECTED, str(status))
    assert attempt.detail == usual.detail


def test_a_redirect_that_can_be_followed_is_followed_whatever_give_up_on_says(
    receiver: Receiver,
) -> None:
    attempt = post(receiver.url("/redirect/307/there"), giveUpOn=[307])

    assert attempt.outcome is Outcome.DELIVERED


@pytest.mark.parametrize(
    "status",
    [101, 300, 304, 401, 402, 403, 404, 405, 406, 407, 408, 409, 411, 415, 418, 423, 425, 429,
     451, 500, 501, 502, 503, 504, 505, 599, 999],
)  # fmt: skip
def test_any_other_status_may_change_its_mind(receiver: Receiver, status: int) -> None:
    attempt = post(receiver.url(f"/status/{status}"))

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, str(status))


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_handed_on(receiver: Receiver, status: int) -> None:
    attempt = post(receiver.url(f"/status/{status}?retry-after=17"))

    assert attempt.retry_after == 17


def test_a_detail_shows_nothing_that_is_secret(receiver: Receiver) -> None:
    attempt = post(
        receiver.url("/status/400?echo=1&token=query-secret").replace("//", "//joe:url-secret@"),
        headers={"Authorization": "Bearer header-secret", "X-Key": "other-secret"},
        secret=SECRET,
    )

    assert "HTTP/1.1" in attempt.detail  # the answer does repeat the request
    assert len(attempt.detail) <= 300
    assert "secret" not in attempt.detail
    assert SECRET not in attempt.detail


def test_a_detail_is_one_printable_line(receiver: Receiver) -> None:
    attempt = post(receiver.url("/status/500?echo=1"), headers={"X-A": "a"})

    assert attempt.detail.isprintable()


# The key `jwt_key`

JWT = "jwt-secret-of-the-receiver"


def bearer_of(got: Received) -> str:
    """Return the only Authorization header of a request."""
    lines = [x for x in got.head.split("\r\n") if x.lower().startswith("authorization:")]
    assert len(lines) == 1, lines
    return lines[0].partition(": ")[2]


def claims_of(bearer: str, key: str = JWT) -> dict[str, Any]:
    """Return the claims of a Bearer that `key` signed, read without evoflask's own code."""
    scheme, _, token = bearer.partition(" ")
    signed, _, signature = token.rpartition(".")
    mac = hmac.digest(key.encode(), signed.encode(), "sha256")
    head, claims = (
        json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        for part in signed.split(".")
    )
    assert scheme == "Bearer"
    assert head == {"alg": "HS256", "typ": "JWT"}
    assert base64.urlsafe_b64encode(mac).decode().rstrip("=") == signature
    return dict(claims)


@pytest.mark.parametrize("name", ["jwt_key", "JWT_KEY", "Jwt_Key"])
def test_a_jwt_key_signs_a_bearer_and_is_never_sent(receiver: Receiver, name: str) -> None:
    before = int(time.time())

    got = sent(receiver, headers={name: JWT, "X-Key": "other"})

    claims = claims_of(bearer_of(got))
    assert list(claims) == ["iat", "exp", "app", "action"]
    assert before <= claims["iat"] <= int(time.time())
    assert claims["exp"] == claims["iat"] + 600
    assert (claims["app"], claims["action"]) == ("evolution", "webhook")
    assert JWT not in got.head + got.body
    assert "jwt_key" not in got.head.lower()
    assert got.headers()["x-key"] == "other"


def test_the_bearer_of_a_jwt_key_replaces_every_other_authorization(receiver: Receiver) -> None:
    own = {"authorization": "Bearer own", "jwt_key": JWT}

    attempt = post(receiver.url("/ok").replace("//", "//joe:password@"), headers=own)

    assert attempt.outcome is Outcome.DELIVERED
    claims_of(bearer_of(receiver.received()[-1]))


def test_an_empty_jwt_key_of_an_old_row_is_not_sent_and_signs_nothing(receiver: Receiver) -> None:
    got = sent(receiver, headers={"jwt_key": "", "Authorization": "Bearer own"})

    assert bearer_of(got) == "Bearer own"
    assert "jwt_key" not in got.head.lower()


@pytest.mark.parametrize("key", ["k", "clé €", "x" * 4096])
def test_a_jwt_key_of_any_length_and_alphabet_signs(receiver: Receiver, key: str) -> None:
    claims_of(bearer_of(sent(receiver, headers={"jwt_key": key})), key)


def test_a_kept_destination_signs_each_attempt_anew(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = delivery(target("webhook", url=receiver.url("/ok"), headers={"jwt_key": JWT}))
    moments = iter([1_700_000_000.0, 1_700_000_900.0])
    monkeypatch.setattr(webhook.time, "time", lambda: next(moments))

    deliver(one, one)

    first, second = (claims_of(bearer_of(each)) for each in receiver.received())
    assert (first["iat"], second["iat"]) == (1_700_000_000, 1_700_000_900)


def test_the_bearer_of_a_jwt_key_stays_at_its_origin(receiver: Receiver) -> None:
    with Receiver() as other:
        other.control(keep=True)
        to = f"/redirect/307/?to={other.url('/there')}"

        attempt = post(receiver.url(to), headers={"jwt_key": JWT})

        head = other.received()[-1].head.lower()

    assert attempt.outcome is Outcome.DELIVERED
    assert "authorization" not in head
    assert "jwt" not in head


def test_the_bearer_of_a_jwt_key_goes_along_within_its_origin(receiver: Receiver) -> None:
    post(receiver.url("/redirect/307/there"), headers={"jwt_key": JWT})

    claims_of(bearer_of(receiver.received()[-1]))


@pytest.mark.parametrize("path", ["/status/200?echo=1", "/status/503?echo=1", "/status/400?echo=1"])
def test_an_answer_that_repeats_the_bearer_is_shown_without_it(
    receiver: Receiver, path: str
) -> None:
    own = {"jwt_key": JWT}

    attempt = post(receiver.url(path), config=settings(attempts_log="all"), headers=own)

    token = bearer_of(receiver.received()[-1]).partition(" ")[2]
    assert "HTTP/1.1" in attempt.answer
    for part in (token, *token.split(".")[1:], JWT):
        assert part not in attempt.answer + attempt.detail


# Redirects


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_post_is_followed(receiver: Receiver, status: int) -> None:
    attempt = post(receiver.url(f"/redirect/{status}/new/place"), secret=SECRET)

    first, second = receiver.received()
    assert attempt.outcome is Outcome.DELIVERED
    assert second.head.startswith("POST /new/place ")
    assert (second.sha256, second.id) == (first.sha256, first.id)
    Webhook(SECRET).verify(second.body.encode("latin-1"), second.headers())


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_not_is_a_failure_that_says_so(
    receiver: Receiver, status: int
) -> None:
    attempt = post(receiver.url(f"/redirect/{status}/ok"))

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, str(status))
    assert "the URL moved" in attempt.detail
    assert receiver.count() == 1


def test_three_redirects_are_followed_and_a_fourth_is_not(receiver: Receiver) -> None:
    three = post(receiver.url("/redirect/307" * 3 + "/ok"))
    four = post(receiver.url("/redirect/307" * 4 + "/ok"))

    assert three.outcome is Outcome.DELIVERED
    assert four == Attempt(Outcome.REFUSED, "307", "more than 3 redirects")


def test_own_headers_stay_at_their_origin(receiver: Receiver) -> None:
    own = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Key": "k", "User-Agent": "mine"}
    with Receiver() as other:
        other.control(keep=True)
        to = f"/redirect/307/?to={other.url('/there')}"

        attempt = post(receiver.url(to), headers=own, secret=SECRET)

        headers = other.received()[-1].headers()
        body = other.received()[-1].body.encode("latin-1")

    assert attempt.outcome is Outcome.DELIVERED
    assert not {"authorization", "cookie", "x-key"} & set(headers)
    assert headers["user-agent"] == "Evolution-API-Webhook"
    Webhook(SECRET).verify(body, headers)


def test_own_headers_go_along_within_their_origin(receiver: Receiver) -> None:
    post(receiver.url("/redirect/307/there"), headers={"Authorization": "Bearer x"})

    assert receiver.received()[-1].headers()["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    "to", ["ftp://127.0.0.1/", "http://[::1/", "javascript:x", "http://a b/", "data:,x"]
)
def test_a_redirect_to_what_is_no_url_is_a_failure(receiver: Receiver, to: str) -> None:
    attempt = post(receiver.url("/redirect/307/?to=" + to.replace(" ", "%20")))

    assert attempt.outcome in {Outcome.REFUSED, Outcome.UNREACHABLE}
    assert receiver.count() == 1


def test_a_redirect_without_location_is_a_failure(receiver: Receiver) -> None:
    attempt = post(receiver.url("/status/307"))

    assert attempt == Attempt(Outcome.REFUSED, "307", "redirect without a Location")


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        (b"/synspr\xf8ve", "/synspr%F8ve"),
        ("/synsprøve".encode(), "/synspr%C3%B8ve"),
        (b"/a b", "/a%20b"),
        (b"/a%20b?q=%e9&r=\xe9", "/a%20b?q=%e9&r=%E9"),
        (b"/x\x01y\x80", "/x%01y%80"),
        (b"next?\xff", "/next?%FF"),
        (b"//127.0.0.1:{port}/\xf8", "/%F8"),
        (b"http://127.0.0.1:{port}/\xf8", "/%F8"),
    ],
)
def test_a_location_is_followed_to_the_byte(location: bytes, asked: str) -> None:
    heads: list[bytes] = []
    place = location

    def talk(connection: socket.socket) -> None:
        heads.append(read_request(connection))
        if len(heads) == 1:
            answer = b"HTTP/1.1 307 Moved\r\nLocation: " + place + b"\r\n"
        else:
            answer = b"HTTP/1.1 200 OK\r\n"
        connection.sendall(answer + b"Content-Length: 0\r\nConnection: close\r\n\r\n")

    with raw_server(talk) as port:
        place = location.replace(b"{port}", str(port).encode())
        attempt = post(f"http://127.0.0.1:{port}/first")

    assert attempt.outcome is Outcome.DELIVERED
    assert [head.split(b" ")[1].decode("latin-1") for head in heads] == ["/first", asked]


def test_a_location_with_a_host_that_is_no_text_is_a_failure() -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        head = b"HTTP/1.1 307 Moved\r\nLocation: http://\xf8.example/\r\n"
        connection.sendall(head + b"Content-Length: 0\r\n\r\n")
        connection.recv(1)

    with raw_server(talk) as port:
        attempt = post(f"http://127.0.0.1:{port}/")

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, "307")
    assert "no http(s) URL" in attempt.detail


@pytest.mark.parametrize(
    ("value", "bytes_sent"), [("ü", b"\xfc"), ("\x80\xff", b"\x80\xff"), ("a\tb", b"a\tb")]
)
def test_header_values_are_sent_as_latin_1(value: str, bytes_sent: bytes) -> None:
    heads: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        heads.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.recv(1)

    with raw_server(talk) as port:
        post(f"http://127.0.0.1:{port}/", headers={"X-Key": value})

    assert b"\r\nX-Key: " + bytes_sent + b"\r\n" in heads[0]


def test_a_header_value_beyond_latin_1_is_not_sent(receiver: Receiver) -> None:
    attempt = post(receiver.url(), headers={"X-Key": "€"})

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "settings")
    assert receiver.count() == 0


# The guard


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1"),
        *("169.254.169.254", "0.0.0.0", "[::]", "[::127.0.0.1]", "[fe80::1]"),
        *("2130706433", "127.1", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "１２７.0.0.1"),
    ],
)
def test_an_address_inside_is_not_reached_whatever_its_spelling(
    receiver: Receiver, host: str
) -> None:
    url = f"http://{host}:{receiver.port}/ok"

    attempt = post(url, config=settings(webhook_allow_networks=()))

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "forbidden-address")
    assert receiver.count() == 0


def test_a_name_is_reached_where_its_network_is_allowed(receiver: Receiver) -> None:
    attempt = post(f"http://localhost:{receiver.port}/ok")

    assert attempt.outcome is Outcome.DELIVERED


def test_a_redirect_obeys_the_guard(receiver: Receiver) -> None:
    only = settings(webhook_allow_networks=(ipaddress.ip_network("127.0.0.1/32"),))
    to = f"http://127.0.0.2:{receiver.port}/ok"

    attempt = post(receiver.url(f"/redirect/307/?to={to}"), config=only)

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "forbidden-address")
    assert receiver.count() == 1


# Nothing was sent


def test_a_name_that_does_not_exist_is_unreachable() -> None:
    attempt = post("http://nobody.invalid/", config=settings(webhook_connect_timeout=20.0))

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "dns")


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    attempt = post(f"http://127.0.0.1:{closed_port()}/")

    assert attempt == Attempt(Outcome.UNREACHABLE, "refused", "connection refused")


def test_a_host_that_never_accepts_runs_into_the_connect_timeout() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # its queue is full: the kernel drops what comes then
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        begin = time.monotonic()

        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        attempt = post(url, timeout=25, config=settings(webhook_connect_timeout=0.5))

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "connect-timeout")
    assert time.monotonic() - begin < 20


def test_a_timeout_shorter_than_the_connect_timeout_ends_a_connection_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"

        attempt = post(url, timeout=0.3, config=settings(webhook_connect_timeout=10.0))

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "connect-timeout")


def test_a_server_that_never_answers_the_tls_hello_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        attempt = post(url, config=settings(webhook_connect_timeout=0.5))

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "connect-timeout")


def test_a_server_without_tls_is_unreachable_by_https() -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65536)

    with raw_server(talk) as port:
        attempt = post(f"https://127.0.0.1:{port}/")

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "tls")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    return self_signed(tmp_path_factory.mktemp("tls"), together=True)[0]


@contextlib.contextmanager
def tls_server(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            secured.recv(1)

    with raw_server(talk) as port:
        yield port


def test_a_certificate_nobody_vouches_for_is_unreachable(certificate: Path) -> None:
    with tls_server(certificate) as port:
        attempt = post(f"https://127.0.0.1:{port}/")

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "tls")
    assert "self-signed" in attempt.detail.replace("self signed", "self-signed")


def test_a_certificate_for_another_name_is_unreachable(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with tls_server(certificate) as port:
        one = delivery(target("webhook", url=f"https://localhost:{port}/"))

        [attempt] = deliver(one, ssl_context=trusting)

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "tls")


def test_a_trusted_certificate_is_delivered_to(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with tls_server(certificate) as port:
        one = delivery(target("webhook", url=f"https://127.0.0.1:{port}/"))

        [attempt] = deliver(one, ssl_context=trusting)

    assert attempt.outcome is Outcome.DELIVERED


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://h/", "http://", "http://[::1", "http://h:x/"]
)
def test_a_url_that_is_none_is_unreachable(url: str) -> None:
    attempt = post(url)

    assert attempt.outcome is Outcome.UNREACHABLE


@pytest.mark.parametrize("headers", [{"X-A": "a\r\nX-B: b"}, {"X\nA": "a"}, {"X": "\0"}])
def test_headers_that_would_break_the_request_are_not_sent(
    receiver: Receiver, headers: dict[str, str]
) -> None:
    attempt = post(receiver.url(), headers=headers)

    assert attempt.outcome is Outcome.UNREACHABLE
    assert receiver.count() == 0


def test_a_secret_that_is_none_is_not_shown(receiver: Receiver) -> None:
    attempt = post(receiver.url(), secret="hush-hush")

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "settings")
    assert "hush" not in attempt.detail


# The answer was lost


@pytest.mark.parametrize("path", ["/hang", "/drip", "/stall/200"])
def test_a_receiver_that_does_not_finish_in_time_is_ambiguous(
    receiver: Receiver, path: str
) -> None:
    begin = time.monotonic()

    attempt = post(receiver.url(path), timeout=0.5)

    assert (attempt.outcome, attempt.code) == (Outcome.AMBIGUOUS, "timeout")
    assert 0.4 < time.monotonic() - begin < 5


@pytest.mark.parametrize("path", ["/close", "/reset", "/half"])
def test_a_connection_that_breaks_before_the_answers_end_is_ambiguous_and_sent_once(
    receiver: Receiver, path: str
) -> None:
    attempt = post(receiver.url(path))

    assert (attempt.outcome, attempt.code) == (Outcome.AMBIGUOUS, "reset")
    assert receiver.count() == 1


def test_a_kept_connection_that_breaks_is_ambiguous_and_sent_once(receiver: Receiver) -> None:
    first = target("webhook", url=receiver.url("/ok"))
    second = target("webhook", url=receiver.url("/close"), version=2)

    attempts = deliver(delivery(first), delivery(second))

    assert [one.outcome for one in attempts] == [Outcome.DELIVERED, Outcome.AMBIGUOUS]
    assert receiver.counts()["connections"] == 1
    assert receiver.count() == 2


@pytest.mark.parametrize("path", ["/garbage"])
def test_an_answer_that_is_not_http_is_ambiguous(receiver: Receiver, path: str) -> None:
    attempt = post(receiver.url(path))

    assert (attempt.outcome, attempt.code) == (Outcome.AMBIGUOUS, "bad-answer")


def test_a_head_without_end_is_ambiguous() -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000)

    with raw_server(talk) as port:
        attempt = post(f"http://127.0.0.1:{port}/")

    assert attempt.outcome is Outcome.AMBIGUOUS


# The bounds of an answer


@pytest.mark.parametrize("size", [0, 1, 65_536, webhook.MAX_ANSWER])
def test_a_2xx_up_to_the_bound_is_delivered(receiver: Receiver, size: int) -> None:
    assert post(receiver.url(f"/big/{size}")).outcome is Outcome.DELIVERED


def test_a_2xx_beyond_the_bound_is_too_large(receiver: Receiver) -> None:
    attempt = post(receiver.url(f"/big/{50 * webhook.MAX_ANSWER}"))

    assert (attempt.outcome, attempt.code) == (Outcome.AMBIGUOUS, "answer-too-large")
    assert "answer too large" in attempt.detail


def test_a_failure_stands_though_its_body_is_large(receiver: Receiver) -> None:
    attempt = post(receiver.url("/status/500?padding=50000000"))

    assert (attempt.outcome, attempt.code) == (Outcome.REFUSED, "500")


def test_a_failure_stands_though_its_body_never_comes(receiver: Receiver) -> None:
    attempt = post(receiver.url("/stall/410"), timeout=0.5)

    assert (attempt.outcome, attempt.code) == (Outcome.REJECTED, "410")


def test_a_compressed_answer_is_not_unpacked() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\n"

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head + b"no gzip!")
        connection.recv(1)

    with raw_server(talk) as port:
        attempt = post(f"http://127.0.0.1:{port}/")

    assert attempt.outcome is Outcome.DELIVERED


# The door


def _tree(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _tree(one)


def test_every_exception_of_aiohttp_has_its_row() -> None:
    generic = [one.kind for one in _http.ENDINGS[-3:]]

    for kind in set(_tree(aiohttp.ClientError)):
        row = next(one for one in _http.ENDINGS if issubclass(kind, one.kind))

        assert row.kind not in generic, kind
        assert (row.kind is aiohttp.ClientError) == (kind is aiohttp.ClientError), kind


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize(
    "error",
    [TimeoutError(), ConnectionResetError(), BrokenPipeError(), ssl.SSLError(), KeyError("x"),
     UnicodeError(), RuntimeError("http://u:p@h/?secret"), MemoryError(), EOFError()],
)  # fmt: skip
def test_any_other_exception_is_ambiguous_if_something_was_sent(
    error: Exception, sent: bool
) -> None:
    attempt = _http.translate(error, sent=sent)

    assert attempt.outcome is (Outcome.AMBIGUOUS if sent else Outcome.UNREACHABLE)
    assert "secret" not in attempt.detail


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 5000, _http.MAX_RETRY_AFTER),
        ("٣", None),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 99999 22:14:20 GMT", None),
        ("Tue, 14 Nov 2023 22:14:20 +0100", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", _http.MAX_RETRY_AFTER),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert _http.parse_retry_after(value, 1_700_000_000.0) == seconds


def test_new_secrets_sign_and_verify() -> None:
    secret = signing.new_secret()
    now = int(time.time())

    signature = signing.sign(secret, "e.1", now, b'{"a":1}')

    headers = {
        "webhook-id": "e.1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature,
    }
    Webhook(secret).verify(b'{"a":1}', headers)


def test_many_at_a_time_each_get_their_own_answer(receiver: Receiver) -> None:
    good, bad = (target("webhook", sid=p, url=receiver.url(p)) for p in ("/ok", "/status/500"))
    batch = [delivery(bad if n % 3 else good, f"e-{n}") for n in range(90)]

    async def run() -> list[Attempt]:
        sink = WebhookSink(settings(webhook_connect_timeout=10.0))  # ninety at once, anywhere
        try:
            return await sink.deliver(batch)
        finally:
            await sink.close()

    attempts = asyncio.run(run())

    assert [one.code for one in attempts] == ["500" if n % 3 else "200" for n in range(90)]


def test_an_own_timestamp_and_server_go_through(receiver: Receiver) -> None:
    one = dataclasses.replace(
        delivery(target("webhook", url=receiver.url())),
        date_time="2024-01-01T00:00:00Z",
        server_url="https://evo.example",
        sender=None,
    )

    deliver(one)

    body = json.loads(receiver.received()[-1].body)
    assert body["timestamp"] == "2024-01-01T00:00:00Z"
    assert body["server"]["url"] == "https://evo.example"
    assert body["sender"] is None


def test_while_keys_are_exchanged_a_request_is_verified_with_each_of_them(
    receiver: Receiver,
) -> None:
    old, new, private = signing.new_secret(), signing.new_secret(), signing.new_private_key()
    now = time.time()
    keys = [signing.SigningKey(old), signing.SigningKey(private)]
    both = tuple(signing.replace(keys, signing.SYMMETRIC, new, now=now, grace=60))
    receiver.control(keep=True)

    post(receiver.url("/ok"), keys=both)

    (arrived,) = receiver.received()
    body, headers = arrived.body.encode("latin-1"), arrived.headers()
    for secret in (old, new):
        Webhook(secret).verify(body, headers)
    (v1a,) = [each for each in headers["webhook-signature"].split() if each.startswith("v1a,")]
    public = base64.b64decode(signing.public_key(private).removeprefix("whpk_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(v1a[4:]), signed)


def test_with_keys_whose_time_is_over_a_request_is_not_signed(receiver: Receiver) -> None:
    receiver.control(keep=True)

    post(receiver.url("/ok"), keys=(signing.SigningKey(signing.new_secret(), until=1.0),))

    (arrived,) = receiver.received()
    assert "webhook-signature" not in arrived.headers()
    assert "webhook-timestamp" not in arrived.headers()
