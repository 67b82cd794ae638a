"""The rows. One table for all sinks: what only one sink has lies in `settings`, validated by
that sink's schema, so a new sink needs no migration.

Dates are Unix seconds. Ids that leave the database (`outbox`, `lane`) are random: row numbers
are given again by SQLite and by a restored database.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
import peewee

from evoflask import ordering, vault
from evoflask.db import database, translate
from evoflask.ids import random_id
from evoflask.ordering import OrderBy
from evoflask.signing import SigningKey
from evoflask.vault import Sealed


class JsonField(peewee.TextField):
    """Any JSON value as text, the same in SQLite and PostgreSQL."""

    def db_value(self, value: Any) -> Any:
        """What is stored."""
        return None if value is None else orjson.dumps(value).decode()

    def python_value(self, value: Any) -> Any:
        """What the row shows."""
        return None if value is None else orjson.loads(value)


class SecretField(peewee.TextField):
    """A text that is sealed in the database. A row shows it closed: `.open()` where it is used."""

    def db_value(self, value: str | Sealed | None) -> str | None:
        """What is stored. A closed one is stored as it is."""
        if value is None or isinstance(value, Sealed):
            return None if value is None else value.text
        return vault.current().seal(value)

    def python_value(self, value: str | None) -> Sealed | None:
        """What the row shows."""
        return None if value is None else Sealed(value)


class Row(peewee.Model):
    """Base of all tables."""

    class Meta:
        database = database
        legacy_table_names = False


class Meta(Row):
    """Facts about the database itself. `epoch` is drawn when it is made, and again when a
    restored one is adopted: with a revision it says which of two states is the later one."""

    key = peewee.CharField(primary_key=True, max_length=40)
    value = peewee.TextField()


class Instance(Row):
    """A tenant. Its name is free again once `deleted_at` is set; the row stays as a tombstone
    until its Redis keys are gone."""

    id = peewee.AutoField()
    name = peewee.CharField(max_length=100)
    outbox = peewee.CharField(max_length=16, unique=True, default=random_id)
    partition = peewee.IntegerField(default=0)
    token_sha256 = peewee.CharField(max_length=64, index=True)
    token = SecretField(null=True)
    """The token itself, where `fetchInstances` may show it again."""
    integration = peewee.CharField(max_length=40)
    number = peewee.CharField(max_length=100, null=True)
    revision = peewee.IntegerField(default=1)
    pushed = peewee.IntegerField(default=0)
    """The revision that Redis was told last; 0 = none."""
    deleted_at = peewee.DoubleField(null=True)
    created_at = peewee.DoubleField(default=time.time)
    updated_at = peewee.DoubleField(default=time.time)


Instance.add_index(
    Instance.index(
        Instance.name, unique=True, where=Instance.deleted_at.is_null(), name="instance_live_name"
    )
)
Instance.add_index(
    Instance.index(
        Instance.id, where=Instance.pushed != Instance.revision, name="instance_not_pushed"
    )
)
Instance.add_index(
    Instance.index(
        Instance.deleted_at, where=Instance.deleted_at.is_null(False), name="instance_tombstone"
    )
)


class Subscription(Row):
    """One destination of one instance, and the lane that leads to it."""

    id = peewee.AutoField()
    instance = peewee.ForeignKeyField(Instance, backref="subscriptions", on_delete="CASCADE")
    name = peewee.CharField(max_length=100)
    sink = peewee.CharField(max_length=20)
    lane = peewee.CharField(max_length=16, unique=True, default=random_id)
    enabled = peewee.BooleanField()
    stopped = peewee.BooleanField(default=False)
    """Paused by an operator: a flag apart from `enabled`, so that undoing one keeps the other."""
    events = JsonField(default=list)
    format = peewee.CharField(max_length=20)
    concurrency = peewee.IntegerField()
    order_by = peewee.CharField(max_length=200, null=True)
    """The one path that releases before `order_rule` read and write."""
    order_rule = peewee.TextField(null=True)
    """`orderBy` as JSON, in force while it fits `order_by`: see `ordering.of_row`."""
    on_failure = peewee.CharField(max_length=10)
    retry = JsonField(null=True)
    """Seconds before each further try; None: the server's schedule."""
    timeout = peewee.DoubleField()
    secret = SecretField(null=True)
    """What webhooks are signed with, `whsec_…`."""
    signing = SecretField(null=True)
    """Keys beside `secret`, as JSON: replaced ones, and those of other kinds."""
    settings = SecretField(default="{}")
    """The sink's own, as JSON, sealed as a whole: URLs and headers carry keys too."""
    version = peewee.IntegerField(default=1)
    created_at = peewee.DoubleField(default=time.time)
    updated_at = peewee.DoubleField(default=time.time)

    class Meta:
        indexes = ((("instance", "name"), True),)

    @property
    def order(self) -> tuple[OrderBy, int]:
        """Return `orderBy` and `concurrency`. An older release's null means one event at a time."""
        order_by, serial = ordering.of_row(self.order_by, self.order_rule)
        return order_by, 1 if serial else self.concurrency

    def open_settings(self) -> dict[str, Any]:
        """The sink's own settings. Raises `Undecipherable`."""
        found: dict[str, Any] = orjson.loads(self.settings.open())
        return found

    def open_secret(self) -> str | None:
        """What webhooks are signed with. Raises `Undecipherable`."""
        return None if self.secret is None else self.secret.open()

    def open_keys(self) -> list[SigningKey]:
        """Every key that webhooks are signed with, those in use first. Raises
        `Undecipherable`."""
        secret = self.open_secret()
        more = [] if self.signing is None else orjson.loads(self.signing.open())
        return [*([SigningKey(secret)] if secret else []), *(SigningKey(*each) for each in more)]


class DeadLetter(Row):
    """A delivery that was given up, with body and reason.

    No foreign keys: a letter outlives its subscription (and then answers 409 to a requeue).
    A row that was requeued or discarded stays for a day without its body, so that a late
    `bury` finds it and writes no ghost.
    """

    id = peewee.BigAutoField()
    instance_id = peewee.IntegerField()
    instance_name = peewee.CharField(max_length=100)
    subscription_id = peewee.IntegerField()
    subscription_name = peewee.CharField(max_length=100)
    lane = peewee.CharField(max_length=16)
    sink = peewee.CharField(max_length=20)
    entry = peewee.CharField(max_length=60)
    """The outbox entry, as the lane's member: 42 characters for a body of 16 MB."""
    event_id = peewee.CharField(max_length=128)
    event = peewee.CharField(max_length=40)
    order_keys = JsonField(null=True)
    at = peewee.DoubleField()
    """When the event was accepted."""
    size = peewee.IntegerField()
    """Bytes of the body."""
    reason = peewee.CharField(max_length=40)
    code = peewee.CharField(max_length=40)
    detail = peewee.TextField()
    tries = peewee.IntegerField()
    meta = JsonField(default=dict)
    created_at = peewee.DoubleField(default=time.time)
    requeued_at = peewee.DoubleField(null=True)
    requeued_run = peewee.CharField(max_length=60, null=True)
    """Run id of the Redis that took the requeue."""
    discarded_at = peewee.DoubleField(null=True)
    data = peewee.BlobField(null=True)
    """The body, last: SQLite walks over all of it to get at a column behind it."""

    class Meta:
        indexes = (
            (("lane", "entry"), True),
            (("instance_id", "id"), False),
        )


def _index_letters() -> None:
    """Partial ones: what was dealt with costs the lists nothing, and the other way round. They
    carry their own condition, or SQLite would look at each row to check it; and whatever a
    filter may name, so that a million letters are counted without a look at a row."""
    letter = DeadLetter
    is_open = letter.requeued_at.is_null() & letter.discarded_at.is_null()
    state = (letter.requeued_at, letter.discarded_at)
    named = (letter.reason, letter.sink, letter.subscription_name, letter.event, letter.code)
    once = letter.requeued_at.is_null(False)
    marked = letter.requeued_run.is_null(False)
    gone = letter.discarded_at.is_null(False)
    of_one = (letter.instance_id, letter.lane, *named, letter.created_at, letter.size, *state)
    of_all = (*named, letter.created_at, letter.instance_id, letter.lane, letter.size)
    for name, columns, where in (
        ("open", of_one, is_open),
        ("reason", (*of_all, letter.detail, *state), is_open),
        ("order", (letter.lane, letter.entry), is_open),
        ("age", (letter.created_at, *state), is_open),
        ("marked", (letter.requeued_run, letter.requeued_at), marked),
        ("requeued", (letter.requeued_at, letter.requeued_run), once),
        ("discarded", (letter.discarded_at,), gone),
    ):
        letter.add_index(letter.index(*columns, where=where, name=f"dead_letter_{name}"))


_index_letters()


MIRRORED = (
    DeadLetter.requeued_at.is_null()
    & DeadLetter.discarded_at.is_null()
    & (DeadLetter.reason != peewee.SQL("'expired'"))
)
"""The letters that may be shown as failed jobs. The word stands in the text of the statement:
given as a parameter, SQLite would not see that the index below answers it."""

DeadLetter.add_index(
    DeadLetter.index(
        DeadLetter.id,
        DeadLetter.sink,
        # These three make it a covering one.
        DeadLetter.reason,
        DeadLetter.requeued_at,
        DeadLetter.discarded_at,
        where=MIRRORED,
        name="dead_letter_mirrored",
    )
)


class AuditLog(Row):
    """One thing that somebody did. No foreign keys: it outlives what it tells of."""

    id = peewee.BigAutoField()
    at = peewee.DoubleField(default=time.time)
    by = peewee.CharField(max_length=120)
    """The name of the key: `global`, `instance:<name>`, `cli`, `dashboard`, `clock`."""
    action = peewee.CharField(max_length=40)
    """`lane.pause`, `deadletter.requeue`: the noun and the verb."""
    instance_id = peewee.IntegerField(null=True)
    """Row of the instance it concerned; None: of several, or of none."""
    instance_name = peewee.CharField(max_length=100, null=True)
    subscription_name = peewee.CharField(max_length=100, null=True)
    facts = JsonField(default=dict)


AuditLog.add_index(AuditLog.index(AuditLog.instance_id, AuditLog.id, name="audit_log_instance"))


class Operation(Row):
    """A long action by hand that was not over after its first piece. See `operations`."""

    id = peewee.BigAutoField()
    kind = peewee.CharField(max_length=20)
    scope_instance_id = peewee.IntegerField(null=True)
    """Row of the instance that it concerns, whose token sees it; None: of several."""
    wanted = JsonField(default=dict)
    """What it was asked to handle, in the words of its kind."""
    onto = JsonField(null=True)
    """The subscription that it delivers to, where that is another one."""
    rate = peewee.DoubleField(null=True)
    """Deliveries a second at most."""
    by = peewee.CharField(max_length=120)
    state = peewee.CharField(max_length=10, default="running")
    """`running`, `done`, `cancelled`, `failed`."""
    total = peewee.IntegerField(default=0)
    """How many there were to handle when it began."""
    done = peewee.IntegerField(default=0)
    failed = peewee.IntegerField(default=0)
    cursor = JsonField(null=True)
    """Where the next piece begins, in the words of its kind."""
    error = peewee.TextField(null=True)
    """What keeps it from going on, or ended it."""
    created_at = peewee.DoubleField(default=time.time)
    updated_at = peewee.DoubleField(default=time.time)
    """When its last piece ended."""
    ended_at = peewee.DoubleField(null=True)


Operation.add_index(
    Operation.index(
        Operation.updated_at, where=Operation.state == "running", name="operation_running"
    )
)
Operation.add_index(
    Operation.index(Operation.scope_instance_id, Operation.id, name="operation_scope")
)


class DeliveryLog(Row):
    """One attempt. No foreign keys: names are those of the moment at which it was made."""

    id = peewee.BigAutoField()
    instance_id = peewee.IntegerField()
    instance_name = peewee.CharField(max_length=100)
    subscription_name = peewee.CharField(max_length=100)
    sink = peewee.CharField(max_length=20)
    lane = peewee.CharField(max_length=16)
    entry = peewee.CharField(max_length=40)
    """The outbox entry, as the stream has it."""
    event_id = peewee.CharField(max_length=128)
    event = peewee.CharField(max_length=40)
    number = peewee.IntegerField()
    """1 for the first try."""
    at = peewee.DoubleField()
    """When it began."""
    seconds = peewee.DoubleField()
    outcome = peewee.CharField(max_length=20)
    code = peewee.TextField()
    detail = peewee.TextField()
    host = peewee.TextField()
    answer = peewee.TextField()

    @property
    def queued_at(self) -> float:
        """When the event came onto the lane: its acceptance, requeue or replay, Unix seconds."""
        return int(self.entry.partition("-")[0]) / 1000


DeliveryLog.add_index(DeliveryLog.index(DeliveryLog.event_id, name="delivery_log_event"))
DeliveryLog.add_index(
    DeliveryLog.index(
        DeliveryLog.instance_id,
        DeliveryLog.subscription_name,
        DeliveryLog.id,
        name="delivery_log_lane",
    )
)
DeliveryLog.add_index(DeliveryLog.index(DeliveryLog.at, name="delivery_log_at"))


TABLES: tuple[type[Row], ...] = (
    Meta,
    Instance,
    Subscription,
    DeadLetter,
    AuditLog,
    Operation,
    DeliveryLog,
)


def epoch() -> str:
    """The database's epoch."""
    with translate():
        return str(Meta.get_by_id("epoch").value)
