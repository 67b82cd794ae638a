"""A private PostgreSQL: on a Unix socket, with a cluster of its own, as a user of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlencode

import psycopg

from evoflask.dev.process import Process, wait_for
from evoflask.dev.server import Server
from evoflask.errors import Misconfigured

USER = "evoflask"
"""The superuser of the cluster, who needs no password: the socket's folder is private."""

_USERS = ("postgres", "nobody")
"""Who may run it where we are root, whom PostgreSQL refuses."""

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": 100,
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
    "autovacuum_naptime": "10s",
}


def find_programs() -> Path:
    """The newest folder with `initdb` and `postgres`: Debian keeps each version in its own, and
    none of them on PATH. Raises `Misconfigured` when there is none."""
    folders = [Path(each) for each in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    versions = [each for each in Path("/usr/lib/postgresql").glob("*/bin") if _number(each)]
    for folder in [*sorted(versions, key=_number, reverse=True), *folders]:
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    raise Misconfigured("There is no PostgreSQL here; Debian's package postgresql brings it.")


def _number(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdecimal() else 0


class PostgresServer(Server):
    """A server that is started, killed and started again on the same data and socket.

    `data`: its folder. Where we are root the cluster is in a temporary folder beside it, which
    the user that runs it can reach, and which goes with this object. `durable`: False commits
    without a word to the disk, for tests that do not cut its power. `settings`: lines of
    postgresql.conf. The order of texts is that of a language, as on most servers, and not that
    of bytes.
    """

    name: ClassVar[str] = "postgres"
    patience: ClassVar[float] = 60.0

    def __init__(
        self, data: Path, *, durable: bool = True, settings: dict[str, object] | None = None
    ) -> None:
        super().__init__(data.absolute())
        self._settings = _SETTINGS | (settings or {})
        if not durable:
            off = dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "off")
            self._settings = off | self._settings
        self._home: Path | None = None

    @property
    def home(self) -> Path:
        """The folder of cluster and socket. A socket's path may not be long either."""
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="evoflask-postgres-"))
            weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        return self._home

    @property
    def cluster(self) -> Path:
        """Where the data are."""
        return self.home / "cluster"

    def url(self, database: str = "postgres", user: str = USER) -> str:
        """For `DATABASE_URL`."""
        where = urlencode({"host": str(self.home)}, quote_via=quote)
        return f"postgresql://{quote(user)}@/{quote(database)}?{where}"

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Statements of an administrator, each by itself; the rows of the last one."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as link:
            for statement in statements:
                done = link.execute(statement.encode())
            return done.fetchall() if done.description else []

    def create(self, database: str, template: str = "template0") -> str:
        """A new database; its URL."""
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Away with one, whoever is still connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def program(self, name: str, *arguments: str, timeout: float = 120) -> str:
        """One of PostgreSQL's programs, `pg_dump` for example, as us; what it wrote. Raises
        `RuntimeError` with its words."""
        return _run([str(find_programs() / name), *arguments], timeout)

    def command(self) -> Process:
        programs = find_programs()
        if not self.cluster.exists():
            self._make_cluster(programs)
        lines = [f"{name} = '{value}'" for name, value in self._settings.items()]
        lines.append(f"unix_socket_directories = '{self.home}'")
        (self.cluster / "postgresql.auto.conf").write_text("\n".join(lines) + "\n")
        return Process(
            [*_as_user("KILL"), str(programs / "postgres"), "-D", str(self.cluster)],
            name=self.name,
            env=_environment(),
            cwd=self.home,
            log=self.data / "postgres.log",
        )

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.Error):
            return self.execute("SELECT 1") == [(1,)]
        return False

    def stop(self, grace: float = 20.0) -> None:
        """At once, and in order: who is connected is sent away."""
        if self.process:
            family = self._family()
            self.process.stop(grace, signal.SIGINT)
            _wait_gone(family)

    def kill9(self) -> None:
        """All of its processes: each is a session of its own, which no signal to the group
        reaches, and a new server does not start before the last of them has ended."""
        if self.process:
            self.process.send(signal.SIGSTOP)  # it makes no new ones
            family = self._family()
            self.process.kill9()
            _signal(family, signal.SIGKILL)
            _wait_gone(family)

    def pause(self) -> None:
        if self.process:
            self.process.send(signal.SIGSTOP)
            _signal(self._family(), signal.SIGSTOP)
            wait_for(self._stands_still, 10, f"{self.name} to stand still")

    def resume(self) -> None:
        if self.process:
            _signal(self._family(), signal.SIGCONT)
            self.process.send(signal.SIGCONT)

    def _stands_still(self) -> bool:
        return all(_state(pid)[0] in "TtZX" for pid in self._family())

    def _family(self) -> list[int]:
        """The processes that serve connections, and those that do the rest."""
        if self.process is None or not self.process.alive:
            return []
        parent = self.process.pid
        pids = [int(each.name) for each in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if _state(pid)[1] == parent]

    def _make_cluster(self, programs: Path) -> None:
        if os.geteuid() == 0:
            user = _user()
            os.chown(self.home, user.pw_uid, user.pw_gid)
        order = ["--locale=C", "--locale-provider=icu", "--icu-locale=en-US"]
        words = [*_as_user("clear"), str(programs / "initdb"), "--no-sync", "-E", "UTF8", *order]
        _run([*words, "-A", "trust", "-U", USER, "-D", str(self.cluster)], 120, self.home)


def _user() -> pwd.struct_passwd:
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Misconfigured("PostgreSQL does not run as root, and there is no user postgres or nobody.")


def _as_user(death: str) -> list[str]:
    """Who changes user is no longer told of its parent's death, unless it asks again."""
    if os.geteuid() != 0:
        return []
    user = _user()
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, f"--pdeathsig={death}"]


def _environment() -> dict[str, str]:
    """Nothing of somebody's own server, whose address is in variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _run(words: Sequence[str], timeout: float, cwd: Path | None = None) -> str:
    done = subprocess.run(
        words,
        cwd=cwd,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"{Path(words[0]).name}: {done.stderr or done.stdout}")
    return done.stdout


def _state(pid: int) -> tuple[str, int]:
    """(how it is, its parent); ("X", 0) when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[1])


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait_gone(pids: Sequence[int]) -> None:
    wait_for(lambda: all(_state(pid)[0] in "ZX" for pid in pids), 10, "the end of its processes")
