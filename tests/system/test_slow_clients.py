"""Clients that are slow, silent or many, against a real web process: the others do not notice.

Times are compared with those of the same requests in the same run, without company.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

import pytest
import requests

from evoflask.dev.process import wait_for
from tests.system.conftest import MakeHouse
from tests.system.house import API_KEY, House, Threads

HEAD = f"POST /event/emit/a HTTP/1.1\r\nHost: a\r\napikey: {API_KEY}\r\n"
EMIT = '{"event": "CALL", "data": {}}'
WHOLE = f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(EMIT)}\r\n\r\n{EMIT}"
SLOW = f"{HEAD}Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"


class Peer:
    """A client on a socket of its own, byte by byte."""

    def __init__(self, house: House) -> None:
        self.sock = socket.create_connection(("127.0.0.1", house.port), timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def say(self, text: str) -> None:
        self.sock.sendall(text.encode())

    def hear(self, until: bytes = b"", least: int = 1) -> bytes:
        """Everything up to the end, or to so many occurrences of `until`."""
        heard = b""
        while not until or heard.count(until) < least:
            piece = self.sock.recv(65_536)
            if not piece:
                break
            heard += piece
        return heard

    def ended(self) -> bool:
        """Whether the other side hung up."""
        self.sock.settimeout(0)
        try:
            while self.sock.recv(65_536):
                pass
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        finally:
            self.sock.settimeout(20)
        return True


class Drip:
    """Many connections that say a byte each now and then, in one thread."""

    def __init__(self, house: House, many: int, first: str, every: float) -> None:
        self._peers = [Peer(house) for _ in range(many)]
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        for peer in self._peers:
            if first:
                peer.say(first)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for peer in self._peers:
            peer.sock.close()

    @property
    def left(self) -> int:
        """How many are still connected."""
        return sum(not peer.ended() for peer in self._peers)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            for peer in self._peers:
                with contextlib.suppress(OSError):
                    peer.sock.send(b"x")


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """One web process with an instance that nobody delivers for."""
    house = make_house(
        workers=0,
        clock=False,
        web_threads=4,
        websocket_max_clients=4,
        web_head_seconds=4,
        web_send_seconds=2,
        web_connections=4_096,
    )
    house.client().create("a")
    return house


def p99(house: House, count: int = 200) -> float:
    """Seconds, of new connections one after the other that emit."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        answer = requests.post(
            f"http://127.0.0.1:{house.port}/event/emit/a",
            json={"event": "CALL", "data": {}},
            headers={"apikey": API_KEY},
            timeout=20,
        )
        assert answer.status_code == 202
        times.append(time.perf_counter() - began)
    return statistics.quantiles(times, n=100)[98]


def compare(name: str, alone: float, beside: float) -> None:
    """The generous bound: a waiting thread would be seconds."""
    print(f"{name}: p99 {alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside them, ", end="")
    print(f"{beside / alone:.1f} times")
    assert beside < max(20 * alone, 1.0)


def test_two_thousand_that_say_nothing_keep_nobody_waiting(house: House) -> None:
    alone = p99(house)

    with Drip(house, 2_000, "", every=60) as idle:
        assert idle.left == 2_000
        beside = p99(house, 100)
        wait_for(lambda: idle.left == 0, 20, "all of them to be hung up on")

    compare("2,000 idle connections", alone, beside)


@pytest.mark.parametrize(
    "first", ["POST /event/emit/a HTTP/1.1\r\nX: ", SLOW], ids=["head", "body"]
)
def test_five_hundred_that_say_a_byte_a_second_keep_nobody_waiting(
    house: House, first: str
) -> None:
    alone = p99(house)

    with Drip(house, 500, first, every=1) as drip:
        beside = p99(house)
        wait_for(lambda: drip.left == 0, 20, "all of them to be cut")

    compare("500 dripping connections", alone, beside)


def test_who_is_too_slow_is_told_so(house: House) -> None:
    with Peer(house) as peer:
        peer.say(SLOW)

        answer = peer.hear()

    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert answer.endswith(
        b'{"status": 408, "error": "Request Timeout", '
        b'"response": {"message": ["The request was not received: too slow."]}}'
    )


def test_a_body_that_comes_slowly_but_comes_is_accepted(house: House) -> None:
    body = '{"event": "CALL", "data": "' + "x" * 6_000 + '"}'
    with Peer(house) as peer:
        peer.say(f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
        for at in range(
            0, len(body), 500
        ):  # 2,000 bytes a second, and longer than the head may take
            peer.say(body[at : at + 500])
            time.sleep(0.25)

        answer = peer.hear(b"}")

    assert answer.startswith(b"HTTP/1.1 202 ")


def test_who_never_hangs_up_after_the_last_answer_keeps_nobody_waiting(house: House) -> None:
    alone = p99(house)
    closing = WHOLE.replace("Host: a", "Host: a\r\nConnection: close")

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(house)) for _ in range(20)]
        for peer in peers:
            peer.say(closing)
        beside = p99(house, 100)
        assert all(peer.hear().startswith(b"HTTP/1.1 202 ") for peer in peers)

    compare("20 connections that stay half open", alone, beside)


def test_with_one_connection_too_many_the_longest_idle_one_goes(make_house: MakeHouse) -> None:
    house = make_house(
        workers=0, clock=False, web_connections=20, web_threads=1, websocket_max_clients=0
    )
    house.client().create("a")

    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(Peer(house))
        kept.say(WHOLE)
        assert kept.hear(b"}").startswith(b"HTTP/1.1 202 ")
        idle = [stack.enter_context(Peer(house)) for _ in range(40)]
        wait_for(lambda: sum(peer.ended() for peer in idle) >= 20, 5, "half of them to be cut")
        beside = p99(house, 20)

        assert [peer.ended() for peer in idle] == sorted([p.ended() for p in idle], reverse=True)
        assert not kept.ended()
        assert beside < 5


def test_with_too_much_on_its_way_the_oldest_is_refused(make_house: MakeHouse) -> None:
    house = make_house(workers=0, clock=False, web_buffer_bytes=100_000)
    house.client().create("a")

    with Peer(house) as first, Peer(house) as second:
        first.say(SLOW + "x" * 60_000)
        time.sleep(0.2)  # both are on their way; there is nothing to look at
        second.say(SLOW + "x" * 60_000)
        answer = first.hear()

        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 5\r\n" in answer
        second.say("x" * 40_000)
        assert second.hear(b"}").startswith(b"HTTP/1.1 400 ")  # whole, and no JSON


def test_who_does_not_read_its_answer_is_cut(house: House) -> None:
    peers = []
    for _ in range(12):  # more than there are threads
        peer = Peer(house)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peers.append(peer)
        ask = f"GET /instance/fetchInstances HTTP/1.1\r\nHost: a\r\napikey: {API_KEY}\r\n\r\n"
        peer.say(ask * 500)

    assert p99(house, 10) < 10
    for peer in peers:
        peer.sock.close()


@pytest.mark.parametrize("limit", [128, 192])
def test_idle_sockets_beyond_the_limit_of_open_files_keep_nobody_waiting(
    make_house: MakeHouse, limit: int
) -> None:
    house = make_house(
        web=0, workers=0, clock=False, web_threads=4, web_head_seconds=60, web_idle_seconds=60
    )
    house.limit_files("web", limit)
    house.start("web")
    house.client().create("a")

    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(Peer(house))
        kept.say(WHOLE)
        assert kept.hear(b"}").startswith(b"HTTP/1.1 202 ")
        idle = [stack.enter_context(Peer(house)) for _ in range(384)]
        cpu, began = house.cpu("web"), time.monotonic()
        beside = p99(house, 50)
        used, passed = house.cpu("web") - cpu, time.monotonic() - began
        left = sum(not peer.ended() for peer in idle)
        kept.say(WHOLE)
        assert kept.hear(b"}").startswith(b"HTTP/1.1 202 ")
        stop = house.cpu("web")
        time.sleep(2)  # nothing is asked: a main thread that spins would use all of it
        idle_cpu = house.cpu("web") - stop

    print(
        f"{left} of 384 idle sockets stay; p99 {beside * 1000:.0f} ms; CPU {used:.2f} s of ", end=""
    )
    print(f"{passed:.2f}; {idle_cpu:.2f} s of 2 at rest")
    assert 0 < left < limit
    assert beside < 5
    assert idle_cpu < 1
    assert "The limit of open files is small" in house.output("web")


MEGABYTES = 1_000_000


def web_rss(house: House) -> int:
    """Return the resident bytes of gunicorn's only worker process."""
    pid = house.process("web").pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    status = Path(f"/proc/{child}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024


def test_bodies_without_a_key_share_a_small_part_of_memory_and_give_it_back(
    make_house: MakeHouse,
) -> None:
    """70 posts of 15 MB, 1 GB together. A body that is whole counts until it is answered."""
    house = make_house(workers=0, clock=False, web_threads=4, websocket_max_clients=4)
    house.client().create("a")
    body = b"x" * 15 * MEGABYTES
    head = (
        "POST /event/emit/a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    before, most, answered = web_rss(house), [0], Counter[bytes]()

    def post() -> None:
        with Peer(house) as peer:
            peer.sock.settimeout(120)
            with contextlib.suppress(ConnectionError):
                peer.say(head)
                peer.sock.sendall(body)
            with contextlib.suppress(ConnectionError):
                answered[peer.hear(b"}}")[9:12]] += 1

    posts = Threads([post] * 70)
    while posts.running:
        most[0] = max(most[0], web_rss(house))
        assert requests.get(f"http://127.0.0.1:{house.port}/healthz", timeout=60).ok
        assert house.client().emit("a").status_code == 202
    posts.join()

    def grown() -> int:
        return web_rss(house) - before

    print(f"{dict(answered)}; {(most[0] - before) // MEGABYTES} MB more at most, ", end="")
    wait_for(lambda: grown() < 60 * MEGABYTES, 30, "the memory to be given back")
    print(f"{grown() // MEGABYTES} MB after")
    assert answered.keys() <= {b"401", b"503", b""}
    assert answered[b"503"]
    assert most[0] - before < 200 * MEGABYTES


def test_a_body_that_does_not_fit_is_refused_before_it_is_sent(make_house: MakeHouse) -> None:
    house = make_house(workers=0, clock=False, web_buffer_bytes=100_000, web_threads=2)
    house.client().create("a")
    head = f"{HEAD}Content-Type: application/json\r\nContent-Length: 16000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(house)) for _ in range(7)]
        for peer in peers:  # each is small, together they fill the account
            peer.say(head + "x" * 15_999)
        wait_for(lambda: refused(stack.enter_context(Peer(house))), 60, "the account to be full")
        small = stack.enter_context(Peer(house))
        small.say(WHOLE)

        assert small.hear(b"}").startswith(b"HTTP/1.1 202 ")
        for peer in peers:
            peer.say("x")
            assert peer.hear(b"}").startswith(b"HTTP/1.1 400 ")  # whole, and no JSON
        assert not refused(stack.enter_context(Peer(house)))


def test_bytes_that_a_packed_body_becomes_count_until_it_is_answered(
    make_house: MakeHouse,
) -> None:
    house = make_house(workers=0, clock=False, web_buffer_bytes=1_000_000, web_threads=2)
    client = house.client()
    client.create("a")
    client.set_webhook("a", "http://127.0.0.1:9/")

    def emit(size: int) -> requests.Response:
        return requests.post(
            f"http://127.0.0.1:{house.port}/event/emit/a",
            data=gzip.compress(b'{"event": "CALL", "data": "%s"}' % (b"x" * size)),
            headers={
                "apikey": API_KEY, "Content-Type": "application/json", "Content-Encoding": "gzip",
            },
            timeout=60,
        )  # fmt: skip

    refused = emit(3_000_000)
    others = [emit(300_000).status_code for _ in range(5)]

    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "5"
    assert refused.json()["error"] == "Service Unavailable"
    assert refused.json()["response"]["message"][0].startswith("The server holds too many")
    assert others == [202] * 5


def refused(peer: Peer) -> bool:
    """Ask to send a body. Return True if the answer is 503 in the contract's shape, not 100."""
    peer.say(SLOW.replace("Host: a", "Host: a\r\nExpect: 100-continue"))
    answer = peer.hear(b"\r\n\r\n")
    if answer.startswith(b"HTTP/1.1 100 "):
        return False
    head, _, body = (answer + peer.hear(b"}}")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 "), head
    assert b"Retry-After: 5" in head
    assert json.loads(body)["status"] == 503
    return True


def test_answers_that_a_token_does_not_read_keep_no_other_waiting(make_house: MakeHouse) -> None:
    """240 answers of 6 MB. They hold a share of the threads, and count until they are taken."""
    house = make_house(workers=0, clock=False, web_threads=4, websocket_max_clients=12)
    client = house.client()
    client.create("a", token="token-a")
    client.create("b", token="token-b")
    client.set_webhook("a", "http://127.0.0.1:9/")
    made = client.emit("a", data="x" * 6 * MEGABYTES).json()["id"]
    ask = f"GET /event/a/{made} HTTP/1.1\r\nHost: a\r\napikey: token-a\r\n\r\n"
    other = requests.Session()
    other.headers["apikey"] = "token-b"
    url = f"http://127.0.0.1:{house.port}"

    with contextlib.ExitStack() as stack:
        for _ in range(240):
            peer = stack.enter_context(Peer(house))
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            peer.say(ask)
        times = []
        for _ in range(20):
            began = time.perf_counter()
            assert other.get(f"{url}/webhook/find/b", timeout=60).ok
            assert requests.get(f"{url}/healthz", timeout=60).ok
            times.append(time.perf_counter() - began)

    print(f"beside 240 unread answers of 6 MB: {max(times):.2f} s at most")
    assert max(times) < 5


def test_busy_connections_keep_nobody_waiting(house: House) -> None:
    alone = p99(house)
    stop = threading.Event()
    answered: Counter[bytes] = Counter()

    def ask() -> None:
        with Peer(house) as peer:
            while not stop.is_set():
                peer.say(WHOLE)
                answered[peer.hear(b"}")[9:12]] += 1

    busy = Threads([ask] * 12)  # more than there are threads
    try:
        wait_for(lambda: answered.total() > 100, 20, "all of them to be busy")
        beside = p99(house)
    finally:
        stop.set()
        busy.join()

    compare(f"{answered.total():,} requests of 12 busy connections", alone, beside)
    assert answered.keys() == {b"202"}


# -- what must go on as before -------------------------------------------------------------------


def test_requests_that_come_together_are_answered_in_turn(house: House) -> None:
    chunked = (
        f"{HEAD}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"{len(EMIT):x}\r\n{EMIT}\r\n0\r\n\r\n"
    )
    with Peer(house) as peer:
        peer.say(WHOLE + chunked + "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + WHOLE)

        answers = peer.hear(b"HTTP/1.1 ", 4)

    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"202", b"202", b"200", b"202"]


def test_requests_that_follow_at_once_are_answered_wherever_they_are_cut(house: House) -> None:
    twice = WHOLE + "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    with Peer(house) as peer:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(len(twice)):
            peer.say(twice[:cut])
            peer.say(twice[cut:])

            answers = peer.hear(b'"alive"}\n')

            assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"202", b"200"]


def test_who_waits_to_be_told_is_told_once(house: House) -> None:
    head, _, body = WHOLE.partition("\r\n\r\n")
    with Peer(house) as peer:
        peer.say(f"{head}\r\nExpect: 100-continue\r\n\r\n")
        told = peer.hear(b"\r\n\r\n")
        peer.say(body)
        answer = peer.hear(b"}")

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 202 ")


def test_a_body_that_is_too_large_is_refused_unread(house: House) -> None:
    large = f"{HEAD}Content-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
    with Peer(house) as peer:
        peer.say(large)

        answer = peer.hear()

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_breaks_off_is_said_to(house: House) -> None:
    with Peer(house) as peer:
        peer.say(SLOW + "{")
        peer.sock.shutdown(socket.SHUT_WR)

        answer = peer.hear()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"ended before the length" in answer


@pytest.mark.parametrize(
    ("malformed", "status"),
    [
        ("GET /healthz?q=" + "x" * 5_000 + " HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (f"GET /healthz HTTP/1.1\r\nHost: a\r\napikey {API_KEY}\r\n\r\n", 400),
        (f"GET /healthz HTTP/1.1\r\nHost: a\r\nx{API_KEY}(): 1\r\n\r\n", 400),
        (f"{API_KEY} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n" + "x: y\r\n" * 200 + "\r\n", 431),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n\r\n", 417),
    ],
)
def test_what_is_no_http_is_refused_in_the_one_shape_and_repeated_nowhere(
    house: House, malformed: str, status: int
) -> None:
    with Peer(house) as peer:
        peer.say(malformed)

        answer = peer.hear()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"content-type: application/json" in head.lower()
    shape = json.loads(body)
    assert (shape["status"], list(shape)) == (status, ["status", "error", "response"])
    assert len(shape["response"]["message"]) == 1
    assert API_KEY not in answer.decode() + house.output("web")


@pytest.mark.parametrize(
    "odd",
    ["Content-Length: 3\r\nContent-Length: 4", "Content-Length: 3\r\nTransfer-Encoding: chunked"],
)
def test_nothing_is_smuggled_behind_an_odd_head(house: House, odd: str) -> None:
    with Peer(house) as peer:
        peer.say(f"POST /healthz HTTP/1.1\r\nHost: a\r\n{odd}\r\n\r\n0\r\n\r\n{WHOLE}")

        answers = peer.hear()

    assert answers.count(b"HTTP/1.1 ") == 1
    assert b" 202 " not in answers


def test_a_head_without_an_end_is_refused(house: House) -> None:
    with Peer(house) as peer:
        peer.say("GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(700):
                peer.say(f"X-{number}: {'x' * 100}\r\n")
        answer = peer.hear()

    assert answer.startswith(b"HTTP/1.1 431 ")


def test_trailers_without_an_end_keep_nobody_waiting_and_are_refused(house: House) -> None:
    """No request has a key: its end is found before its key is read."""
    chunked = "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    lines = "".join(f"X-{n}: {'x' * 100}\r\n" for n in range(13))
    alone = healthz(house)
    cpu = house.cpu("web")

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(house)) for _ in range(30)]
        beside = []
        for peer in peers:
            peer.say(chunked)
        for _ in range(50):
            for peer in peers:
                with contextlib.suppress(ConnectionError):
                    peer.say(lines)
            beside.append(healthz(house, 1))
        answers = [peer.hear() for peer in peers]

    print(f"30 connections with 2.1 MB of trailers: {house.cpu('web') - cpu:.2f} s of CPU")
    compare("trailers", alone, max(beside))
    assert all(answer.startswith(b"HTTP/1.1 431 ") for answer in answers)


def healthz(house: House, count: int = 20) -> float:
    """The longest of so many requests, in seconds."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        assert requests.get(f"http://127.0.0.1:{house.port}/healthz", timeout=60).ok
        times.append(time.perf_counter() - began)
    return max(times)


def test_a_thousand_wrong_keys_a_second_keep_nobody_waiting(make_house: MakeHouse) -> None:
    house = make_house(
        workers=0, clock=False, web_concurrency=2, auth_failures_per_minute=30, web_threads=4
    )
    house.client().create("a")
    alone = p99(house)
    stop = threading.Event()
    counts: Counter[int] = Counter()

    def guess() -> None:
        """On ten connections, a hundred a second each. By hand: the guesser is to cost little."""
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(Peer(house)) for _ in range(10)]
            began, sent = time.monotonic(), 0
            while not stop.is_set():
                stop.wait(max(0.0, began + sent / 1_000 - time.monotonic()))
                for peer in peers:
                    sent += 1
                    peer.say(
                        f"GET /webhook/find/a HTTP/1.1\r\nHost: a\r\napikey: wrong-{sent}\r\n\r\n"
                    )
                for peer in peers:
                    head = peer.hear(b"}}")
                    counts.update(int(each) for each in re.findall(rb"HTTP/1\.1 (\d+)", head))

    began = time.monotonic()
    guessers = Threads([guess])
    try:
        wait_for(lambda: counts[429] > 100, 20, "the first to be told to wait")
        beside = p99(house)
    finally:
        stop.set()
        guessers.join()
    rate = counts.total() / (time.monotonic() - began)

    compare(f"{rate:,.0f} wrong keys a second", alone, beside)
    assert counts.keys() == {401, 429}
    assert counts[401] < 1_000
