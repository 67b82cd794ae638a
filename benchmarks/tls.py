"""Measure the cost of a connection for each subscription, with many tenants on one TLS origin.

    python -m benchmarks.tls [tenants [repeats]]

Each tenant gets one event in each round. `shared` sends the events over connections that all
tenants share. The other rounds give each tenant its own connection: for its first event, for a
later one that resumes the TLS session, and for a later one that does not. All rounds run in this
order in one process against one server, a process of its own. Prints the medians of CPU and their
ratio to `shared`.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import multiprocessing
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from benchmarks.stage import data
from evoflask.net import pool
from evoflask.settings import Settings
from evoflask.sinks.base import Delivery, Outcome, Target
from evoflask.sinks.webhook import WebhookSink

TENANTS = 10_000
FLIGHTS = 64
"""Requests under way at once."""
REPEATS = 3
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ROUNDS = ("shared", "own, first event", "own, resumed", "own, not resumed")


class _Server(asyncio.Protocol):
    def __init__(self, seen: Counter[str]) -> None:
        self._seen = seen
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        reused = transport.get_extra_info("ssl_object").session_reused
        self._seen["resumed" if reused else "full"] += 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0]):
            self._data = b""
            self._transport.write(ANSWER)


def _serve(pipe: Connection, folder: Path) -> None:
    """Serve, and answer each message of the pipe with the handshakes since the last one."""

    async def run() -> None:
        seen: Counter[str] = Counter()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "leaf.pem")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Server(seen), "127.0.0.1", 0, ssl=context, backlog=4_096
        )
        pipe.send(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(pipe.recv):
            pipe.send(dict(seen))
            seen.clear()

    asyncio.run(run())


def certificates(folder: Path) -> Path:
    """Write an authority and a leaf of RSA with 2,048 bits; return the authority's file."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("bench CA", "leaf")]
    for n, file in enumerate(("ca.pem", "leaf.pem")):
        made = (
            x509.CertificateBuilder()
            .subject_name(names[n])
            .issuer_name(names[0])
            .public_key(keys[n].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=n == 0, path_length=None), critical=True)
        )
        if n:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            made = made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        signed = made.sign(keys[0], hashes.SHA256())
        private = keys[n].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / file).write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return folder / "ca.pem"


def _delivery(sid: str, url: str, n: int) -> Delivery:
    target = Target(
        sid=sid,
        version=1,
        instance="bench",
        sink="webhook",
        format="standard",
        timeout=60.0,
        settings={"url": url},
    )
    return Delivery(target, f"e-{n}", "MESSAGES_UPSERT", data(n), time.time(), 0, "k")


async def _round(sink: WebhookSink, deliveries: Sequence[Delivery]) -> None:
    left = iter(deliveries)

    async def work() -> None:
        for one in left:
            [attempt] = await sink.deliver([one])
            assert attempt.outcome is Outcome.DELIVERED, attempt

    await asyncio.gather(*(work() for _ in range(FLIGHTS)))


async def _measure(
    tenants: int, repeats: int, port: int, ca: Path, server: psutil.Process, pipe: Any
) -> None:
    url = f"https://127.0.0.1:{port}/"
    base = Settings(webhook_allow_networks=(ip_network("127.0.0.0/8"),))
    context = ssl.create_default_context(cafile=str(ca))
    found: dict[str, list[tuple[float, float, float]]] = {}
    shakes: dict[str, dict[str, int]] = {}
    for turn in range(repeats):
        sink = WebhookSink(replace(base, webhook_connect_timeout=60.0), ssl_context=context)
        for name in ROUNDS:
            shared = name == "shared"
            sids = ["shared" if shared else f"{turn}-{n}" for n in range(tenants)]
            if name == "own, not resumed":
                assert sink._line is not None
                sink._line._wires._sessions = pool.Sessions()
            await asyncio.sleep(pool.KEEPALIVE_SECONDS * 1.5)  # until no connection is left
            pipe.send(True)
            pipe.recv()
            before = sum(server.cpu_times()[:2])
            wall, cpu = time.perf_counter(), time.process_time()
            await _round(sink, [_delivery(sid, url, n) for n, sid in enumerate(sids)])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            theirs = sum(server.cpu_times()[:2]) - before
            pipe.send(True)
            shakes[name] = pipe.recv()
            found.setdefault(name, []).append((wall, cpu, theirs))
            print(f"    {turn + 1}: {name}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)
        await sink.close()
    _report(tenants, found, shakes)


def _report(
    tenants: int,
    found: dict[str, list[tuple[float, float, float]]],
    shakes: dict[str, dict[str, int]],
) -> None:
    print("\n| connections | CPU us an event | times shared | server's CPU us | events/s | full, "
          "resumed handshakes |\n| --- | --- | --- | --- | --- | --- |")  # fmt: skip
    least = statistics.median(cpu for _, cpu, _ in found["shared"])
    for name, values in found.items():
        wall, cpu, theirs = (statistics.median(each) for each in zip(*values, strict=True))
        counts = f"{shakes[name].get('full', 0):,}, {shakes[name].get('resumed', 0):,}"
        print(f"| {name} | {cpu / tenants * 1e6:,.0f} | {cpu / least:.2f} | "
              f"{theirs / tenants * 1e6:,.0f} | {tenants / wall:,.0f} | {counts} |")  # fmt: skip
    memory = psutil.Process().memory_info().rss / 2**20
    turns = len(found["shared"])
    print(f"\n{tenants:,} tenants, {FLIGHTS} requests at a time, medians of {turns}; "
          f"{memory:,.0f} MiB of memory at the end.")  # fmt: skip


def main() -> None:
    """Measure and print."""
    tenants = int(sys.argv[1]) if len(sys.argv) > 1 else TENANTS
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else REPEATS
    with tempfile.TemporaryDirectory() as name:
        ca = certificates(Path(name))
        ours, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=_serve, args=(theirs, Path(name)), daemon=True)
        process.start()
        port = ours.recv()
        asyncio.run(_measure(tenants, repeats, port, ca, psutil.Process(process.pid), ours))
        process.terminate()


if __name__ == "__main__":
    main()
