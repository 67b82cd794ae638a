"""Celery on Redis: a task an event and sink, acknowledged late, its own retry.

    PEER_REDIS=<url> python -m benchmarks.peers.celery_app produce <file> <pipe>
    PEER_REDIS=<url> celery -A benchmarks.peers.celery_app worker --pool gevent --concurrency 64 ...

At its best for waiting on the network: the gevent pool, results ignored, a session that keeps its
connections, JSON messages, one connection for all that is sent.
"""

from __future__ import annotations

import os
import sys

import requests
from celery import Celery
from requests.adapters import HTTPAdapter

from benchmarks.peers.jobs import Job, produce

POOL = 64
app = Celery("webhooks", broker=os.environ.get("PEER_REDIS", "redis://127.0.0.1:6379/0"))
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_serializer="json",
    worker_prefetch_multiplier=4,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)
_session = requests.Session()
_session.mount("http://", HTTPAdapter(pool_connections=POOL, pool_maxsize=POOL))


@app.task(
    autoretry_for=(requests.RequestException,), retry_backoff=True, max_retries=5, name="deliver"
)
def deliver(url: str, body: str) -> None:
    """One POST. Raises for whatever is not 2xx."""
    headers = {"content-type": "application/json"}
    _session.post(url, data=body.encode(), headers=headers, timeout=30).raise_for_status()


def keep(jobs: list[Job]) -> None:
    """By one connection."""
    with app.producer_or_acquire() as producer:
        for job in jobs:
            deliver.apply_async(job, producer=producer)


if __name__ == "__main__":
    produce(sys.argv[2], sys.argv[3], keep)
