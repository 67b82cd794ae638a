"""The guard, asked the way in: by a URL that is set, and by a delivery through the real sinks.

What must not be reached listens, and hears nobody. Names are answered by a resolver of the
test's own, in the place of the system's: it says something else each time, as whoever controls
a name can make it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from werkzeug.test import TestResponse

import app as composition
from evoflask import db
from evoflask.net.names import LOOKUPS, Names
from evoflask.settings import Settings
from evoflask.sinks.base import Attempt, Outcome, Sink
from evoflask.sinks.webhook import WebhookSink
from tests.conftest import API_KEY
from tests.sinks.harness import delivery, target
from tests.web.conftest import Request

OUTSIDE, INSIDE = "127.0.0.2", "127.0.0.1"
"""One is allowed as if it were public, the other one is what must not be reached."""
ONLY_OUTSIDE = (ipaddress.ip_network(f"{OUTSIDE}/32"),)

REFUSED = [
    # -- as a browser writes them
    *("127.0.0.1", "127.0.0.53", "127.255.255.254", "10.0.0.1", "10.255.255.255", "172.16.0.1"),
    *("172.31.255.255", "192.168.0.1", "192.168.255.255", "169.254.169.254", "169.254.170.2"),
    *("169.254.0.1", "100.64.0.1", "100.127.255.255", "0.0.0.0", "0.1.2.3", "192.0.0.192"),
    *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250"),
    *("240.0.0.1", "255.255.255.255", "168.63.129.16", "192.88.99.1"),
    # -- as the C library reads them too: short, octal, hexadecimal, one number
    *("127.1", "127.0.1", "10.1", "0", "0x0", "00", "2130706433", "017700000001", "0x7f000001"),
    *("0X7F000001", "0x7f.1", "0x7f.0x0.0x0.0x1", "0177.0.0.1", "0177.0.0.01", "127.0x0.1"),
    *("3232235521", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518"),
    *("0x7f.0.0.1", "127.0.0.01", "0127.0.0.1", "4294967295", "1.0xffffff"),
    # -- with a dot at the end
    *("127.0.0.1.", "2130706433.", "0x7f.1.", "10.0.0.1."),
    # -- with digits and dots that are others until they are looked at
    *("127\u30020\u30020\u30021", "127\uff0e0\uff0e0\uff0e1", "127\uff610\uff610\uff611"),
    *(
        "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
        "\uff11\uff12\uff17.0.0.1",
        "\u0967\u0968\u096d.0.0.1",
    ),
    *("%31%32%37.0.0.1", "127%2e0%2e0%2e1", "127.0.0.1%00.example"),
    # -- IPv6
    *("[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[fc00::1]", "[fd12:3456::1]"),
    *("[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%25lo]", "[::1%25lo]", "[fec0::1]", "[ff02::1]"),
    *("[2001:db8::1]", "[fd00:ec2::254]", "[5f00::1]", "[3fff::1]", "[2001:2::1]", "[4000::1]"),
    # -- IPv4 inside IPv6, in all its forms
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:10.0.0.1]", "[0:0:0:0:0:ffff:a9fe:a9fe]"),
    *("[::127.0.0.1]", "[::7f00:1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]"),
    *("[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::127.0.0.1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]"),
    *("[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[2001::7f00:1]"),
    *("[2606:4700::5efe:127.0.0.1]", "[2606:4700::200:5efe:10.0.0.1]", "[::ffff:8.8.8.8]"),
    # -- names that are always ours
    *("localhost", "LOCALHOST", "localhost.", "LocalHost."),
    # -- and what is no host at all
    *("", "user@127.0.0.1", "127.0.0.1@example.com", "example.com\\@127.0.0.1", "127.0.0.1#@e.com"),
    *("127.0.0.1?@e.com", "ex ample.com", "exa\tmple.com", "example.com\n", "[::1", "::1", "[]"),
    *("[127.0.0.1]", "[::1]extra", "[example.com]", "a..b", "-.e.com:0", "e.com:99999", "e.com:x"),
]
HARMLESS = [
    *("example.com", "EXAMPLE.com", "example.com.", "a.b.c.example", "xn--mnchen-3ya.example"),
    *("m\u00fcnchen.example", "1a.example", "0x7g.example", "127.0.0.1.example.com", "10.example"),
    *("8.8.8.8", "1.1.1.1:8443", "11.0.0.1", "172.15.255.255", "172.32.0.1", "192.167.255.255"),
    *("100.63.255.255", "100.128.0.1", "169.253.0.1", "223.255.255.254", "[2606:4700::1]"),
    *("[2a00:1450:4001:80e::200e]:443", "[2606:4700:0:0:0:0:0:1]", "localhost.example.com"),
]


@pytest.fixture
def call(settings: Callable[..., Settings], make_tables: Callable[[], None]) -> Iterator[Request]:
    """A server where nothing private is allowed."""
    client = composition.create_app(settings(webhook_allow_networks=())).test_client()
    make_tables()

    def request(method: str, path: str, body: Any = None, *, key: str = API_KEY) -> TestResponse:
        return client.open(path, method=method, headers={"apikey": key}, json=body)

    yield request
    db.close()


def post(sink: Sink, made: Any) -> Attempt:
    async def run() -> Attempt:
        try:
            return (await sink.deliver([delivery(made)]))[0]
        finally:
            await sink.close()

    return asyncio.run(run())


class Listener:
    """Counts who connects; answers with a redirect, or with 200."""

    def __init__(self, host: str, port: int = 0, to: str = "") -> None:
        self.heard = 0
        self._to = to
        self._socket = socket.create_server((host, port))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.heard += 1
                with connection:
                    connection.settimeout(5)
                    connection.recv(65_536)
                    head = f"307 Moved\r\nLocation: {self._to}" if self._to else "200 OK"
                    rest = "Connection: close\r\nContent-Length: 0\r\n\r\n"
                    connection.sendall(f"HTTP/1.1 {head}\r\n{rest}".encode())


@pytest.fixture
def inside() -> Iterator[Listener]:
    """What must not be reached."""
    made = Listener(INSIDE)
    yield made
    made.close()


@pytest.fixture
def outside(inside: Listener) -> Iterator[Listener]:
    """The same port, where it may be reached."""
    made = Listener(OUTSIDE, inside.port)
    yield made
    made.close()


Resolver = Callable[..., list[str]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """`resolver(["a"], ["b"])`: what each lookup is answered in turn, the last one for ever.
    Returns whom it was asked for."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def script(*answers: list[str]) -> list[str]:
        def answer(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
            if not str(host).endswith(".test"):
                return real(host, port, *args, **kwargs)
            asked.append(str(host))
            found = answers[min(len(asked), len(answers)) - 1]
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))
                for address in found
            ]

        monkeypatch.setattr(socket, "getaddrinfo", answer)
        return asked

    return script


def rebinding(port: int) -> tuple[Sink, Any]:
    """A webhook to `rebinding.test`."""
    sink = WebhookSink(Settings(webhook_allow_networks=ONLY_OUTSIDE, webhook_connect_timeout=5))
    return sink, target("webhook", url=f"http://rebinding.test:{port}/hook")


# -- the table ---------------------------------------------------------------------------------


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(set(REFUSED)) == len(REFUSED)
    assert len(REFUSED) >= 110
    assert len(HARMLESS) >= 20


@pytest.mark.parametrize("host", REFUSED)
def test_none_of_these_can_be_set(call: Request, host: str) -> None:
    for url in (f"http://{host}/hook", f"https://{host}"):
        body = {"instanceName": "a", "webhook": {"enabled": True, "url": url}}

        refused = call("POST", "/instance/create", body)

        assert refused.status_code == 400, (url, refused.json)
        assert refused.json["response"]["message"][0].startswith("webhook.url: ")
        assert call("GET", "/instance/fetchInstances").json == []


@pytest.mark.parametrize("host", HARMLESS)
def test_all_of_these_can_be_set(call: Request, host: str) -> None:
    body = {"instanceName": "a", "webhook": {"enabled": True, "url": f"https://{host}/hook"}}

    assert call("POST", "/instance/create", body).status_code == 201


@pytest.mark.parametrize("host", REFUSED)
def test_none_of_these_is_reached_by_a_delivery(inside: Listener, host: str) -> None:
    """As rows of earlier versions, or a restored database, may have them."""
    sink = WebhookSink(Settings(webhook_connect_timeout=2))
    at = host if ":" in host.rpartition("]")[2] else f"{host}:{inside.port}"

    attempt = post(sink, target("webhook", url=f"http://{at}/hook"))

    assert attempt.outcome is Outcome.UNREACHABLE, attempt
    assert inside.heard == 0


# -- names that change their mind ----------------------------------------------------------------


def test_a_name_that_changes_its_answer_after_the_check_is_connected_to_what_was_checked(
    inside: Listener, outside: Listener, resolver: Resolver
) -> None:
    asked = resolver([OUTSIDE], [INSIDE])
    sink, made = rebinding(inside.port)

    attempt = post(sink, made)

    assert attempt.outcome is Outcome.DELIVERED
    assert asked == ["rebinding.test"]
    assert (outside.heard, inside.heard) == (1, 0)


def test_a_name_that_was_good_when_it_was_set_is_looked_at_again_when_it_is_used(
    inside: Listener, outside: Listener, resolver: Resolver
) -> None:
    resolver([OUTSIDE], [INSIDE])
    sink, made = rebinding(inside.port)

    at_set = Names(ONLY_OUTSIDE).refusal("rebinding.test")
    attempt = post(sink, made)

    assert at_set is None
    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "forbidden-address")
    assert (outside.heard, inside.heard) == (0, 0)


@pytest.mark.parametrize("answers", [[OUTSIDE, INSIDE], [INSIDE, OUTSIDE]])
def test_a_name_with_one_address_inside_is_refused_whole(
    inside: Listener, outside: Listener, resolver: Resolver, answers: list[str]
) -> None:
    resolver(answers)
    sink, made = rebinding(inside.port)

    at_set = Names(ONLY_OUTSIDE).refusal("rebinding.test")
    attempt = post(sink, made)

    assert at_set == "its name stands for an address that is loopback"
    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "forbidden-address")
    assert (outside.heard, inside.heard) == (0, 0)


@pytest.mark.parametrize("to", [f"http://{INSIDE}:{{}}/x", "http://rebinding.test:{}/x"])
def test_a_redirect_inside_is_not_followed(inside: Listener, resolver: Resolver, to: str) -> None:
    resolver([INSIDE])
    redirecting = Listener(OUTSIDE, to=to.format(inside.port))
    sink = WebhookSink(Settings(webhook_allow_networks=ONLY_OUTSIDE, webhook_connect_timeout=5))

    attempt = post(sink, target("webhook", url=f"http://{OUTSIDE}:{redirecting.port}/hook"))
    redirecting.close()

    assert (attempt.outcome, attempt.code) == (Outcome.UNREACHABLE, "forbidden-address")
    assert (redirecting.heard, inside.heard) == (1, 0)


# -- at set: a moment, and not more ------------------------------------------------------------


def test_a_name_that_stands_for_an_address_inside_is_refused_with_a_sentence(
    call: Request,
    resolver: Resolver,
) -> None:
    resolver(["10.0.0.7"])
    body = {"instanceName": "a", "webhook": {"enabled": True, "url": "https://inside.test/hook"}}

    refused = call("POST", "/instance/create", body)

    assert refused.status_code == 400
    assert refused.json["response"]["message"] == [
        "webhook.url: Must not be reached: its name stands for an address that is private. "
        "To allow it, the operator lists its network in WEBHOOK_ALLOW_NETWORKS."
    ]


def test_names_that_nobody_answers_hold_up_who_set_them_for_a_moment_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: let_go.wait(30) and [])
    names = Names((), seconds=0.2)

    asking = [threading.Thread(target=names.refusal, args=("slow.test",)) for _ in range(LOOKUPS)]
    for each in asking:
        each.start()
    for each in asking:
        each.join(10)
    one_more = names.refusal("slow.test")  # no lookup is free: it does not wait

    assert one_more is None
    assert not any(each.is_alive() for each in asking)
    let_go.set()


# -- the other sinks that a tenant's words lead somewhere ------------------------------------------


@pytest.mark.parametrize("host", [each for each in REFUSED if each])
def test_a_queue_is_amazons_or_the_operators(call: Request, host: str) -> None:
    for path in ("/123456789012/q", "/q"):
        body = {"queueUrl": f"http://{host}{path}", "accessKeyId": "A", "secretAccessKey": "s"}

        refused = call(
            "POST", "/instance/create", {"instanceName": "a", "sqs": {"enabled": True, **body}}
        )

        assert refused.status_code == 400, (host, refused.json)


@pytest.mark.parametrize(
    "cluster",
    ["127.0.0.1/", "eu.evil.example/", "eu@127.0.0.1", "../x", "eu#", "eu?", "e u", "a:b"],
)
def test_a_cluster_is_a_word_and_not_a_host(call: Request, cluster: str) -> None:
    own = {"appId": "1", "key": "k", "secret": "s", "cluster": cluster}

    refused = call(
        "POST", "/instance/create", {"instanceName": "a", "pusher": {"enabled": True, **own}}
    )

    assert refused.status_code == 400
    assert "pusher.cluster" in refused.json["response"]["message"][0]
