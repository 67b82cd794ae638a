"""Hands events in to evoflask as a gateway would: by HTTP, a hundred of an instance at a time.

    python -m benchmarks.peers.evoflask_producer <port> <key> <file> <pipe>

The file's lines are {"url", "body"}: the route of an instance, and an event as it is emitted.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterator

from benchmarks.peers.jobs import Job, produce

BATCH = 100
BYTES = 4_000_000
"""Of a request, at most about."""


def batches(jobs: list[Job]) -> Iterator[tuple[str, bytes]]:
    """Route and body, as NDJSON, each when it is full; what is left at the end."""
    waiting: dict[str, list[str]] = {}
    for url, body in jobs:
        some = waiting.setdefault(url, [])
        some.append(body)
        if len(some) == BATCH or sum(map(len, some)) > BYTES:
            yield url, "\n".join(waiting.pop(url)).encode()
    for url, some in waiting.items():
        yield url, "\n".join(some).encode()


def main(port: str, key: str, path: str, gate: str) -> None:
    client = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    headers = {"apikey": key, "Content-Type": "application/x-ndjson"}

    def keep(jobs: list[Job]) -> None:
        for url, body in batches(jobs):
            client.request("POST", url, body, headers)
            answer = client.getresponse()
            said = answer.read()
            if answer.status != 202 or b'"rejected":0' not in said:
                raise RuntimeError(f"{answer.status}: {said[:300]!r}")

    produce(path, gate, keep)


if __name__ == "__main__":
    main(*sys.argv[1:])
