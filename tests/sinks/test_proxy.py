"""OUTBOUND_PROXY, with a proxy that writes down what it is asked for; and those of the
environment, which are asked for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from evoflask.dev.receiver import Receiver
from evoflask.settings import Settings
from evoflask.sinks.base import Attempt, Outcome, Sink
from evoflask.sinks.pusher import PusherSink
from evoflask.sinks.sqs import SqsSink
from evoflask.sinks.webhook import WebhookSink
from tests.sinks.harness import LOOPBACK, delivery, target

PUSHER = {"appId": "1", "key": "k", "settings_secret": "s", "cluster": "eu", "useTLS": True}
SQS = {
    "queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/q",
    "accessKeyId": "AKID",
    "secretAccessKey": "s",
}


class Proxy:
    """Answers what is asked of it by itself: 200, and 502 to a CONNECT."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:pass-of-the-proxy@127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += connection.recv(65_536)
                    text = head.decode("latin-1")
                    self.asked.append(text.partition(" HTTP/")[0])
                    self.headers.append(text)
                    word = "502 Bad Gateway" if text.startswith("CONNECT") else "200 OK"
                    rest = "Connection: close\r\nContent-Length: 0\r\n\r\n"
                    connection.sendall(f"HTTP/1.1 {word}\r\n{rest}".encode())


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def post(sink: Sink, made: Any) -> Attempt:
    async def run() -> Attempt:
        try:
            return (await sink.deliver([delivery(made)]))[0]
        finally:
            await sink.close()

    return asyncio.run(run())


def through(proxy: Proxy, **more: Any) -> Settings:
    return Settings(outbound_proxy=proxy.url, webhook_connect_timeout=5, **more)


def test_a_name_that_only_the_proxy_knows_is_its_to_look_up(proxy: Proxy) -> None:
    attempt = post(WebhookSink(through(proxy)), target("webhook", url="http://far.invalid/hook"))

    assert attempt.outcome is Outcome.DELIVERED
    assert proxy.asked == ["POST http://far.invalid/hook"]
    assert "Proxy-Authorization: Basic" in proxy.headers[0]


@pytest.mark.parametrize(
    ("sink", "made", "asked"),
    [
        (WebhookSink, target("webhook", url="https://far.invalid/h"), "CONNECT far.invalid:443"),
        (PusherSink, target("pusher", **PUSHER), "CONNECT api-eu.pusher.com:443"),
        (SqsSink, target("sqs", **SQS), "CONNECT sqs.eu-west-1.amazonaws.com:443"),
    ],
)
def test_with_tls_the_proxy_is_asked_for_a_tunnel_and_its_no_is_no_delivery(
    proxy: Proxy, sink: Any, made: Any, asked: str
) -> None:
    attempt = post(sink(through(proxy)), made)

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "proxy")
    assert proxy.asked == [asked]
    assert "pass-of-the-proxy" not in str(attempt)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "2130706433", "localhost"]
)
def test_what_is_known_to_be_inside_is_not_asked_for(proxy: Proxy, host: str) -> None:
    attempt = post(WebhookSink(through(proxy)), target("webhook", url=f"http://{host}/hook"))

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "forbidden-address")
    assert proxy.asked == []


def test_networks_that_are_allowed_are_asked_for_too(proxy: Proxy) -> None:
    allowed = through(proxy, webhook_allow_networks=(ipaddress.ip_network("10.0.0.0/8"),))

    attempt = post(WebhookSink(allowed), target("webhook", url="http://10.0.0.1/hook"))

    assert attempt.outcome is Outcome.DELIVERED
    assert proxy.asked == ["POST http://10.0.0.1/hook"]


def test_a_proxy_that_is_away_is_no_delivery(proxy: Proxy) -> None:
    proxy.close()

    attempt = post(WebhookSink(through(proxy)), target("webhook", url="http://far.invalid/hook"))

    assert attempt.outcome is Outcome.UNREACHABLE
    assert attempt.code in {"proxy", "refused"}
    assert "pass-of-the-proxy" not in str(attempt)


def test_servers_of_the_operators_own_are_reached_without_it(proxy: Proxy) -> None:
    with Receiver() as receiver:
        own = through(
            proxy,
            pusher_host="127.0.0.1",
            pusher_port=str(receiver.port),
            sqs_endpoint_url=receiver.url("").rstrip("/"),
            sqs_region="eu-west-1",
        )
        post(PusherSink(own), target("pusher", **PUSHER | {"useTLS": False}))
        pushed = receiver.count()
        queue = receiver.url("/123456789012/q")
        post(SqsSink(own), target("sqs", **SQS | {"queueUrl": queue}))

        assert (pushed, receiver.count()) == (1, 2)
    assert proxy.asked == []


def test_proxies_of_the_environment_are_asked_for_nothing(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    with Receiver() as receiver:
        usual = Settings(webhook_allow_networks=(LOOPBACK,), webhook_connect_timeout=2)
        attempt = post(WebhookSink(usual), target("webhook", url=receiver.url("/ok")))
        post(PusherSink(usual), target("pusher", **PUSHER))
        post(SqsSink(usual), target("sqs", timeout=2.0, **SQS))

    assert attempt.outcome is Outcome.DELIVERED
    assert proxy.asked == []
