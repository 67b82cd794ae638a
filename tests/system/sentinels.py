"""A master with two replicas and three Sentinels, as processes of the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from evoflask import redislink
from evoflask.dev.process import Process, free_port, wait_for
from evoflask.dev.redis_server import RedisServer, find_binary

Certificate = tuple[Path, Path]
"""It and its key."""
SERVICE = "evoflask"
DOWN = 1_000
"""Milliseconds without an answer after which a Sentinel takes a server for gone."""
WATCHED = """\
{listen}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {master} 2
sentinel down-after-milliseconds {service} {down}
sentinel failover-timeout {service} 3000
"""


def tls(certificate: Certificate, port: int) -> list[tuple[str, str]]:
    """What a server's or a Sentinel's configuration says of TLS."""
    pem, key = map(str, certificate)
    files = [("tls-cert-file", pem), ("tls-key-file", key), ("tls-ca-cert-file", pem)]
    more = [("tls-auth-clients", "no"), ("tls-replication", "yes")]
    return [("port", "0"), ("tls-port", str(port)), *files, *more]


def trusting(certificate: Certificate) -> str:
    """What a URL says of it."""
    return f"ssl_ca_certs={quote(str(certificate[0]), safe='')}"


class TlsRedis(RedisServer):
    """By TLS alone, also to its replicas."""

    def __init__(
        self, data: Path, certificate: Certificate, *, options: Sequence[str] = ()
    ) -> None:
        self._certificate = certificate
        super().__init__(data, appendonly=True, options=options)

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0?{trusting(self._certificate)}"

    def client(self) -> redis.Redis:
        return redislink.connect(self.url, timeout=10, connect_timeout=2, connections=4)

    def _address(self) -> list[str]:
        lines = tls(self._certificate, self.port)
        words = [(f"--{name}", value) for name, value in lines]
        return ["--bind", "127.0.0.1", *(word for pair in words for word in pair)]


class Sentinels:
    """A context manager, and what a `House` takes for its Redis. `servers[0]` is the first master;
    each takes writes only while a replica is there that was heard of within ten seconds.
    `certificate`: by TLS, all of it."""

    def __init__(self, folder: Path, certificate: Certificate | None = None) -> None:
        self._folder = folder
        self._certificate = certificate
        options = ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "10"]
        options += ["--repl-diskless-sync-delay", "0"]
        first = self._server(0, options)
        # Said at their start, so that one which was killed comes back as a replica.
        options += ["--replicaof", "127.0.0.1", str(first.port)]
        self.servers = [first, *(self._server(n, options) for n in (1, 2))]
        self._ports = [free_port() for _ in range(3)]
        self._watching: list[Process] = []

    @property
    def url(self) -> str:
        """By the Sentinels."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        if self._certificate:
            return f"rediss+sentinel://{hosts}/{SERVICE}?{trusting(self._certificate)}"
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def start(self) -> Sentinels:
        """Returns when a failover could happen."""
        for server in self.servers:
            server.start()
        for n, port in enumerate(self._ports):
            folder = self._folder / f"sentinel{n}"
            folder.mkdir()
            config = folder / "sentinel.conf"
            config.write_text(
                WATCHED.format(
                    listen="\n".join(f"{name} {value}" for name, value in self._listen(port)),
                    folder=folder,
                    service=SERVICE,
                    master=self.servers[0].port,
                    down=DOWN,
                )
            )
            command = [str(find_binary()), str(config), "--sentinel"]
            process = Process(command, name=f"sentinel{n}", log=folder / "log")
            self._watching.append(process.start())
        # One that was kept from its work for two seconds trusts its clock no more, for thirty.
        agree = "the Sentinels to agree"
        wait_for(lambda: all(map(self._knows_all, self._ports)), 90, agree, interval=0.2)
        return self

    def master(self) -> RedisServer:
        """Whom a Sentinel names now."""
        with self.sentinel() as client:
            _, port = client.sentinel_get_master_addr_by_name(SERVICE)
        return next(server for server in self.servers if server.port == port)

    def sentinel(self) -> redis.Redis:
        """A client of the first Sentinel."""
        return self._asked(self._ports[0])

    def kill9(self) -> None:
        """All of it."""
        for process in self._watching:
            process.kill9()
        for server in self.servers:
            server.kill9()

    def _server(self, n: int, options: Sequence[str]) -> RedisServer:
        folder = self._folder / f"redis{n}"
        if self._certificate:
            return TlsRedis(folder, self._certificate, options=options)
        return RedisServer(folder, appendonly=True, options=options)

    def _listen(self, port: int) -> list[tuple[str, str]]:
        return tls(self._certificate, port) if self._certificate else [("port", str(port))]

    def _asked(self, port: int) -> redis.Redis:
        if self._certificate:
            pem = str(self._certificate[0])
            return redis.Redis("127.0.0.1", port, socket_timeout=25, ssl=True, ssl_ca_certs=pem)
        return redis.Redis("127.0.0.1", port, socket_timeout=25)

    def _knows_all(self, port: int) -> bool:
        try:
            with self._asked(port) as client:
                found: Any = client.sentinel_master(SERVICE)
                replicas = client.sentinel_slaves(SERVICE)
        except redis.RedisError:
            return False
        healthy = [each for each in replicas if each["flags"] == "slave"]
        return found["num-other-sentinels"] == 2 and len(healthy) == 2
