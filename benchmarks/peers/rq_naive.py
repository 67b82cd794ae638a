"""The obvious reading of this stack: an RQ job an event and sink, `requests`, RQ's own retry.

    python -m benchmarks.peers.rq_naive produce <port> <file> <pipe>
    python -m benchmarks.peers.rq_naive work <port>

At its best: jobs are enqueued a hundred at a time, workers do not fork for each job, results are
not kept, the session keeps its connections. A worker does one thing at a time, so there are
several.
"""

from __future__ import annotations

import sys

import redis
import requests
from rq import Queue, Retry, SimpleWorker

from benchmarks.peers.jobs import Job, produce

BULK = 100
_session = requests.Session()


def deliver(url: str, body: str) -> None:
    """One POST. Raises for whatever is not 2xx."""
    headers = {"content-type": "application/json"}
    _session.post(url, data=body.encode(), headers=headers, timeout=30).raise_for_status()


def keep(queue: Queue, jobs: list[Job]) -> None:
    """As RQ's manual has it for many."""
    retry = Retry(max=5, interval=[1, 2, 4, 8, 16])
    for at in range(0, len(jobs), BULK):
        queue.enqueue_many(
            [
                Queue.prepare_data(deliver, job, retry=retry, result_ttl=0)
                for job in jobs[at : at + BULK]
            ]
        )


def main(what: str, port: str, path: str = "", gate: str = "") -> None:
    connection = redis.Redis(port=int(port))
    queue = Queue("webhooks", connection=connection)
    if what == "produce":
        produce(path, gate, lambda jobs: keep(queue, jobs))
        return
    SimpleWorker([queue], connection=connection).work(logging_level="ERROR", with_scheduler=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
