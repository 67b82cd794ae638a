"""The bell: an RQ job that wakes a worker for a sink. Only this module and `mirror` know RQ's
queues.

A lost bell costs a second, the clock rings again; so nothing here is worth a retry. A job
carries the sink's name and nothing else, its id is random and nothing of it is kept:
with `unique` or a result that stays, a killed worker would block its bell for minutes.
"""

from __future__ import annotations

import redis
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from evoflask import redislink
from evoflask.errors import Unavailable
from evoflask.ids import random_id

JOB = "workers.jobs.drain"
"""By its name: the web process rings without importing what a worker imports."""

PENDING = 8
"""With so many bells in a queue another one wakes nobody else. Nobody may be there to take
them, for days."""

CONNECTIONS = 256
"""Of one client at most: a web process rings from each of its threads."""

LETTER = "dl-"
"""How the ids of dead letters' jobs begin; a bell's is 16 random characters without a hyphen."""


def connect(url: str, socket_timeout: float = 2.0) -> redis.Redis:
    """A client that connects at its first command and tries each one once, in seconds."""
    return redislink.connect(
        url,
        timeout=socket_timeout,
        connect_timeout=2.0,
        connections=CONNECTIONS,
        wait=socket_timeout,
        health_check_interval=15,
    )


def translate(error: redis.RedisError | OSError) -> Unavailable:
    """Return an error of RQ's Redis in words that are equal for all jobs."""
    if redislink.refuses_writes(error):
        return Unavailable(f"it cannot write to its disk: {redislink.disk_words(error)}")
    return Unavailable(type(error).__name__)


def queue_name(sink: str) -> str:
    """The name of a sink's RQ queue."""
    return f"evoflask:{sink}"


def queue(connection: redis.Redis, sink: str) -> Queue:
    """A sink's queue. Its jobs are JSON, never pickle."""
    return Queue(queue_name(sink), connection=connection, serializer=JSONSerializer)


def sink_of(name: str) -> str | None:
    """The sink of a queue's name; None for a queue that is not ours."""
    before, _, sink = name.partition(":")
    return sink if before == "evoflask" and sink else None


def ring(connection: redis.Redis, sink: str, pending: int = PENDING) -> bool:
    """Enqueues one drain of the sink. False: `pending` bells wait already.

    It goes to the front: who requeued a thousand letters by RQ's own tools put a thousand jobs
    into the queue, and deliveries wait for none of them.
    Raises `redis.RedisError` when RQ's Redis does not take it.
    """
    line = queue(connection, sink)
    ahead = line.get_job_ids(0, pending)
    if len(ahead) >= pending and not any(job.startswith(LETTER) for job in ahead):
        return False
    line.enqueue_call(
        JOB,
        args=(sink,),
        job_id=random_id(),
        timeout=-1,
        result_ttl=0,
        failure_ttl=0,
        description=f"drain {sink}",
        at_front=True,
    )
    return True


def listeners(connection: redis.Redis) -> dict[str, int]:
    """How many workers listen for each sink; a killed one counts for a minute yet.

    Raises `redis.RedisError`.
    """
    heard: dict[str, int] = {}
    for worker in Worker.all(connection=connection, serializer=JSONSerializer):
        for name in worker.queue_names():
            if (sink := sink_of(name)) is not None:
                heard[sink] = heard.get(sink, 0) + 1
    return heard
