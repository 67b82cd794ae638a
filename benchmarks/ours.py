"""evoflask as its Procfile starts it: web, workers, a clock, with the settings it comes with."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from benchmarks.mix import Event
from benchmarks.scene import ROOT, Scene, program, python, started
from benchmarks.stage import Stage, Tenant
from evoflask.dev.process import Process, free_port, wait_for
from evoflask.settings import Settings
from evoflask.vault import new_key

KEY = "bench-key-0123456789"


@dataclass(frozen=True, slots=True)
class Sent:
    """What a load saw, in unix seconds of each request."""

    seconds: float
    cpu: float
    failed: int
    due: list[float]
    sent: list[float]
    answered: list[float]


class House:
    """Its processes on a scene's Redis. `tenants`: by the scene's names."""

    def __init__(
        self,
        scene: Scene,
        *,
        web: int = 1,
        sink: str = "webhook",
        subscription: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        home = scene.folder / "home"
        home.mkdir()
        self.scene = scene
        self.settings = replace(
            Settings(),
            home=home,
            redis_url=scene.redis.url,
            rq_redis_url=scene.redis.url,
            database_url=f"sqlite:///{home}/rows.db",
            api_key=KEY,
            encryption_key=(new_key(),),
            webhook_allow_networks=(ip_network("127.0.0.0/8"),),
            **changes,
        )
        self.port = free_port()
        self.env = {
            **os.environ,
            "PORT": str(self.port),
            "WEB_CONCURRENCY": str(web),
            "AUTHENTICATION_API_KEY": KEY,
            "ENCRYPTION_KEY": ",".join(self.settings.encryption_key),
            "REDIS_URL": scene.redis.url,
            "RQ_REDIS_URL": scene.redis.url,
            "DATABASE_URL": self.settings.database_url,
            "EVOFLASK_HOME": str(home),
            "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            **{name.upper(): str(value) for name, value in changes.items()},
        }
        self.stage = Stage(self.settings, scene.receiver)
        settings = subscription or self.stage.webhook
        made = self.stage.tenants(len(scene.tenants), sink, settings)
        self.tenants: dict[str, Tenant] = dict(zip(scene.tenants, made, strict=True))
        self.running: list[Process] = []

    def start(self, *, web: bool = True, workers: bool = True) -> list[Process]:
        """What is asked for and the clock, once each says that it is ready."""
        begun = []
        if web:
            gunicorn = [program("gunicorn"), "-c", "gunicorn.conf.py", "app:create_app()"]
            begun.append((started(self.scene, "web", gunicorn, **self.env), "Booting worker"))
        for n in range(self.scene.processes if workers else 0):
            worker = started(self.scene, f"worker{n}", python("workers"), **self.env)
            begun.append((worker, "worker started"))
        begun.append((started(self.scene, "clock", python("workers.clock"), **self.env), ""))
        self.running += [process for process, _ in begun]
        for process, says in begun:
            wait_for(lambda p=process, s=says: s in p.output(), 60, f"{process.name}: {says}")  # type: ignore[misc]
        if web:
            wait_for(self.answers, 60, "the web process's answer")
        return self.running

    def stop(self) -> None:
        """All of it, at once."""
        for process in self.running:
            process.kill9()
        self.running.clear()

    def answers(self) -> bool:
        """Whether its web process does."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.suppress(OSError):
            client.request("GET", "/healthz")
            return client.getresponse().status == 200
        return False

    def route(self, instance: str) -> str:
        """Where an instance's events are handed in."""
        return f"/event/emit/{self.tenants[instance].outbox}"

    def point(self, instance: str, url: str) -> None:
        """Sends an instance's events elsewhere from now on, as its owner would."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        body = {"webhook": {"enabled": True, "url": url}}
        path = f"/event/set/{self.tenants[instance].outbox}"
        headers = {"apikey": KEY, "Content-Type": "application/json"}
        client.request("POST", path, json.dumps(body), headers)
        answer = client.getresponse()
        assert answer.status in (200, 201), answer.read()

    def load(
        self, wanted: Sequence[Event], *, connections: int, batch: int = 1, rate: float = 0.0
    ) -> Sent:
        """Hands them in by HTTP, one by one or so many of an instance at a time."""
        return load(self.scene, self.port, self.requests(wanted, batch), connections, rate)

    def requests(self, wanted: Sequence[Event], batch: int) -> list[dict[str, Any]]:
        """As `benchmarks.load` reads them."""
        plain = {"apikey": KEY, "Content-Type": "application/json"}
        if batch == 1:
            return [
                {"path": self.route(e.instance), "body": e.emit.decode(), "headers": plain}
                for e in wanted
            ]
        homes: dict[str, list[Event]] = {}
        for event in wanted:
            homes.setdefault(event.instance, []).append(event)
        several = {**plain, "Content-Type": "application/x-ndjson"}
        return [
            {
                "path": self.route(home),
                "body": "\n".join(e.emit.decode() for e in some[at : at + batch]),
                "headers": several,
            }
            for home, some in homes.items()
            for at in range(0, len(some), batch)
        ]


def load(
    scene: Scene, port: int, requests: Sequence[dict[str, Any]], connections: int, rate: float
) -> Sent:
    """By `benchmarks.load`, in a process of its own. Raises where one was refused."""
    file = scene.folder / "requests"
    file.write_text("".join(json.dumps(one) + "\n" for one in requests))
    command = python("benchmarks.load", str(file), str(port), str(connections), str(rate))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 900)
            assert ready, "the load did not end"
            sent = Sent(**json.loads(process.stdout.readline()))
        finally:
            process.kill()
    assert not sent.failed, f"{sent.failed} of {len(requests)} were refused"
    return sent


@contextlib.contextmanager
def house(scene: Scene, **how: Any) -> Iterator[House]:
    """One whose processes end with it."""
    made = House(scene, **how)
    try:
        yield made
    finally:
        made.stop()
