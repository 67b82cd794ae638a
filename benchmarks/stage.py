"""What a benchmark runs on: a real Redis, a database, a receiver in its own process, tenants."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import orjson

from evoflask import configuration, db, keyring, models, vault
from evoflask.dev.postgres_server import PostgresServer
from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import RedisServer
from evoflask.ids import event_id, random_id
from evoflask.models import Instance, Subscription
from evoflask.outbox import NewEntry, Outbox, connect, totals, verbs
from evoflask.outbox.members import key_hash
from evoflask.settings import Settings
from evoflask.vault import new_key

BODY = 1075
"""Bytes of a text message's `data`, the commonest body that has weight."""
CHATS = 40
"""Conversations an instance's events are spread over."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds and CPU seconds of some events. CPU is of the process that does the work, not
    of the receiver, the client or Redis."""

    name: str
    events: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def micros(self) -> float:
        return self.cpu / self.events * 1e6


@dataclass(frozen=True, slots=True)
class Tenant:
    """One instance with one subscription."""

    outbox: str
    lane: str


def data(n: int) -> bytes:
    """A message's JSON, synthetic, of `BODY` bytes."""
    message = {
        "key": {"remoteJid": f"{n % CHATS}@s.whatsapp.net", "fromMe": False, "id": f"{n:032x}"},
        "pushName": "Somebody",
        "messageType": "conversation",
        "message": {"conversation": ""},
    }
    short = len(orjson.dumps(message))
    message["message"] = {"conversation": "x" * (BODY - short)}
    return orjson.dumps(message)


class Stage:
    """The servers, and tenants filled by hand."""

    def __init__(self, settings: Settings, receiver: Receiver, redis_pid: int = 0) -> None:
        self.settings = settings
        self.redis_pid = redis_pid
        self.receiver = receiver
        self.outbox = Outbox(connect(settings.redis_url))
        vault.unlock(settings)
        db.connect(settings)
        db.upgrade()

    @property
    def webhook(self) -> dict[str, Any]:
        """Settings of a webhook to the receiver."""
        url = self.receiver.url("/ok")
        return {"url": url, "headers": {}, "byEvents": False, "base64": False}

    def tenants(self, count: int, sink: str, subscription: dict[str, Any]) -> list[Tenant]:
        """Instances with a subscription of this sink, made in bulk."""
        made = [Tenant(random_id(), random_id()) for _ in range(count)]
        with db.writing():
            for n in range(0, count, 50):
                self._insert(made[n : n + 50], sink, subscription)
        configuration.push_all(self.outbox)
        return made

    def _insert(self, made: list[Tenant], sink: str, subscription: dict[str, Any]) -> None:
        Instance.insert_many(
            {
                "name": t.outbox,
                "outbox": t.outbox,
                "token_sha256": keyring.digest(t.outbox),
                "integration": "EVOLUTION",
            }
            for t in made
        ).execute()
        rows = Instance.select().where(Instance.outbox.in_([t.outbox for t in made]))
        ids = {row.outbox: row.id for row in rows}
        Subscription.insert_many(
            {
                "instance": ids[t.outbox],
                "name": sink,
                "sink": sink,
                "lane": t.lane,
                "enabled": True,
                "format": "standard",
                "concurrency": 8,
                "order_by": "data.key.remoteJid",
                "on_failure": "pass",
                "timeout": 30.0,
                "settings": orjson.dumps(subscription).decode(),
            }
            for t in made
        ).execute()

    def fill(
        self, tenants: Sequence[Tenant], events: int, bodies: Sequence[bytes] | None = None
    ) -> None:
        """Spread events over the tenants, appended in batches. `bodies`: their data in turn."""
        limits = verbs.Limits(retain_entries=self.settings.outbox_retain_entries)
        epoch = models.epoch()
        each, more = divmod(events, len(tenants))
        for t, tenant in enumerate(tenants):
            count = each + (t < more)
            for n in range(0, count, 100):
                some = range(n, min(n + 100, count))
                entries = [
                    self._entry(
                        tenant, k, data(k) if bodies is None else bodies[(t + k * 7) % len(bodies)]
                    )
                    for k in some
                ]
                call = verbs.append(0, tenant.outbox, 1, epoch, entries, limits)
                assert self.outbox.run(call).status == "ok"
        wait_for(self._rewritten, 600, "Redis' rewriting of its file", 0.05)

    def _rewritten(self) -> bool:
        """Whether Redis has done what filling sets off: a child of it writes the whole file anew
        once it has doubled, beyond 64 MiB, and that is not what an event's delivery costs."""
        state = self.outbox.redis.info("persistence")
        size = state["aof_current_size"]
        due = size > max(64 << 20, 2 * state["aof_base_size"])
        return not (due or state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])

    def _entry(self, tenant: Tenant, n: int, body: bytes) -> NewEntry:
        key = key_hash(b'"%d@s.whatsapp.net"' % (n % CHATS))
        to = ((tenant.lane, key),)
        return NewEntry(event_id(), False, "MESSAGES_UPSERT", b"{}", body, to)

    def delivered(self, sink: str) -> int:
        """What was delivered to sinks of this type, by the books."""
        return totals.read(self.outbox, [sink], 1).of(sink, "delivered")

    def wait_for(self, events: int, seconds: float) -> float:
        """Seconds until the receiver has them; it is asked rarely, to cost nothing."""
        began = time.perf_counter()
        while self.receiver.count() < events:
            if time.perf_counter() - began > seconds:
                raise TimeoutError(f"{self.receiver.count()} of {events} arrived")
            time.sleep(0.05)
        return time.perf_counter() - began


DATABASES = ("sqlite", "postgres")


@contextmanager
def _database(kind: str, home: Path) -> Iterator[str]:
    """Its URL. Both write a commit to the disk before they answer."""
    if kind == "sqlite":
        yield f"sqlite:///{home}/rows.db"
        return
    with PostgresServer(home / "postgres") as server:
        yield server.create("bench")


@contextmanager
def stage(database: str = "sqlite", **changes: object) -> Iterator[Stage]:
    """Everything, on loopback, gone afterwards. `database`: one of `DATABASES`."""
    with (
        tempfile.TemporaryDirectory() as name,
        Receiver() as receiver,
        _database(database, Path(name)) as url,
    ):
        home = Path(name)
        with RedisServer(
            home / "redis", socket=home / "s", appendonly=True, maxmemory="12gb"
        ) as redis:
            settings = replace(
                Settings(),
                home=home,
                redis_url=redis.url,
                rq_redis_url=redis.url,
                database_url=url,
                api_key="bench",
                encryption_key=(new_key(),),
                webhook_allow_networks=(ip_network("127.0.0.0/8"),),
                **changes,  # type: ignore[arg-type]
            )
            receiver.control(record=False)
            yield Stage(settings, receiver, redis.process.pid)
