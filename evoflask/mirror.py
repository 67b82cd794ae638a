"""Dead letters as failed RQ jobs: what rq-dashboard and RQ's own tools show of them.

A picture, never the truth. The rows say which jobs there have to be, RQ's Redis which there
are, and each tick makes the second like the first; so a job that was lost, or a Redis that was
emptied, costs a tick and no letter.

    rq:failed:evoflask:<sink>   zset    `dl-<letter>`, newest first, never expiring
    rq:job:dl-<letter>          hash    calls `workers.jobs.requeue_letter` with the letter's number
    rq:results:dl-<letter>      stream  one result of type failure: the reason, for a person

No body and no setting of a subscription goes into any of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer

from evoflask import bell, db, formats
from evoflask.models import MIRRORED, DeadLetter
from evoflask.plurals import counted

JOB: Final = "workers.jobs.requeue_letter"
"""By its name: nobody here imports what a worker imports."""
PIECE: Final = 100
"""Jobs that one transaction of RQ's Redis writes, and letters that one query reads."""
SECONDS: Final = 1.0
"""How long a tick writes jobs; the rest is for the next one."""
NEWEST_FIRST: Final = 20_000_000_000
"""The score of a job is this less its letter's number. RQ reads a score as the date on which the
job is forgotten, here in the year 2603, and shows the lowest one first."""
ID: Final = 16
"""Characters of an event's id that a job's title shows; the whole of it is in its text."""

_JOB_ID = re.compile(bell.LETTER + r"([1-9]\d{0,15})", re.ASCII)


def job_id(letter: int) -> str:
    """The id of a letter's job."""
    return f"{bell.LETTER}{letter}"


def letter_of(job: str) -> int | None:
    """The letter of a job's id; None for a job that is no letter's."""
    found = _JOB_ID.fullmatch(job)
    return int(found[1]) if found else None


def shown(connection: redis.Redis, sink: str) -> list[int]:
    """The letters that are failed jobs of a sink now, newest first. Raises `RedisError`."""
    jobs = _failed(connection, sink).get_job_ids(cleanup=False)
    return [letter for letter in map(letter_of, jobs) if letter is not None]


def forget(connection: redis.Redis, sinks: Iterable[str], letters: Sequence[int]) -> None:
    """Take the jobs of letters away. Raises `RedisError`."""
    for at in range(0, len(letters), PIECE):
        ids = [job_id(letter) for letter in letters[at : at + PIECE]]
        with connection.pipeline() as pipe:
            for sink in sinks:
                pipe.zrem(_failed(connection, sink).key, *ids)
            pipe.delete(*_keys(ids))
            pipe.execute()


def forget_settled(connection: redis.Redis, sink: str) -> None:
    """Take the jobs of a sink's letters away that were requeued, discarded or deleted. Raises
    `RedisError` and `DatabaseDown`."""
    ours = shown(connection, sink)
    still = set(_open(ours))
    forget(connection, [sink], [letter for letter in ours if letter not in still])


class Mirror:
    """Makes RQ's failed jobs like the letters. `limit`: how many letters are shown."""

    def __init__(self, connection: redis.Redis, sinks: Sequence[str], limit: int) -> None:
        self._redis = connection
        self._sinks = sinks
        self._limit = limit

    def tick(self) -> int:
        """Takes away and writes what differs; answers how many jobs were written. A tick that
        finds no difference is one query of an index and three commands' worth of Redis.

        Raises `RedisError` and `DatabaseDown`; the next one goes on.
        """
        wanted = self._wanted()
        have = {sink: set(shown(self._redis, sink)) for sink in self._sinks}
        for sink, letters in have.items():
            forget(self._redis, [sink], [each for each in letters if wanted.get(each) != sink])
        kept = [each for each, sink in wanted.items() if each in have.get(sink, ())]
        missing = sorted({*wanted} - {*kept} | {*self._broken(kept)}, reverse=True)
        return self._write(missing)

    def _wanted(self) -> Mapping[int, str]:
        if not self._limit:
            return {}
        query: Any = DeadLetter.select(DeadLetter.id, DeadLetter.sink).where(MIRRORED)
        with db.translate():
            # Straight from the driver: peewee takes ten times as long for a thousand pairs.
            newest = query.order_by(DeadLetter.id.desc()).limit(self._limit)
            return dict(db.database.execute(newest).fetchall())

    def _broken(self, letters: Sequence[int]) -> list[int]:
        """Of those that are listed as failed: whose job or result is gone."""
        ids = [job_id(letter) for letter in letters]
        if not ids or self._redis.exists(*_keys(ids)) == 2 * len(ids):
            return []
        with self._redis.pipeline(transaction=False) as pipe:
            for each in ids:
                pipe.exists(*_keys([each]))
            there = pipe.execute()
        return [letter for letter, n in zip(letters, there, strict=True) if n < 2]

    def _write(self, letters: Sequence[int]) -> int:
        """Newest first, as far as a tick's time reaches."""
        end = time.monotonic() + SECONDS
        written = 0
        for at in range(0, len(letters), PIECE):
            written += self._write_piece(letters[at : at + PIECE])
            if time.monotonic() > end:
                break
        return written

    def _write_piece(self, letters: Sequence[int]) -> int:
        columns = [each for each in DeadLetter._meta.sorted_fields if each is not DeadLetter.data]
        with db.translate():
            query = DeadLetter.select(*columns).where(DeadLetter.id.in_(letters) & MIRRORED)
            rows = [row for row in query if row.sink in self._sinks]
        with self._redis.pipeline() as pipe:
            for row in rows:
                _put(self._redis, pipe, row)
            pipe.execute()
        return len(rows)


def describe(row: DeadLetter) -> str:
    """One line: `webhook acme/crm MESSAGES_UPSERT 3EB0… 404 after 1 try`."""
    event_id = row.event_id if len(row.event_id) <= ID else row.event_id[: ID - 1] + "…"
    tries = counted(row.tries, "try")
    where = f"{row.instance_name}/{row.subscription_name}"
    return f"{row.sink} {where} {row.event} {event_id} {row.code or row.reason} after {tries}"


def explain(row: DeadLetter) -> str:
    """What a person reads of the letter: why, the last answer, and which event it was."""
    last = ": ".join(filter(None, (row.code, row.detail))) or "nothing was answered"
    facts = (
        f"event {row.event_id} of {counted(row.size, 'byte')}, accepted {formats.utc(row.at)}, "
        f"given up {formats.utc(row.created_at)}"
    )
    return "\n".join([f"{row.reason}: {MEANINGS.get(row.reason, 'given up')}", last, facts])


MEANINGS: Final = {
    "rejected": "the destination said no for good",
    "exhausted": "the last retry failed",
    "crashed": "it killed its worker time and again",
    "missing": "its entry was gone",
}


def _put(connection: redis.Redis, pipe: Any, row: DeadLetter) -> None:
    job = Job.create(
        JOB,
        args=(row.id,),
        id=job_id(row.id),
        connection=connection,
        origin=bell.queue_name(row.sink),
        description=describe(row),
        status=JobStatus.FAILED,
        timeout=60,
        result_ttl=0,
        failure_ttl=-1,
        serializer=JSONSerializer,
    )
    job.created_at = job.enqueued_at = datetime.fromtimestamp(row.at, UTC)
    job.ended_at = datetime.fromtimestamp(row.created_at, UTC)
    pipe.delete(*_keys([job.id]))
    job.save(pipeline=pipe)
    Result.create_failure(job, None, explain(row), pipeline=pipe)
    # A queue that no bell was ever in is listed nowhere else.
    pipe.sadd(Queue.redis_queues_keys, bell.queue(connection, row.sink).key)
    pipe.zadd(_failed(connection, row.sink).key, {job.id: NEWEST_FIRST - row.id})


def _open(letters: Sequence[int]) -> Iterable[int]:
    for at in range(0, len(letters), PIECE):
        some = DeadLetter.id.in_(letters[at : at + PIECE])
        query: Any = DeadLetter.select(DeadLetter.id).where(some & MIRRORED)
        with db.translate():
            yield from (letter for (letter,) in query.tuples())


def _failed(connection: redis.Redis, sink: str) -> FailedJobRegistry:
    return FailedJobRegistry(
        bell.queue_name(sink), connection=connection, serializer=JSONSerializer
    )


def _keys(ids: Iterable[str]) -> list[str]:
    return [f"{kind}:{each}" for each in ids for kind in ("rq:job", "rq:results")]
