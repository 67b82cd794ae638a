"""A web process behind a real TLS proxy, and a client that pretends to be a proxy."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from tests.certificates import self_signed
from tests.system.conftest import MakeHouse
from tests.system.house import API_KEY, House
from tests.system.test_slow_clients import Peer

PREFIX = "/evo"


@contextlib.contextmanager
def proxy(house: House, folder: Path) -> Iterator[int]:
    """Run a proxy that ends TLS, cuts its prefix off, and reports both. Yield its port."""
    certificate, key = self_signed(folder, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True) as inside:
            head = b""
            while b"\r\n\r\n" not in head:
                head += inside.recv(65_536)
            length = re.search(rb"content-length: (\d+)", head, re.I)
            whole = head.index(b"\r\n\r\n") + 4 + int(length[1] if length else 0)
            while len(head) < whole:
                head += inside.recv(65_536)
            first, _, rest = head.partition(b"\r\n")
            first = first.replace(f" {PREFIX}/".encode(), b" /", 1)
            ours = f"X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: {PREFIX}\r\n".encode()
            with socket.create_connection(("127.0.0.1", house.port), timeout=60) as outside:
                outside.sendall(first + b"\r\nConnection: close\r\n" + ours + rest)
                while piece := outside.recv(65_536):
                    inside.sendall(piece)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def ask(
    port: int, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    """Send a request through the proxy."""
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
    try:
        connection.request(method, PREFIX + path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode("latin-1")
    finally:
        connection.close()


def test_behind_a_tls_proxy_the_login_is_secure_and_every_link_leads_back(
    make_house: MakeHouse, tmp_path: Path
) -> None:
    house = make_house(workers=0, clock=False, trusted_proxies="127.0.0.0/8")
    with proxy(house, tmp_path) as port:
        status, found, _ = ask(port, "GET", "/rq/")
        assert (status, found["Location"]) == (303, "/evo/rq/login?next=/rq/")

        form = {"Content-Type": "application/x-www-form-urlencoded"}
        key = urlencode({"key": API_KEY})
        status, found, _ = ask(port, "POST", "/rq/login?next=/rq/", key, **form)
        cookies = found.get_all("Set-Cookie") or []
        assert (status, found["Location"]) == (303, "/evo/rq/")
        assert len(cookies) == 3
        assert all("; Secure" in each and "Path=/evo/" in each for each in cookies)

        jar = "; ".join({each.partition(";")[0] for each in cookies})
        for page in ("/rq/", "/docs"):
            status, _, text = ask(port, "GET", page, Cookie=jar)
            links = re.findall(r'(?:href|src)="(/[^"]*)"', text)
            assert status == 200
            assert links
            for link in links:
                assert link.startswith("/evo/"), link
                status, found, _ = ask(port, "GET", link.removeprefix(PREFIX), Cookie=jar)
                if status in (302, 303, 308):  # rq-dashboard's, from one page to another
                    assert urlsplit(found["Location"]).path.startswith("/evo/"), link
                else:
                    assert status == 200, link


def test_a_client_that_pretends_to_be_a_proxy_is_not_obeyed(make_house: MakeHouse) -> None:
    """The client is on loopback, which gunicorn trusts by default."""
    house = make_house(workers=0, clock=False)
    body = urlencode({"key": API_KEY})
    for header in ("SCRIPT_NAME", "Script-Name", "X-Script-Name", "X-Forwarded-Prefix"):
        with Peer(house) as peer:
            peer.say(
                "POST /rq/login HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                "Content-Type: application/x-www-form-urlencoded\r\nX-Forwarded-Proto: https\r\n"
                f"{header}: /rq\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            )
            answer = peer.hear()

        assert answer.startswith(b"HTTP/1.1 303 "), header
        assert b"\r\nLocation: /rq/\r\n" in answer
        assert b"Secure" not in answer
