"""The limits: what the machine does where nothing is promised.

    python -m benchmarks.bare <port> <file>              batches of 100 XADDs, pipelined
    gunicorn benchmarks.bare:constant()                  Flask that answers one JSON

Both with the libraries and versions that we run on ourselves.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import redis
from flask import Flask, Response, jsonify, request

BATCH = 100


def xadd(port: int, entries: list[tuple[str, str, bytes]]) -> None:
    """A stream each for what would be an instance; the same bytes as an event's data."""
    client = redis.Redis(port=port)
    for at in range(0, len(entries), BATCH):
        with client.pipeline(transaction=False) as pipe:
            for stream, event, data in entries[at : at + BATCH]:
                pipe.execute_command("XADD", stream, "*", "e", event, "d", data)
            pipe.execute()


def constant() -> Flask:
    """An application with one route."""
    app = Flask("constant")

    @app.post("/event/emit/<instance>")
    def emit(instance: str) -> tuple[Response, int]:
        request.get_data()  # or the connection would end
        return jsonify({"status": 202}), 202

    return app


def main(port: str, file: str) -> None:
    """Says "ready", waits for a line, and says {"seconds", "cpu"}."""
    lines = map(json.loads, Path(file).read_text().splitlines())
    entries = [(x["stream"], x["event"], x["data"].encode()) for x in lines]
    print("ready", flush=True)
    sys.stdin.readline()
    wall, cpu = time.perf_counter(), time.process_time()
    xadd(int(port), entries)
    said = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
