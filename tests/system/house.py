"""Everything of a house of one's own: Redis, database, web, workers and clock, as processes.

    with House(folder, web=2, workers=2, hold_seconds=3) as house:
        client = house.client()
        client.create("a")
        client.set_webhook("a", receiver.url("/ok"))
        client.emit("a", data={"n": 1})
        house.wait_quiet()

Processes are named by kind and number: `house.kill9("worker", 1)`, `house.start("worker", 1)`.
Each has a process group of its own and ends with the test, however that ends. They are the
Procfile's commands; only their entry is `tests/system/faulty.py`, where a test asks for a
fault at an exact place (`faults=True`, `house.arm(place)`).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
import requests

from evoflask.dev.process import Process, free_port, wait_for
from evoflask.dev.redis_server import RedisServer
from evoflask.dev.supervisor import read_procfile
from evoflask.outbox import LaneView, Outbox, connect, verbs
from tests.conftest import ENCRYPTION_KEY
from tests.system.store import Sqlite, Store, usual

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "test-key-of-the-house"
LOOPBACK = "127.0.0.0/8,::1/128"
STARTED = {"web": "Booting worker", "worker": "worker started", "clock": "clock started"}
"""What a process writes when it has begun."""
Name = tuple[str, int]
_tables: list[bytes] = []
"""SQLite's file as `release` left it: an interpreter's start is a second of processor time."""


class House:
    """A context manager. Other keyword arguments are settings: `retry_schedule="0.2,0.2"`.

    `web`, `workers`, `clocks`: how many processes; the web processes share one port.
    `maxmemory` and `fsync` are Redis'. `faults`: the processes obey `arm`. `redis_server`: not
    started yet, as `store`: the database, else the one that the variable DATABASE names.
    `roots`: checkouts that processes of a kind run from, where that is not this one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        web: int = 1,
        workers: int = 1,
        clock: bool = True,
        clocks: int = 1,
        maxmemory: str = "1gb",
        fsync: str = "everysec",
        faults: bool = False,
        redis_server: RedisServer | None = None,
        store: Store | None = None,
        roots: Mapping[str, Path] | None = None,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.redis = redis_server or RedisServer(
            folder / "redis", appendonly=True, fsync=fsync, maxmemory=maxmemory
        )
        self.port = free_port()
        self.store = store or usual(folder)
        self.roots: dict[str, Path] = dict(roots or {})
        self._faults = faults
        self._procfile = read_procfile(ROOT / "Procfile")
        self._wanted = [("web", n) for n in range(web)]
        self._wanted += [("worker", n) for n in range(workers)] + [
            ("clock", n) for n in range(clocks) if clock
        ]
        self._processes: dict[Name, Process] = {}
        self._logs: list[Path] = []
        self._outbox: Outbox | None = None
        defaults: dict[str, object] = {
            "hold_seconds": 3,
            "retry_jitter": 0,
            "web_concurrency": 1,
            "auth_failures_per_minute": 100_000,
            "log_level": "info",
        }
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "AUTHENTICATION_API_KEY": API_KEY,
            "ENCRYPTION_KEY": ENCRYPTION_KEY,
            "EVOFLASK_HOME": str(folder),
            "REDIS_URL": self.redis.url,
            "DATABASE_URL": self.store.url,
            "PORT": str(self.port),
            "WEBHOOK_ALLOW_NETWORKS": LOOPBACK,
            **{name.upper(): str(value) for name, value in (defaults | settings).items()},
        }

    # -- life --------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.redis.start()
            self.store.start()
            self._make_tables()
            for name in self._wanted:
                self._launch(name)
            for name in self._wanted:
                self.wait_started(*name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills everything at once."""
        for process in self._processes.values():
            process.kill9()
        self.redis.kill9()
        self.store.close()
        if self._outbox is not None:
            self._outbox.redis.close()

    def answers(self) -> bool:
        """Whether something speaks HTTP on the port."""
        with contextlib.suppress(requests.RequestException):
            url = f"http://127.0.0.1:{self.port}/instance/fetchInstances"
            return requests.get(url, timeout=25).status_code == 401
        return False

    # -- processes ---------------------------------------------------------------------------

    def process(self, kind: str, n: int = 0) -> Process:
        """A process, which may have ended."""
        return self._processes[kind, n]

    def start(self, kind: str, n: int = 0) -> Process:
        """Starts one, or starts it again, and waits until it has begun."""
        process = self._launch((kind, n))
        self.wait_started(kind, n)
        return process

    def wait_started(self, kind: str, n: int = 0) -> None:
        """Until one that was started has begun."""
        process = self._processes[kind, n]
        wait_for(
            lambda: STARTED[kind] in process.output() or not process.alive,
            30,
            f"the start of {kind}",
        )
        assert process.alive, process.output()
        if kind == "web":
            # gunicorn tells of its worker before that listens.
            wait_for(self.answers, 30, "the web process to answer")

    def kill9(self, kind: str, n: int = 0) -> None:
        """Kills it and its children, at once."""
        self.process(kind, n).kill9()

    def stop(self, kind: str, n: int = 0, grace: float = 30.0) -> int | None:
        """SIGTERM, then as a platform does after `grace` seconds; the exit status."""
        return self.process(kind, n).stop(grace)

    def restart(self, kind: str, n: int = 0) -> Process:
        """Starts it again, after a SIGTERM where it still runs."""
        self.stop(kind, n)
        return self.start(kind, n)

    def limit_files(self, kind: str, limit: int) -> None:
        """Start processes of this kind with so many open files, from now on."""
        self._procfile[kind] = ["prlimit", f"--nofile={limit}:{limit}", *self._procfile[kind]]

    def freeze(self, kind: str, n: int = 0) -> None:
        """SIGSTOP."""
        self.process(kind, n).send(signal.SIGSTOP)

    def thaw(self, kind: str, n: int = 0) -> None:
        """SIGCONT."""
        self.process(kind, n).send(signal.SIGCONT)

    def revive(self) -> list[Name]:
        """Starts again whatever has ended, as a supervisor would; their names."""
        ended = [name for name, process in self._processes.items() if not process.alive]
        for name in ended:
            self._launch(name)
        return ended

    def command(self, kind: str, *arguments: str) -> Process:
        """A command of the Procfile, or of PATH, with the house's settings."""
        command = [*self._procfile.get(kind, [kind]), *arguments]
        root = self.roots.get(kind, ROOT)
        return Process(command, env=self.env, cwd=root, log=self._log(kind)).start()

    def flask(self, *arguments: str, timeout: float = 60) -> tuple[int, str]:
        """`flask --app app …`: (exit status, output)."""
        process = self.command("flask", "--app", "app", *arguments)
        try:
            return process.wait(timeout), process.output()
        finally:
            process.kill9()

    def rss(self, kind: str, n: int = 0, *, peak: bool = False) -> int:
        """Bytes of memory that the process has, or had at most."""
        field = "VmHWM:" if peak else "VmRSS:"
        status = Path(f"/proc/{self.process(kind, n).pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    def cpu(self, kind: str, n: int = 0) -> float:
        """Seconds of CPU that the process and its children have used."""
        total = 0.0
        pids = [self.process(kind, n).pid]
        for pid in pids:
            tasks = Path(f"/proc/{pid}/task")
            for children in tasks.glob("*/children"):
                pids += map(int, children.read_text().split())
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

    def output(self, kind: str) -> str:
        """What all processes of a kind wrote, those before a restart too."""
        logs = [log for log in self._logs if log.name.startswith(kind)]
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())

    def logs(self) -> list[str]:
        """What each process wrote."""
        return [log.read_text(errors="replace") for log in self._logs if log.exists()]

    def tail(self, lines: int = 40) -> str:
        """The ends of all logs, for a person who looks at a failed test."""
        parts = []
        for log in self._logs:
            if log.exists() and (text := log.read_text(errors="replace")):
                parts.append(f"--- {log.name}\n" + "\n".join(text.splitlines()[-lines:]))
        return "\n".join(parts)

    # -- faults ------------------------------------------------------------------------------

    def arm(self, place: str) -> None:
        """The next process that passes the place (see `faulty.py`) kills itself there."""
        assert self._faults, "the house was started without faults"
        (self.folder / f"fault-{place}").touch()

    def armed(self, place: str) -> bool:
        """Whether nobody has passed the place yet."""
        return (self.folder / f"fault-{place}").exists()

    # -- what is in it -----------------------------------------------------------------------

    def client(self) -> Client:
        """A client with the global key; one a thread."""
        return Client(f"http://127.0.0.1:{self.port}", API_KEY)

    @property
    def outbox(self) -> Outbox:
        """The house's outbox, looked at from outside."""
        if self._outbox is None:
            self._outbox = Outbox(connect(self.redis.url, timeout=10))
        return self._outbox

    @property
    def raw(self) -> redis.Redis:
        """A client of Redis itself."""
        return self.outbox.redis

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        return self.store.query(sql, *values)

    def lanes(self) -> list[LaneView]:
        """Every lane that has a row, as Redis sees it."""
        rows = self.query(
            "SELECT i.partition, s.lane FROM subscription s JOIN instance i ON i.id = s.instance_id"
            " WHERE i.deleted_at IS NULL AND s.sink != 'websocket'"
        )
        views: list[LaneView] = []
        for partition in sorted({row[0] for row in rows}):
            lanes = [lane for p, lane in rows if p == partition]
            for at in range(0, len(lanes), 500):
                views += self.outbox.run(verbs.look(partition, lanes[at : at + 500]))
        return views

    def lane(self, instance: str, name: str = "webhook") -> LaneView:
        """One lane."""
        ((partition, lane),) = self.query(
            "SELECT i.partition, s.lane FROM subscription s JOIN instance i ON i.id = s.instance_id"
            " WHERE i.deleted_at IS NULL AND i.name = ? AND s.name = ?",
            instance,
            name,
        )
        return self.outbox.run(verbs.look(partition, [lane]))[0]

    def unsettled(self) -> int:
        """Deliveries that did not end yet."""
        return sum(view.waiting + view.dying for view in self.lanes())

    def wait_quiet(self, timeout: float = 60.0) -> None:
        """Returns when every delivery ended. Raises `TimeoutError`."""
        wait_for(lambda: not self.unsettled(), timeout, "the lanes to be empty", 0.1)

    def off(self) -> dict[str, int]:
        """Lanes whose books do not balance, and by how much."""
        return {view.lane: view.off for view in self.lanes() if view.off}

    def audit(self, *, deep: bool = True) -> tuple[int, str]:
        """`flask audit`: (exit status, what it says)."""
        return self.flask("audit", *(["--deep"] if deep else []), timeout=120)

    # -- inside ------------------------------------------------------------------------------

    def _make_tables(self) -> None:
        """Run the Procfile's `release`. A later house with SQLite gets a copy of what it made."""
        file = self.store.file if isinstance(self.store, Sqlite) else None
        if "release" in self.roots:
            file = None
        if file and _tables:
            file.write_bytes(_tables[0])
            return
        release = self.command("release")
        assert release.wait(30) == 0, release.output()
        if file:
            with self.store.connect() as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            _tables.append(file.read_bytes())

    def _launch(self, name: Name) -> Process:
        kind, _ = name
        words = self._procfile[kind]
        if self._faults:
            entry = str(Path(__file__).with_name("faulty.py"))
            words = [sys.executable, entry, str(self.folder), *words]
        # A log for each start, so that what it says is about this start.
        root = self.roots.get(kind, ROOT)
        process = Process(words, name=kind, env=self.env, cwd=root, log=self._log(kind))
        if name in self._processes:
            self._processes[name].kill9()
        self._processes[name] = process.start()
        return process

    def _log(self, kind: str) -> Path:
        log = self.folder / f"{kind}.{len(self._logs)}.log"
        self._logs.append(log)
        return log


def message(n: int, chat: str = "1", **more: object) -> dict[str, Any]:
    """A message's `data`, of a conversation."""
    return {"key": {"remoteJid": f"{chat}@s.whatsapp.net"}, "n": n, **more}


class Client:
    """A producer and operator. Not for two threads at once."""

    def __init__(self, base: str, key: str) -> None:
        self.base = base
        self.session = requests.Session()
        self.session.headers["apikey"] = key

    def call(
        self, method: str, path: str, body: object = None, *, timeout: float = 30
    ) -> requests.Response:
        """A request with a JSON body."""
        return self.session.request(method, self.base + path, json=body, timeout=timeout)

    def good(self, method: str, path: str, body: object = None) -> Any:
        """The answer of a request that must succeed."""
        answer = self.call(method, path, body)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def create(self, instance: str, **fields: object) -> Any:
        """A new instance."""
        return self.good("POST", "/instance/create", {"instanceName": instance, **fields})

    def set_webhook(self, instance: str, url: str, **fields: object) -> Any:
        """Points the instance's webhook somewhere."""
        body = {"enabled": True, "url": url, **fields}
        return self.good("POST", f"/webhook/set/{instance}", {"webhook": body})

    def subscribe(self, instance: str, name: str, url: str, **fields: object) -> Any:
        """A named webhook subscription; `fields` as `concurrency`, `retry`, `onFailure`."""
        body = {"name": name, "sink": "webhook", "enabled": True, "url": url, **fields}
        return self.good("POST", f"/subscription/{instance}", body)

    def change(self, instance: str, name: str, **fields: object) -> Any:
        """Changes what is named of a subscription."""
        return self.good("PUT", f"/subscription/{instance}/{name}", fields)

    def emit(
        self, instance: str, event: str = "MESSAGES_UPSERT", *, data: object = None, **more: object
    ) -> requests.Response:
        """One event."""
        body = {"event": event, "data": {} if data is None else data, **more}
        return self.call("POST", f"/event/emit/{instance}", body)

    def emit_many(self, instance: str, events: Sequence[Mapping[str, Any]]) -> requests.Response:
        """An array."""
        return self.call("POST", f"/event/emit/{instance}", list(events))

    def ndjson(self, instance: str, events: Iterable[Mapping[str, Any]]) -> requests.Response:
        """Lines, as a stream of chunks."""
        lines = (json.dumps(event).encode() + b"\n" for event in events)
        headers = {"Content-Type": "application/x-ndjson"}
        url = f"{self.base}/event/emit/{instance}"
        return self.session.post(url, data=lines, headers=headers, timeout=60)

    def insist(
        self,
        path: str,
        body: object,
        *,
        until: Callable[[], bool] = lambda: False,
        timeout: float = 60.0,
        note: Callable[[object], None] = lambda _: None,
    ) -> requests.Response:
        """As a producer does: the same request again and again until it is answered 2xx.

        `note` gets each answer or error that was none. Raises `TimeoutError`.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end and not until():
            try:
                answer = self.call("POST", path, body, timeout=15)
            except requests.RequestException as error:
                note(error)
            else:
                if answer.ok:
                    return answer
                note(answer)
                assert answer.status_code in (502, 503), answer.text
            time.sleep(random.uniform(0.05, 0.2))
        raise TimeoutError(f"POST {path} was not answered within {timeout:g} s")


class Threads:
    """Work beside the test; an error in it fails the test when it is joined."""

    def __init__(self, work: Sequence[Callable[[], object]]) -> None:
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(each,), daemon=True) for each in work
        ]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self, timeout: float = 120.0) -> None:
        """Waits for all of it. Raises the first error, or `TimeoutError`."""
        wait_for(lambda: self._errors or not self.running, timeout, "the threads to end", 0.05)
        if self._errors:
            raise self._errors[0]

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)
