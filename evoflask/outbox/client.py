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
from dataclasses import dataclass
from typing import Any, TypeVar

import hiredis
import redis
import redis.asyncio
from redis import exceptions

from evoflask import redislink
from evoflask.errors import OutboxDown, OutboxFull, OutboxUnwritable
from evoflask.outbox import disk, keys, verbs
from evoflask.outbox.verbs import Call, Script

T = TypeVar("T")
Fields = dict[bytes, bytes]
"""An entry's fields."""
RUN = 32
"""Entries read as one range, at most."""
SLACK = 4
"""Entries of others that a range may bring along."""
WRITE = """
redis.call('PERSIST', KEYS[1])
return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
"""
"""One command on one key, also on a full Redis: the script's first write takes no memory."""
SILENCE = 5.0
"""Seconds after which who listens is told that nobody told anything."""
NO_CONNECTION = "No connection available."
"""redis-py's text if a caller waited for a connection in vain. No error class says it."""
SYNC_LOOK = 0.005
"""Seconds between looks for the end of an fsync that an append waits for."""
_PERSISTENCE = ("INFO", "persistence")
WAITAOF_PROBE = ("WAITAOF", 1, 0, 1)
"""A server that has WAITAOF answers within a millisecond."""
AOF_SECONDS = 1.8
"""Seconds to wait for an fsync. With `everysec` it begins within one second."""
TIMEOUT = 2.0
"""Seconds for an answer of Redis. A verb takes milliseconds."""
CONNECTIONS = 256
"""Connections of one client, at most."""


def connect(url: str, *, timeout: float = TIMEOUT, connections: int = 64) -> redis.Redis:
    """Return a client of the synchronous side, which connects at its first command.

    `connections`: threads that may need one at the same time. Above `CONNECTIONS`, a thread waits
    for one, up to `timeout` seconds. Below, no thread waits: redis-py's waiting pool takes 10 µs
    more for each command.
    """
    return redislink.connect(
        url,
        timeout=timeout,
        connect_timeout=timeout,
        connections=min(connections, CONNECTIONS),
        wait=timeout if connections > CONNECTIONS else None,
        protocol=2,
    )


def connect_async(
    url: str, *, timeout: float = TIMEOUT, connections: int = 16
) -> redis.asyncio.Redis:
    """A client of the drain; connects to nothing yet. Callers beyond `connections` wait."""
    return redislink.connect_async(url, timeout=timeout, connections=connections, protocol=2)


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of an event that 202 needs.

    `replicas`: number of replicas that must have it. `seconds`: time that they get. `disk`: the
    server's own disk must have it too.
    """

    replicas: int
    seconds: float
    disk: bool = False


def translate(error: exceptions.RedisError | OSError) -> OutboxDown | OutboxFull:
    """Return our error for one of redis-py, without hosts or credentials."""
    if redislink.refuses_writes(error):
        why = redislink.disk_words(error)
        disk.notices.refused(why)
        return OutboxUnwritable(f"Redis cannot write to its disk: {why}; nothing was accepted")
    if isinstance(error, exceptions.OutOfMemoryError) or str(error).startswith("OOM"):
        return OutboxFull("the outbox is out of memory; nothing was accepted")
    if isinstance(error, exceptions.ReadOnlyError) or "READONLY" in str(error):
        return OutboxDown("the outbox is read-only; nothing was accepted")
    if str(error).startswith("NOREPLICAS"):
        return OutboxDown("the outbox has too few replicas; nothing was accepted")
    if isinstance(error, exceptions.MaxConnectionsError) or str(error) == NO_CONNECTION:
        return OutboxDown("all connections to the outbox are busy; nothing was accepted")
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
                answer = self._eval(call)
            except exceptions.NoScriptError:
                self.redis.script_load(call.script.text)
                answer = self._eval(call)
        disk.notices.taken(call.script.name)
        return call.read(answer)

    def run_written(self, call: Call[T]) -> T:
        """Run a verb, and wait until Redis has handed its writes to the kernel.

        Raises OutboxUnwritable also if the write failed: the verb ran, and lasts as long as Redis.
        With `everysec` Redis answers before it writes. The next command reports a failed write. A
        write during an fsync waits for its end, two seconds at most.
        """
        with self._connection() as connection:
            evalsha = ("EVALSHA", call.script.sha, 1, call.prefix, *call.args)
            answer, said = _exchange(connection, evalsha, _PERSISTENCE)
            if isinstance(answer, exceptions.NoScriptError):
                _exchange(connection, ("SCRIPT", "LOAD", call.script.text))
                answer, said = _exchange(connection, evalsha, _PERSISTENCE)
            if isinstance(answer, Exception):
                raise answer
            self._wait_written(connection, said)
        disk.notices.taken(call.script.name)
        return call.read(answer)

    def _wait_written(self, connection: Any, said: Any) -> None:
        """Wait for the end of an fsync, then check that the write worked.

        `said`: the answer to `_PERSISTENCE`, which followed the verb. If no fsync was under way,
        the write was tried before Redis sent that answer.
        """
        if isinstance(said, Exception):
            said = b""  # a hosted server may refuse INFO
        if b"aof_enabled:0" in said:
            return
        end = time.monotonic() + TIMEOUT
        while b"aof_pending_bio_fsync:0" not in said and b"aof_buffer_length:0" not in said:
            if b"aof_pending_bio_fsync" not in said:
                break
            if time.monotonic() > end:
                raise exceptions.TimeoutError("the disk is slow")
            time.sleep(SYNC_LOOK)
            (said,) = _exchange(connection, _PERSISTENCE)
            if isinstance(said, Exception):
                raise said
        (pong,) = _exchange(connection, ("PING",))  # Redis refuses it if it refuses writes
        if isinstance(pong, Exception):
            raise _unsure(pong)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Lend a connection of the pool, to use without redis-py's layers. Translates errors."""
        with translated():
            pool = self.redis.connection_pool
            connection = pool.get_connection()
            try:
                yield connection
            except (exceptions.ResponseError, OutboxDown):
                raise  # every answer was read
            except BaseException:
                # An unread answer must not be taken for the answer to the next command.
                connection.disconnect()
                raise
            finally:
                pool.release(connection)

    def _eval(self, call: Call[Any]) -> Any:
        """As redis-py does it, packed by hiredis and without its layers for what it does not do
        here: repeating, hooks, callbacks. A quarter of an emit's time in this process went there.
        """
        command: tuple[Any, ...] = ("EVALSHA", call.script.sha, 1, call.prefix, *call.args)
        pool = self.redis.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([hiredis.pack_command(command)])
            return connection.read_response()
        except exceptions.ResponseError:
            raise
        except BaseException:
            # An answer that nobody read must not be taken for that of the next command.
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def run_copied(self, call: Call[T], copies: Copies) -> T:
        """Run a verb as `run_written` does, and wait for its copies.

        Raises OutboxDown also if too few copies were reported in time. The verb ran then, and a
        failover or a loss of power may lose it. A mark is always written behind the verb, because
        WAIT and WAITAOF are about the last write of their connection. A verb that found a repeat
        writes nothing, and the replicas may lack the event that it found.
        """
        evalsha = ("EVALSHA", call.script.sha, 1, call.prefix, *call.args)
        commands = [evalsha, ("SET", keys.copied(call.prefix), 1), _PERSISTENCE]
        if copies.replicas:
            commands.append(("WAIT", copies.replicas, round(copies.seconds * 1000)))
        if copies.disk:
            commands.append(("WAITAOF", 1, 0, round(AOF_SECONDS * 1000)))
        with self._connection() as connection:
            if copies.disk:
                _check_waitaof(_exchange(connection, WAITAOF_PROBE)[0])
            answers = _exchange(connection, *commands)
            if isinstance(answers[0], exceptions.NoScriptError):
                _exchange(connection, ("SCRIPT", "LOAD", call.script.text))
                answers = _exchange(connection, *commands)
            answer, marked, said, *have = answers
            if isinstance(answer, Exception):
                raise answer
            for each in (marked, *have):
                if isinstance(each, Exception):
                    raise _unsure(each)
            _check_copies(copies, have)
            if not copies.disk:
                self._wait_written(connection, said)
        disk.notices.taken(call.script.name)
        return call.read(answer)

    def lacks_waitaof(self) -> str:
        """Return why this server has no WAITAOF, or "" if it has. Raises OutboxDown."""
        with self._connection() as connection:
            (answer,) = _exchange(connection, WAITAOF_PROBE)
        return why_no_waitaof(answer) if isinstance(answer, Exception) else ""

    def partitions(self, at_least: int) -> list[int]:
        """Partitions that instances were drawn for, and those that new ones may be."""
        found: Any = self.ask(lambda r: r.smembers(keys.PARTITIONS))
        return sorted({int(n) for n in found} | set(range(at_least)))

    def add_partition(self, partition: int) -> None:
        """Tell drains and clock that instances live there."""
        self.write("SADD", keys.PARTITIONS, partition)

    def write(self, command: str, key: str, *args: str | int) -> None:
        """A single command that a full Redis must take too."""
        self.ask(lambda r: r.eval(WRITE, 1, key, command, *args))

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
        disk.notices.taken(call.script.name)
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
        for call, answer in zip(calls, answers, strict=True):
            if not isinstance(answer, exceptions.RedisError):
                disk.notices.taken(call.script.name)
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
            answers = await self._exchange(
                [
                    ("XRANGE", keys.outbox(p, i), run[0], run[-1], "COUNT", len(run) + SLACK)
                    for (p, i, _), run in ((wanted[n], run) for n, run in runs)
                ]
            )
        for (n, run), rows in zip(runs, _good(answers), strict=True):
            asked = set(run)
            found[n].update({e: _fields(f) for e, f in _named(rows) if e in asked})
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
            answers = await self._exchange(
                [("XRANGE", keys.outbox(p, i), entry, entry) for _, p, i, entry in each]
            )
        for (n, _, _, entry), rows in zip(each, _good(answers), strict=True):
            if rows:
                found[n][entry] = _fields(rows[0][1])

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
            bodies = await self._exchange([("GET", key) for _, key in aside])
        for (fields, _), body in zip(aside, _good(bodies), strict=True):
            if body is not None:
                fields[b"data"] = body

    async def partitions(self) -> list[int]:
        """Partitions that instances were drawn for."""
        with translated():
            found: Any = await self.redis.smembers(keys.PARTITIONS)
        return sorted(int(n) for n in found)

    async def awake(self, partitions: Sequence[int], sinks: Sequence[str], seconds: float) -> None:
        """Tell that these sinks are drained here; 0 seconds takes it back."""
        for partition in partitions:
            await self.run(verbs.awake(partition, sinks, seconds))

    async def quarantined(self, partitions: Sequence[int], sinks: Sequence[str]) -> int:
        """Lanes that wait for a process of their own."""
        with translated():
            pipe = self.redis.pipeline(transaction=False)
            for key in (keys.of(p, f"alone:{sink}") for p in partitions for sink in sinks):
                pipe.zcount(key, "-inf", time.time() * 1000)
            return sum(await pipe.execute())

    async def listen(
        self, partitions: Sequence[int], sinks: Sequence[str]
    ) -> AsyncIterator[tuple[str, bool]]:
        """What append and an operator tell while it goes: (a lane that is held, or "" where one
        became due; whether what is in hand of it and did not start is void); ("", False) too when
        it begins to hear, and every `SILENCE` seconds in which they tell nothing. Ends with
        OutboxDown."""
        with translated():
            pubsub = self.redis.pubsub(ignore_subscribe_messages=True)
            try:
                names = [keys.of(p, f"wake:{sink}") for p in partitions for sink in sinks]
                await pubsub.subscribe(*names)
                while True:
                    message = await pubsub.get_message(timeout=SILENCE)
                    text = message["data"].decode() if message else ""
                    lane, _, anew = text.partition(" ")
                    yield lane, anew == "anew"
            finally:
                await pubsub.aclose()

    async def _eval(self, call: Call[Any]) -> Any:
        return await self.redis.evalsha(call.script.sha, 1, call.prefix, *call.args)

    async def _load(self, script: Script) -> None:
        await self.redis.script_load(script.text)

    async def _pipeline(self, calls: Sequence[Call[Any]]) -> list[Any]:
        return await self._exchange(
            [("EVALSHA", call.script.sha, 1, call.prefix, *call.args) for call in calls]
        )

    async def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Commands in one round trip: an answer or an error each, in order.

        redis-py's pipeline packs in Python and looks every answer up in a table of callbacks;
        packed by hiredis and read as they are, many small commands cost half.
        """
        pool = self.redis.connection_pool
        connection = await pool.get_connection()
        answers: list[Any] = []
        try:
            packed = [hiredis.pack_command(command) for command in commands]
            await connection.send_packed_command(packed, check_health=False)
            for _ in commands:
                try:
                    answers.append(await connection.read_response())
                except exceptions.ResponseError as error:
                    answers.append(error)
        except BaseException:
            # Answers that nobody read must not be taken for those of the next commands.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return answers


def _exchange(connection: Any, *commands: tuple[Any, ...]) -> list[Any]:
    """Send commands in one round trip. Return an answer or a `ResponseError` for each, in order."""
    connection.send_packed_command([hiredis.pack_command(command) for command in commands])
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(connection.read_response())
        except exceptions.ResponseError as error:
            answers.append(error)
    return answers


def _unsure(error: Exception) -> Exception:
    """Return the error of a verb that ran, if what followed it was refused."""
    if not redislink.refuses_writes(error):
        return OutboxDown("Redis does not confirm what it holds; repeat with the same id")
    why = redislink.disk_words(error)
    disk.notices.refused(why)
    return OutboxUnwritable(
        f"Redis could not write the event to its disk: {why}; repeat with the same id"
    )


def why_no_waitaof(error: Exception) -> str:
    """Return why a server refuses `WAITAOF_PROBE`, as a part of a sentence."""
    said = str(error).lower()
    if "unknown command" in said:
        return "this Redis has no WAITAOF: it needs Redis 7.2 or newer, or Valkey"
    if "appendonly" in said:
        return "this Redis keeps no append-only file (appendonly no)"
    if "noperm" in said or "permission" in said:
        return "its user may not run WAITAOF: add +waitaof to its ACL"
    return f"this Redis refuses WAITAOF ({type(error).__name__})"


def _check_waitaof(answer: Any) -> None:
    """Raise an error before the verb runs if the server cannot do WAITAOF."""
    if not isinstance(answer, Exception):
        return
    if redislink.refuses_writes(answer):
        raise answer
    why = why_no_waitaof(answer)
    raise OutboxDown(f"REDIS_WAIT_AOF is set, and {why}; nothing was accepted")


def _check_copies(copies: Copies, have: list[Any]) -> None:
    """Raise OutboxDown if a copy is missing. `have`: the answers to WAIT and WAITAOF, if sent."""
    if copies.disk and have.pop()[0] < 1:
        raise OutboxDown("Redis did not write it to its disk in time; repeat with the same id")
    if copies.replicas and have.pop() < copies.replicas:
        raise OutboxDown("too few replicas hold it; repeat with the same id")


def _good(answers: Sequence[Any]) -> Sequence[Any]:
    """The answers, where none is an error. Raises the first that is, translated."""
    for answer in answers:
        if isinstance(answer, exceptions.RedisError):
            raise translate(answer) from answer
    return answers


def _named(rows: Sequence[Any]) -> Iterator[tuple[str, list[bytes]]]:
    for row in rows:
        yield row[0].decode(), row[1]


def _fields(flat: Sequence[bytes]) -> Fields:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _runs(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[n : n + RUN] for n in range(0, len(ids), RUN)]
