"""A private nats-server: loopback, a free port, a folder of its own."""

from __future__ import annotations

import json
import socket
import urllib.request
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from evoflask.dev.process import Process, free_port
from evoflask.dev.server import Server, find_program


class NatsServer(Server):
    """JetStream on disk unless `jetstream` is false.

    `auth`: user and password that a client must show; None: nobody asks. `max_payload`: bytes
    of one message; None: the server's own, 1 MB. `port`: None: a free one, kept over restarts.
    `monitor`: answers `connections`, on another port of loopback. `more`: lines of the
    server's own configuration.
    """

    name: ClassVar[str] = "nats"

    def __init__(
        self,
        data: Path,
        *,
        jetstream: bool = True,
        auth: tuple[str, str] | None = None,
        max_payload: int | None = None,
        port: int | None = None,
        monitor: bool = False,
        more: str = "",
    ) -> None:
        super().__init__(data)
        self.port = port or free_port()
        self._auth = auth
        self._monitor = free_port() if monitor else 0
        self._jetstream = jetstream
        self._max_payload = max_payload
        self._more = more

    @property
    def url(self) -> str:
        """For `NATS_URI`, credentials included."""
        user = ":".join(quote(each, safe="") for each in self._auth or ())
        return f"nats://{user}@127.0.0.1:{self.port}" if user else f"nats://127.0.0.1:{self.port}"

    def command(self) -> Process:
        """Writes the configuration; it may hold a password, so nobody else may read it."""
        binary = find_program("nats-server", "Debian's nats-server", Path("/usr/sbin"))
        config = self.data / "nats.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join((*self._lines(), self._more, "")))
        log = self.data / "nats.log"
        return Process([str(binary), "-c", str(config)], name=self.name, log=log)

    def answers(self) -> bool:
        """It greets every connection with what it is."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.settimeout(1)
            return connection.recv(5) == b"INFO "

    def connections(self, name: str) -> int:
        """How many clients of that name are connected; needs `monitor`. Raises `OSError`."""
        url = f"http://127.0.0.1:{self._monitor}/connz?limit=10000"
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return sum(each.get("name") == name for each in found["connections"])

    def _lines(self) -> list[str]:
        lines = [f"listen: 127.0.0.1:{self.port}"]
        if self._monitor:
            lines.append(f"http: 127.0.0.1:{self._monitor}")
        if self._max_payload is not None:
            lines.append(f"max_payload: {self._max_payload}")
        if self._jetstream:
            store = _quoted(str(self.data.absolute() / "store"))
            lines.append(f"jetstream {{ store_dir: {store} }}")
        if self._auth is not None:
            user, password = map(_quoted, self._auth)
            lines.append(f"authorization {{ user: {user}, password: {password} }}")
        return lines


def _quoted(text: str) -> str:
    """As the server's configuration has strings: JSON's, but without `\\u`."""
    return json.dumps(text, ensure_ascii=False)
