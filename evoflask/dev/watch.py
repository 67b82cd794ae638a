"""Shows what arrives at all six kinds of destination: one line an event, for people and tests.

    EVOFLASK_WATCH=... python -m evoflask.dev.watch

The configuration is JSON, in the environment since everybody may read arguments:

    {"instances": ["demo"], "webhook": 9000, "rabbitmq": "amqp://...", "nats": "nats://...",
     "sqs": "http://127.0.0.1:5000", "queues": {"demo": "http://..."},
     "pusher": ["127.0.0.1", 6001, "app-key"], "websocket": ["ws://127.0.0.1:8080/ws", "key"]}

What it does not name is not watched. A line is JSON: `at` (Unix seconds),
`sink`, and the event's `instance`, `event` and `id`; `{"watching": sink}` once a sink's client
is ready. The clients are the plain libraries that a user has. What breaks is begun again a
second later.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from evoflask.dev.process import die_with_parent

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

AGAIN_SECONDS = 1.0
"""Pause before a client that failed is started again."""
LARGEST_MESSAGE = 32 * 1024 * 1024
"""Bytes of a websocket message; an event may have 16 MB, and the library takes 1 MiB by default."""

_LOCK = threading.Lock()


def show(line: dict[str, Any]) -> None:
    """One line, whole, at once: in one write, or what a client says of its troubles could land
    before the line's end. `print` makes two where nothing is buffered."""
    with _LOCK:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def arrived(sink: str, body: bytes | str) -> None:
    """An event, as the format `standard` has it."""
    at = time.time()
    event = json.loads(body)
    show({"at": at, "sink": sink, **{k: event.get(k) for k in ("instance", "event", "id")}})


def watch_webhook(port: int) -> None:
    """Listens on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived("webhook", body)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Ours are the lines."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    show({"watching": "webhook"})
    server.serve_forever()


def watch_rabbitmq(uri: str) -> None:
    """A queue of its own behind the default exchange."""
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(uri))
    channel = connection.channel()
    channel.exchange_declare("evolution-events", "topic", durable=True)
    queue = channel.queue_declare("evoflask-watch", durable=True).method.queue
    channel.queue_bind(queue, "evolution-events", "evolution.#")
    show({"watching": "rabbitmq"})
    for method, _, body in channel.consume(queue):
        if body is not None and method is not None:
            arrived("rabbitmq", body)
            channel.basic_ack(method.delivery_tag or 0)


async def watch_nats(uri: str) -> None:
    """A stream over the default subject, read by a durable consumer."""
    import nats

    client = await nats.connect(uri, allow_reconnect=False)
    try:
        stream = client.jetstream()
        await stream.add_stream(name="evoflask-watch", subjects=["evolution.>"])
        reader = await stream.subscribe("evolution.>", durable="evoflask-watch")
        show({"watching": "nats"})
        async for message in reader.messages:
            arrived("nats", message.data)
            await message.ack()
        raise ConnectionError("NATS closed the connection")
    finally:
        await client.close()


def watch_sqs(endpoint: str, queues: Sequence[str]) -> None:
    """Long polls, a queue after the other."""
    import boto3

    client = boto3.client(
        "sqs",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id="watch",
        aws_secret_access_key="watch",  # noqa: S106 - moto takes any
    )
    for queue in queues:
        client.create_queue(QueueName=queue.rpartition("/")[2])
    show({"watching": "sqs"})
    while True:
        for queue in queues:
            found = client.receive_message(
                QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1 if len(queues) == 1 else 0
            )
            for message in found.get("Messages", []):
                arrived("sqs", message["Body"])
                client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        time.sleep(0.002)


async def watch_pusher(server: Sequence[Any], channels: Sequence[str]) -> None:
    """Subscribes to the instances' channels. `server`: host, port, the app's key."""
    import websockets

    host, port, key = server

    url = f"ws://{host}:{port}/app/{key}?protocol=7"
    async with websockets.connect(url, max_size=LARGEST_MESSAGE) as socket:
        for channel in channels:
            subscribe = {"event": "pusher:subscribe", "data": {"channel": channel}}
            await socket.send(json.dumps(subscribe))
        left = len(channels)
        async for text in socket:
            message = json.loads(text)
            if message["event"] == "pusher:ping":
                await socket.send('{"event":"pusher:pong","data":{}}')
            elif message["event"] == "pusher_internal:subscription_succeeded":
                left -= 1
                if left == 0:
                    show({"watching": "pusher"})
            elif not message["event"].startswith("pusher"):
                arrived("pusher", message["data"])
    raise ConnectionError("Pusher closed the connection")


async def watch_websocket(server: Sequence[str], instances: Sequence[str]) -> None:
    """Join the instances, and resume at the last cursor a second after a lost connection.

    `server`: its URL and a key.
    """
    import websockets

    url, key = server
    cursors: dict[str, str] = {}
    while True:
        try:
            async with websockets.connect(
                url, additional_headers={"apikey": key}, max_size=LARGEST_MESSAGE
            ) as socket:
                await _follow(socket, instances, cursors)
        except (OSError, websockets.WebSocketException) as error:
            complain("websocket", error)
        await asyncio.sleep(AGAIN_SECONDS)


async def _follow(
    socket: ClientConnection, instances: Sequence[str], cursors: dict[str, str]
) -> None:
    """Show events until the connection ends. Keep the last cursor of each instance."""
    for instance in instances:
        after = {"after": cursors[instance]} if instance in cursors else {}
        await socket.send(json.dumps({"action": "join-instance", "instance": instance, **after}))
    show({"watching": "websocket"})
    async for text in socket:
        message = json.loads(text)
        if "cursor" in message:
            cursors[message["instance"]] = message["cursor"]
        if message["type"] == "evolution-event":
            arrived("websocket", text)


def complain(name: str, error: Exception) -> None:
    """Write one line to stderr."""
    print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def forever(name: str, work: Callable[[], object]) -> None:
    """Start the work again a second after it failed, and write why."""
    while True:
        try:
            result = work()
            if asyncio.iscoroutine(result):
                asyncio.run(result)
        except Exception as error:
            complain(name, error)
        time.sleep(AGAIN_SECONDS)


def main(config: dict[str, Any]) -> None:
    """Watches what is configured, until it is ended."""
    names: list[str] = config["instances"]
    works: dict[str, Callable[[], object | Awaitable[object]]] = {
        "webhook": lambda: watch_webhook(config["webhook"]),
        "rabbitmq": lambda: watch_rabbitmq(config["rabbitmq"]),
        "nats": lambda: watch_nats(config["nats"]),
        "sqs": lambda: watch_sqs(config["sqs"], list(config["queues"].values())),
        "pusher": lambda: watch_pusher(config["pusher"], names),
        "websocket": lambda: watch_websocket(config["websocket"], names),
    }
    for name, work in works.items():
        if name in config:
            threading.Thread(target=forever, args=(name, work), daemon=True).start()
    signal.pause()


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL, os.getppid())
    main(json.loads(os.environ["EVOFLASK_WATCH"]))
