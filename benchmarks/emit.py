"""What accepting an event costs the web process: one by one, and in batches of 100."""

from __future__ import annotations

import http.client
import os
import sys
import time
from pathlib import Path

import orjson

from benchmarks.scene import cpu
from benchmarks.stage import CHATS, Cost, data, stage
from evoflask.dev.process import Process, free_port, wait_for


class Client:
    """One kept connection; bodies are made before the clock starts."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(self, path: str, body: bytes) -> int:
        headers = {"apikey": "bench", "Content-Type": "application/json"}
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def alive(self) -> bool:
        try:
            self._connection.request("GET", "/healthz")
            self._connection.getresponse().read()
        except OSError:
            self._connection.close()
            return False
        return True


def run(single: int, batched: int, database: str = "sqlite") -> list[Cost]:
    """A web process of its own, one instance with one webhook, nobody draining."""
    root = Path(__file__).resolve().parents[1]
    with stage(database) as here:
        tenant = here.tenants(1, "webhook", here.webhook)[0]
        port = free_port()
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "AUTHENTICATION_API_KEY": "bench",
            "ENCRYPTION_KEY": ",".join(here.settings.encryption_key),
            "REDIS_URL": here.settings.redis_url,
            "DATABASE_URL": here.settings.database_url,
            "EVOFLASK_HOME": str(here.settings.home),
        }
        command = ["gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
        log = here.settings.home / "web.log"
        with Process(command, env=env, cwd=root, log=log) as process:
            client = Client(port)
            wait_for(client.alive, timeout=20)
            path = f"/event/emit/{tenant.outbox}"
            return [
                _run(process.pid, client, path, "emit, one by one", single, 1),
                _run(process.pid, client, path, "emit, batches of 100", batched, 100),
            ]


def _run(pid: int, client: Client, path: str, name: str, events: int, batch: int) -> Cost:
    messages = [
        b'{"event":"messages.upsert","data":%b,"sender":"1@s.whatsapp.net"}' % data(n)
        for n in range(CHATS)
    ]
    body = (
        messages[0]
        if batch == 1
        else b"[" + b",".join(messages[n % CHATS] for n in range(batch)) + b"]"
    )
    for _ in range(20):
        assert client.post(path, body) == 202, orjson.loads(body)
    used, wall = cpu([pid]), time.perf_counter()
    for n in range(events // batch):
        assert client.post(path, messages[n % CHATS] if batch == 1 else body) == 202
    return Cost(name, events, time.perf_counter() - wall, cpu([pid]) - used)
