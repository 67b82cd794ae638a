"""moto, and boto3 in threads.

moto is slower than both: it needs several milliseconds of CPU for a call of ten, so what is
to be compared is the CPU of our own process, not the events a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from evoflask.dev.sqs_server import KEYS, REGION, SqsServer

THREADS = 8
"""Any number will do: with 1, 4, 8 and 16, interleaved, four rounds of 100 calls each took 305
to 392, 329 to 345, 292 to 360 and 290 to 349 µs of our CPU an event, and the events a second
differed from round to round (583 to 1,138) more than from number to number."""
A_CALL = 10
QUEUE = "bench"


class Sqs:
    """A queue."""

    def __init__(self, server: SqsServer) -> None:
        self._server = server
        self.settings: dict[str, Any] = {
            "sqs_endpoint_url": server.endpoint,
            "sqs_region": REGION,
        }
        self.subscription: dict[str, Any] = {
            "queueUrl": server.url(QUEUE),
            "accessKeyId": KEYS["aws_access_key_id"],
            "secretAccessKey": KEYS["aws_secret_access_key"],
        }
        self._client = boto3.client(
            "sqs",
            endpoint_url=server.endpoint,
            region_name=REGION,
            config=Config(max_pool_connections=THREADS),
            **KEYS,
        )

    async def bare(self, bodies: Sequence[bytes], events: int) -> None:
        """Batches of ten with the same attributes as the sink's, in threads."""
        await asyncio.to_thread(self._send, bodies, events)

    def _send(self, bodies: Sequence[bytes], events: int) -> None:
        texts = itertools.cycle([each.decode() for each in bodies])
        sizes = [min(A_CALL, events - n) for n in range(0, events, A_CALL)]
        batches = [[next(texts) for _ in range(size)] for size in sizes]
        with ThreadPoolExecutor(THREADS) as threads:
            for answer in threads.map(self._call, batches):
                assert not answer.get("Failed")

    def _call(self, texts: Sequence[str]) -> dict[str, Any]:
        entries = [
            {"Id": str(n), "MessageBody": text, "MessageAttributes": _ATTRIBUTES}
            for n, text in enumerate(texts)
        ]
        url = self._server.url(QUEUE)
        answer: dict[str, Any] = self._client.send_message_batch(QueueUrl=url, Entries=entries)
        return answer


_ATTRIBUTES = {
    name: {"DataType": "String", "StringValue": value}
    for name, value in (
        ("event", "MESSAGES_UPSERT"),
        ("instance", "bare"),
        ("id", "0193b0c4-7d5e-7000-8000-000000000000"),
    )
}


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Sqs]:
    """The server with its queue, on loopback."""
    with SqsServer(folder / "sqs", forget=True) as server:
        server.create(QUEUE)
        yield Sqs(server)
