"""Who runs the verbs: `Outbox` waits, `AsyncOutbox` awaits. Neither retries by itself.

redis-py retries ten times by default; an append whose answer was late would run eleven
times, so every client that runs a verb is made here, without retries and with short
timeouts. A script that Redis does not know (NOSCRIPT) did not run: it is loaded and run
once more, which is no retry. This is the door at which redis-py's errors are translated.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from evoflask.errors import OutboxDown, OutboxFull
from evoflask.outbox import keys
from evoflask.outbox.verbs import Call, Script

T = TypeVar("T")
Fields = dict[bytes, bytes]
"""An entry's fields."""
RUN = 32
"""Entries read as one range, at most."""
SLACK = 4
"""Entries of others that a range may bring along."""
TIMEOUT = 2.0
"""Seconds for an answer of Redis. A verb takes milliseconds."""


def connect(url: str, *, timeout: float = TIMEOUT, connections: int = 64) -> redis.Redis:
    """A client of the synchronous side; connects to nothing yet."""
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        max_connections=connections,
        protocol=2,
    )


def connect_async(
    url: str, *, timeout: float = TIMEOUT, connections: int = 16
) -> redis.asyncio.Redis:
    """A client of the drain; connects to nothing yet. Callers beyond `connections` wait."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        retry=AsyncRetry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        max_connections=connections,
        timeout=timeout,
        protocol=2,
    )
    return redis.asyncio.Redis(connection_pool=pool)


def translate(error: exceptions.RedisError | OSError) -> OutboxDown | OutboxFull:
    """An error of redis-py in our words, without hosts or credentials."""
    if isinstance(error, exceptions.OutOfMemoryError) or str(error).startswith("OOM"):
        return OutboxFull("the outbox is out of memory; nothing was accepted")
    if isinstance(error, exceptions.ReadOnlyError) or "READONLY" in str(error):
        return OutboxDown("the outbox is read-only; nothing was accepted")
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return OutboxDown("the outbox did not answer in time; repeat with the same id")
    if isinstance(error, exceptions.ConnectionError | OSError):
        return OutboxDown("the outbox cannot be reached")
    return OutboxDown(f"the outbox refused: {type(error).__name__}")


@contextmanager
def translated() -> Iterator[None]:
    """The one door: whatever redis-py raises inside becomes OutboxDown or OutboxFull."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise translate(error) from error


class Outbox:
    """Runs verbs and waits for their answers."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client

    def run(self, call: Call[T]) -> T:
        """Raises OutboxDown or OutboxFull. After a time-out the verb may have run."""
        with translated():
            try:
                answer = self.redis.evalsha(call.script.sha, 1, call.prefix, *call.args)
            except exceptions.NoScriptError:
                self.redis.script_load(call.script.text)
                answer = self.redis.evalsha(call.script.sha, 1, call.prefix, *call.args)
        return call.read(answer)

    def partitions(self, at_least: int) -> list[int]:
        """Partitions that instances were drawn for, and those that new ones may be."""
        found: Any = self.ask(lambda r: r.smembers(keys.PARTITIONS))
        return sorted({int(n) for n in found} | set(range(at_least)))

    def add_partition(self, partition: int) -> None:
        """Tell drains and clock that instances live there."""
        self.ask(lambda r: r.sadd(keys.PARTITIONS, partition))

    def ask(self, question: Callable[[redis.Redis], T]) -> T:
        """Any other command, with the same errors."""
        with translated():
            return question(self.redis)


class AsyncOutbox:
    """Runs verbs and awaits their answers."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.redis = client

    async def run(self, call: Call[T]) -> T:
        """Raises OutboxDown or OutboxFull. After a time-out the verb may have run."""
        with translated():
            try:
                answer = await self._eval(call)
            except exceptions.NoScriptError:
                await self._load(call.script)
                answer = await self._eval(call)
        return call.read(answer)

    async def run_many(self, calls: Sequence[Call[T]]) -> list[T | OutboxDown | OutboxFull]:
        """Verbs in one round trip, each for itself: an answer or an error, in order."""
        if not calls:
            return []
        with translated():
            answers = await self._pipeline(calls)
            missing = [n for n, a in enumerate(answers) if isinstance(a, exceptions.NoScriptError)]
            if missing:
                for script in {calls[n].script.sha: calls[n].script for n in missing}.values():
                    await self._load(script)
                again = await self._pipeline([calls[n] for n in missing])
                for n, answer in zip(missing, again, strict=True):
                    answers[n] = answer
        return [
            translate(a) if isinstance(a, exceptions.RedisError) else call.read(a)
            for call, a in zip(calls, answers, strict=True)
        ]

    async def read_entries(
        self, wanted: Sequence[tuple[int, str, Sequence[str]]]
    ) -> list[dict[str, Fields]]:
        """Entries of several outboxes, each (partition, `<i>`, entry ids in order), in one round
        trip or two: fields by entry id, with `data`. An entry that is missing is gone.

        Neighbours are read as one range: what a lane has next mostly stands in a row.
        """
        runs = [(n, run) for n, (_, _, ids) in enumerate(wanted) for run in _runs(ids)]
        found: list[dict[str, Fields]] = [{} for _ in wanted]
        with translated():
            pipe = self.redis.pipeline(transaction=False)
            for n, run in runs:
                partition, i, _ = wanted[n]
                pipe.xrange(keys.outbox(partition, i), run[0], run[-1], len(run) + SLACK)
            for (n, run), rows in zip(runs, await pipe.execute(), strict=True):
                asked = set(run)
                found[n].update({r[0].decode(): r[1] for r in rows if r[0].decode() in asked})
        missed = [
            (partition, i, [e for e in ids if e not in found[n]])
            for n, (partition, i, ids) in enumerate(wanted)
        ]
        if any(ids for _, _, ids in missed):
            await self._read_singly(missed, found)
        await self._read_aside(wanted, found)
        return found

    async def _read_singly(
        self, missed: Sequence[tuple[int, str, Sequence[str]]], found: list[dict[str, Fields]]
    ) -> None:
        """What a range did not reach, because more than its slack stood between."""
        each = [(n, p, i, entry) for n, (p, i, ids) in enumerate(missed) for entry in ids]
        with translated():
            pipe = self.redis.pipeline(transaction=False)
            for _, partition, i, entry in each:
                pipe.xrange(keys.outbox(partition, i), entry, entry)
            for (n, _, _, entry), rows in zip(each, await pipe.execute(), strict=True):
                if rows:
                    found[n][entry] = rows[0][1]

    async def _read_aside(
        self, wanted: Sequence[tuple[int, str, Sequence[str]]], found: list[dict[str, Fields]]
    ) -> None:
        """Bodies that are kept beside their entries."""
        aside = [
            (fields, keys.body(partition, i, entry))
            for (partition, i, _), entries in zip(wanted, found, strict=True)
            for entry, fields in entries.items()
            if b"data" not in fields
        ]
        if not aside:
            return
        with translated():
            pipe = self.redis.pipeline(transaction=False)
            for _, key in aside:
                pipe.get(key)
            for (fields, _), body in zip(aside, await pipe.execute(), strict=True):
                if body is not None:
                    fields[b"data"] = body

    async def partitions(self) -> list[int]:
        """Partitions that instances were drawn for."""
        with translated():
            found: Any = await self.redis.smembers(keys.PARTITIONS)
        return sorted(int(n) for n in found)

    async def awake(self, partitions: Sequence[int], sinks: Sequence[str], seconds: float) -> None:
        """Tell that these sinks are drained here; 0 seconds takes it back."""
        with translated():
            pipe = self.redis.pipeline(transaction=False)
            for key in (keys.of(p, f"awake:{sink}") for p in partitions for sink in sinks):
                if seconds:
                    # A full Redis takes no SET, but DEL and what the script writes after it.
                    pipe.delete(key)
                    pipe.set(key, "1", px=round(seconds * 1000))
                else:
                    pipe.delete(key)
            await pipe.execute(raise_on_error=False)

    async def quarantined(self, partitions: Sequence[int], sinks: Sequence[str]) -> int:
        """Lanes that wait for a process of their own."""
        with translated():
            pipe = self.redis.pipeline(transaction=False)
            for key in (keys.of(p, f"alone:{sink}") for p in partitions for sink in sinks):
                pipe.zcount(key, "-inf", time.time() * 1000)
            return sum(await pipe.execute())

    async def listen(self, partitions: Sequence[int]) -> AsyncIterator[tuple[str, str]]:
        """What append tells while it goes: (sink, lane or ""); ("", "") once a second when it
        tells nothing. Ends with OutboxDown."""
        with translated():
            pubsub = self.redis.pubsub(ignore_subscribe_messages=True)
            try:
                await pubsub.subscribe(*(keys.of(p, "wake") for p in partitions))
                while True:
                    message = await pubsub.get_message(timeout=1.0)
                    text = message["data"].decode() if message else ""
                    sink, _, lane = text.partition(" ")
                    yield sink, lane
            finally:
                await pubsub.aclose()

    async def _eval(self, call: Call[Any]) -> Any:
        return await self.redis.evalsha(call.script.sha, 1, call.prefix, *call.args)

    async def _load(self, script: Script) -> None:
        await self.redis.script_load(script.text)

    async def _pipeline(self, calls: Sequence[Call[Any]]) -> list[Any]:
        pipe = self.redis.pipeline(transaction=False)
        for call in calls:
            pipe.evalsha(call.script.sha, 1, call.prefix, *call.args)
        return list(await pipe.execute(raise_on_error=False))


def _runs(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[n : n + RUN] for n in range(0, len(ids), RUN)]
