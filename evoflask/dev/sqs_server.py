"""A private SQS: moto's server, on loopback, with a book of what it accepted.

moto keeps queues in memory, so a killed server has lost them. What it accepted is therefore
written to a file before the sender hears of it: one line `<id> <sha256 of the body>` for
each message that the answer calls successful, with the id of its attribute `id`.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib
import importlib.util
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evoflask.dev.process import Process, free_port, whole_lines
from evoflask.dev.server import Server
from evoflask.errors import Misconfigured

REGION = "us-east-1"
ACCOUNT = "123456789012"
KEYS = {"aws_access_key_id": "demo", "aws_secret_access_key": "demo"}
"""moto asks for some, and takes any."""

_BOOK = "EVOFLASK_SQS_BOOK"
_FORGET = "EVOFLASK_SQS_FORGET"
_ROOT = Path(__file__).resolve().parents[2]


class SqsServer(Server):
    """moto under gunicorn, because its own server closes each connection after one answer.

    `threads`: requests served at once. `forget`: it keeps nothing in its queues, only in its
    book; moto looks at every message of a queue several times for each new one, so that a
    call of ten takes 85 ms of CPU after 150 messages and 280 ms after 750.
    """

    name = "moto"

    def __init__(self, data: Path, *, threads: int = 32, forget: bool = False) -> None:
        super().__init__(data)
        self.port = free_port()
        self._threads = threads
        self._forget = forget

    @property
    def endpoint(self) -> str:
        """For `SQS_ENDPOINT_URL`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def book(self) -> Path:
        """The file of what was accepted."""
        return self.data / "accepted"

    def url(self, queue: str) -> str:
        """A queue's."""
        return f"{self.endpoint}/{ACCOUNT}/{queue}"

    def command(self) -> Process:
        for module in ("moto", "gunicorn"):
            if importlib.util.find_spec(module) is None:
                raise Misconfigured(f"There is no {module}; requirements-dev.txt brings it.")
        self.book.touch()
        env = dict(os.environ) | {_BOOK: str(self.book.absolute()), "MOTO_PORT": str(self.port)}
        env[_FORGET] = "1" if self._forget else ""
        command = [
            *(sys.executable, "-m", "gunicorn", "--no-control-socket"),
            *("--bind", f"127.0.0.1:{self.port}", "--worker-class", "gthread"),
            *("--threads", str(self._threads), "--keep-alive", "75", "--timeout", "0"),
            *("--graceful-timeout", "1", "--log-level", "warning", "--pythonpath", str(_ROOT)),
            "evoflask.dev.sqs_server:application()",
        ]
        # Its own folder, and not ours, where gunicorn would find the web process' settings.
        log = self.data / "moto.log"
        return Process(command, name=self.name, env=env, cwd=self.data, log=log)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/moto-api/")
            return connection.getresponse().status == 200
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    def client(self) -> Any:
        """A boto3 client of this server; close it."""
        boto3 = importlib.import_module("boto3")
        return boto3.client("sqs", endpoint_url=self.endpoint, region_name=REGION, **KEYS)

    def create(self, *queues: str, **attributes: str) -> None:
        """Queues, where they are not there yet."""
        client = self.client()
        try:
            for queue in queues:
                fifo = {"FifoQueue": "true"} if queue.endswith(".fifo") else {}
                client.create_queue(QueueName=queue, Attributes=fifo | attributes)
        finally:
            client.close()

    def accepted(self) -> list[tuple[str, str]]:
        """Id and SHA-256 of the body of all that was ever accepted, in order."""
        return [(event_id, sha) for event_id, sha, _ in self._kept()]

    def times(self) -> dict[str, float]:
        """When each was accepted last, Unix seconds, by its id: how late it arrived, without the
        polls of a consumer."""
        return {event_id: float(at) for event_id, _, at in self._kept()}

    def _kept(self) -> list[list[str]]:
        return [line.rsplit(" ", 2) for line in whole_lines(self.book)]


# In the server's process


def application() -> Callable[..., Iterable[bytes]]:
    """moto behind the book."""
    moto = importlib.import_module("moto.moto_server.werkzeug_app")
    if os.environ.get(_FORGET):
        queue: Any = importlib.import_module("moto.sqs.models").Queue
        queue.add_message = lambda _queue, _message: None
    return Book(moto.DomainDispatcherApplication(moto.create_backend_app), Path(os.environ[_BOOK]))


class Book:
    """Writes down what SQS accepts, before it answers."""

    def __init__(self, app: Callable[..., Iterable[bytes]], path: Path) -> None:
        self._app = app
        self._file = path.open("a", encoding="ascii")
        self._lock = threading.Lock()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if not environ.get("HTTP_X_AMZ_TARGET", "").endswith(".SendMessageBatch"):
            return self._app(environ, start_response)
        request = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(request)
        said: list[str] = []

        def start(status: str, *rest: Any) -> Any:
            said.append(status)
            return start_response(status, *rest)

        answer = b"".join(self._app(environ, start))
        if said[-1].startswith("200"):
            self._write(json.loads(request), json.loads(answer))
        return [answer]

    def _write(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        entries = {entry["Id"]: entry for entry in request["Entries"]}
        lines = []
        for kept in answer.get("Successful") or ():
            entry = entries[kept["Id"]]
            named = entry.get("MessageAttributes", {}).get("id", {}).get("StringValue", "-")
            sha = hashlib.sha256(entry["MessageBody"].encode()).hexdigest()
            lines.append(f"{named} {sha} {time.time()}\n")
        with self._lock:
            self._file.writelines(lines)
            self._file.flush()


def require_keys(endpoint: str, after: int = 0) -> None:
    """From now on, and after so many requests more, it lets in only keys that its IAM knows."""
    parts = urlsplit(endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("POST", "/moto-api/reset-auth", str(after).encode())
        connection.getresponse().read()
    finally:
        connection.close()
