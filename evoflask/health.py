"""How the house is: what is reachable, what is durable, what lags. For `/readyz`, `flask doctor`
and the log.

A part is `ok`, a `warning` (it works, and somebody should look) or a `failure` (it does not).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from evoflask import bell, configuration, db, deadletters, durability, rotation
from evoflask.errors import EvoflaskError, Misconfigured, OutboxDown
from evoflask.outbox import Outbox, connect, totals, usage
from evoflask.outbox.timetable import Timetable
from evoflask.outbox.totals import Server
from evoflask.plurals import counted
from evoflask.settings import Settings
from evoflask.sinks import delivering

log = logging.getLogger(__name__)

OK, WARNING, FAILURE = "ok", "warning", "failure"
SILENT = 15.0
"""Seconds without chores after which the clock counts as gone; a drain that is awake steps in
after five."""
NEGLECTED = 60.0
"""Seconds after which a single chore counts as failing while others are done."""
LANES_LOOKED_AT = 20
"""Lanes of each partition that are checked for a row."""
_stalls = durability.Stalls()


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that was looked at."""

    name: str
    state: str
    words: str
    facts: dict[str, Any] = field(default_factory=dict)


def ready(outbox: Outbox, settings: Settings) -> list[Part]:
    """Check what a web process and the promises need. Never raises."""
    return [
        *_redis(outbox, settings.redis_wait_aof),
        *_stored(outbox, settings),
        _guarded("clock", lambda: _clock(outbox)),
    ]


def doctor(outbox: Outbox, settings: Settings) -> list[Part]:
    """The same and what only a person asks for. Never raises."""
    return [
        _key(settings),
        *ready(outbox, settings),
        _guarded("bells", lambda: _bells(settings)),
        _guarded("workers", lambda: _workers(outbox, settings)),
        _guarded("dead letters", _letters),
    ]


def failed(parts: Sequence[Part]) -> bool:
    return any(part.state == FAILURE for part in parts)


def tell(settings: Settings) -> None:
    """Log in one line what a power cut can cost, or that Redis does not answer yet.

    Raises `Misconfigured` if Redis cannot do what a setting requires.
    """
    client = connect(settings.redis_url, timeout=1.0, connections=1)
    try:
        log_durability(Outbox(client), waits=settings.redis_wait_aof)
        if settings.redis_wait_aof and (why := Outbox(client).lacks_waitaof()):
            raise Misconfigured(f"REDIS_WAIT_AOF is set, and {why}.")
    except Misconfigured:
        raise
    except EvoflaskError as error:
        log.warning("durability is not known yet: %s", error)
    finally:
        client.close()


def log_database(outbox: Outbox, settings: Settings) -> None:
    """Log a database that is empty, foreign, behind or away. Never raises."""
    part = _guarded("database", lambda: database_part(outbox, settings))
    if part.state != OK:
        log.log(logging.ERROR if part.state == FAILURE else logging.WARNING, part.words)


def log_durability(outbox: Outbox, *, waits: bool) -> None:
    """Log what a power cut can cost. `waits`: 202 waits for the disk. Raises `OutboxDown`."""
    part = _durability(totals.server(outbox), waits=waits)
    facts = {name: part.facts[name] for name in ("appendonly", "appendfsync", "policy")}
    log.log(logging.INFO if part.state == OK else logging.WARNING, part.words, extra=facts)


def _guarded(name: str, look: Callable[[], Part]) -> Part:
    try:
        return look()
    except EvoflaskError as error:
        return Part(name, FAILURE, " ".join(error.messages))


# -- Redis ----------------------------------------------------------------------------------


def _redis(outbox: Outbox, waits: bool) -> list[Part]:
    try:
        server = totals.server(outbox)
        lacks = outbox.lacks_waitaof() if waits else ""
    except EvoflaskError as error:
        return [Part("redis", FAILURE, f"{error}.")]
    durable = _durability(server, waits=waits)
    if waits and not lacks and server.fsync == "no":
        lacks = "appendfsync is no, so fsyncs come too late (set everysec or always)"
    if lacks:
        words = f"REDIS_WAIT_AOF is set, and {lacks}: every event is refused (503)."
        durable = Part("durability", FAILURE, words, durable.facts)
    return [_server(server), durable, _memory(server)]


def _server(server: Server) -> Part:
    facts = {"version": server.version}
    if not server.supported:
        words = f"Redis {server.version} is too old: it must be 6.2 or newer."
        return Part("redis", FAILURE, words, facts)
    if server.role == "slave":
        return Part("redis", FAILURE, "REDIS_URL names a replica: it takes no events.", facts)
    return Part("redis", OK, "It answers.", facts)


def _durability(server: Server, *, waits: bool) -> Part:
    """Judge Redis' disk and its settings. `waits`: 202 waits for the disk (REDIS_WAIT_AOF)."""
    disk = server.disk
    stalled = _stalls.note(server.run_id, disk.delayed)
    risk = durability.judge(server, stalled=stalled, now=time.time())
    facts = {
        "appendonly": disk.appendonly,
        "appendfsync": server.fsync,
        "policy": server.policy,
        "lastWrite": "failed" if risk.failing else "ok",
        "lastRewrite": "ok" if disk.rewrites else "failed",
        "lastSnapshot": "ok" if disk.snapshots else "failed",
        "unwrittenBytes": disk.unwritten,
        "fsyncsDelayed": disk.delayed,
    }
    if risk.failing:
        return Part("durability", FAILURE, risk.words, facts)
    safe = disk.appendonly and server.fsync in ("always", "everysec")
    state = OK if safe and not risk.wrong else WARNING
    if waits and disk.appendonly:
        state = WARNING if risk.wrong else OK
        risk = replace(
            risk, cost="A power cut loses nothing that was answered 202 (REDIS_WAIT_AOF)."
        )
    return Part("durability", state, risk.words, facts)


def _memory(server: Server) -> Part:
    memory = server.memory
    facts: dict[str, Any] = {
        "used": memory.used,
        "max": memory.limit,
        "share": round(memory.share, 4),
        "pressure": round(memory.pressure, 4),
        "bytes": memory.users,
    }
    if not memory.limit:
        words = "Redis has no maxmemory: one tenant's outage can take the whole machine's memory."
        return Part("memory", WARNING, words, facts)
    state = usage.state(memory)
    if state == usage.State.WELL:
        return Part("memory", OK, f"{memory.share:.0%} of maxmemory are used.", facts)
    words = f"{usage.EFFECTS[state]}. {usage.sentence(memory)}"
    return Part("memory", WARNING, words, facts)


# -- the rest -------------------------------------------------------------------------------


def _stored(outbox: Outbox, settings: Settings) -> list[Part]:
    """Check the database, and the secrets in it if the database works."""
    database = _guarded("database", lambda: database_part(outbox, settings))
    return [database] if database.state == FAILURE else [database, _guarded("secrets", _secrets)]


def _secrets() -> Part:
    found = rotation.sample()
    facts = {"closed": found.closed, "plain": found.plain}
    if found.closed:
        words = (
            "Stored secrets open with none of the keys in ENCRYPTION_KEY: their lanes wait. "
            "`flask --app app secrets check` counts all of them."
        )
        return Part("secrets", WARNING, words, facts)
    if found.plain:
        words = "Stored secrets are not sealed: run `flask --app app secrets rotate`."
        return Part("secrets", WARNING, words, facts)
    return Part("secrets", OK, "The oldest and the newest of them open.", facts)


def database_part(outbox: Outbox, settings: Settings) -> Part:
    """Check the database, and that it has the rows of Redis' lanes. Raises `Unavailable`."""
    kind = "sqlite" if db.is_sqlite() else "postgresql"
    pending = db.pending()
    facts: dict[str, Any] = {"kind": kind, "pending": pending}
    if pending:
        missing = counted(len(pending), "migration is", "migrations are")
        words = f"{missing} missing: run `flask --app app db upgrade`."
        return Part("database", FAILURE, words, facts)
    try:
        lanes = totals.some_lanes(outbox, settings.outbox_partitions, LANES_LOOKED_AT)
    except OutboxDown:  # another part reports it
        lanes = []
    unknown = len(lanes) - len(configuration.known_lanes(lanes))
    facts |= {"lanesLookedAt": len(lanes), "lanesUnknown": unknown}
    if unknown and unknown == len(lanes):
        words = (
            "Redis has events for lanes, and the database knows none of them. The database is "
            "empty, or another one. The events are kept, not delivered and not deleted. Point "
            "DATABASE_URL or EVOFLASK_HOME at the right database. After a restore run "
            "`flask --app app db adopt`."
        )
        return Part("database", FAILURE, words, facts)
    if unknown:
        words = (
            f"{unknown} of {counted(len(lanes), 'checked lane')} of Redis "
            f"{'has' if unknown == 1 else 'have'} no row. Their events are kept, not delivered. "
            "`flask --app app audit` lists all such lanes."
        )
        return Part("database", WARNING, words, facts)
    return Part("database", OK, "It answers, and has every migration.", facts)


def _clock(outbox: Outbox) -> Part:
    done = Timetable(outbox).last_done()
    now = time.time()
    ages = {name: round(max(0.0, now - at), 1) for name, at in sorted(done.items())}
    facts = {"secondsSince": ages}
    if not ages or min(ages.values()) > SILENT:
        words = "No chores are done: is the clock running? Retries, limits and letters wait."
        return Part("clock", WARNING, words, facts)
    late = [name for name, age in ages.items() if age > NEGLECTED]
    if late:
        words = f"Chores that fail: {', '.join(late)}; the clock's log says why."
        return Part("clock", WARNING, words, facts)
    return Part("clock", OK, "The chores are done.", facts)


def _key(settings: Settings) -> Part:
    if not settings.api_key:
        return Part("key", FAILURE, "AUTHENTICATION_API_KEY is not set: the server will not start.")
    if len(settings.api_key) < 16:
        return Part("key", WARNING, "AUTHENTICATION_API_KEY has fewer than 16 characters.")
    return Part("key", OK, "AUTHENTICATION_API_KEY is set.")


def _bells(settings: Settings) -> Part:
    try:
        with bell.connect(settings.rq_redis_url) as connection:
            heard = bell.listeners(connection)
    except (redis.RedisError, OSError) as error:
        words = (
            f"RQ's Redis cannot be used ({type(error).__name__}): events are still delivered, "
            "some seconds later."
        )
        return Part("bells", WARNING, words)
    deaf = [name for name in delivering() if not heard.get(name)]
    facts = {"listeners": heard}
    if deaf:
        words = f"No worker listens for {', '.join(deaf)}: what is routed there waits."
        return Part("bells", WARNING, words, facts)
    return Part("bells", OK, "Workers listen for every sink.", facts)


def _workers(outbox: Outbox, settings: Settings) -> Part:
    names = delivering()
    partitions = settings.outbox_partitions
    awake = totals.awake(outbox, names, partitions)
    oldest = totals.read(outbox, names, partitions).oldest
    facts = {"awake": awake, "oldestWaiting": {k: round(v, 1) for k, v in oldest.items()}}
    words = f"Awake for {', '.join(awake)}." if awake else "None is awake: nothing is due, or "
    return Part("workers", OK, words if awake else words + "none runs.", facts)


def _letters() -> Part:
    open_ = deadletters.by_sink()
    if not open_:
        return Part("dead letters", OK, "There are none.")
    words = ", ".join(f"{n} of {sink}" for sink, n in open_.items())
    return Part("dead letters", WARNING, f"Somebody should look at: {words}.", {"open": open_})
