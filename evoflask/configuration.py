"""Every change of configuration, and what the other processes read of it.

A change is one transaction that raises the instance's revision (and the version of each
subscription that it touches). After the commit `push` reads the rows again and tells Redis
the whole of it, which is what makes the change hold everywhere: an append with an older
revision is refused there. The row notes what was pushed; the clock pushes what was not.
"""

from __future__ import annotations

import logging
import secrets
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import peewee

from evoflask import auditlog, db, limits, ordering, schemas, signing, sinks
from evoflask.errors import (
    BadInput,
    Conflict,
    DatabaseDown,
    NameTaken,
    NotFound,
    OutboxDown,
    Unavailable,
    Undecipherable,
)
from evoflask.ids import NAME, OPERATOR, random_id
from evoflask.keyring import digest
from evoflask.models import AuditLog, DeadLetter, Instance, Meta, Subscription
from evoflask.net import aws, guard
from evoflask.net.names import Names
from evoflask.outbox import Configured, LaneConfig, Outbox, verbs
from evoflask.routing import Route, Rule
from evoflask.schemas import NewInstance, NewSubscription, Patch
from evoflask.settings import Settings
from evoflask.signing import SigningKey
from evoflask.sinks.base import Target

log = logging.getLogger(__name__)

STORED: Final = "It is stored, and takes hold when the outbox is back."
NOT_KEPT: Final = "The outbox cannot be reached, or refuses; nothing was kept."

_PAGE: Final = 200
"""Instances read at once by what walks over all of them."""

_LETTERS: Final = 500
"""Letters deleted in one transaction: SQLite's other writers wait for it."""

_EPOCH: Final = "epoch"
"""The database's epoch as a column beside a row's own."""

_COLUMNS: Final = {
    "enabled": "enabled",
    "events": "events",
    "format": "format",
    "concurrency": "concurrency",
    "orderBy": "order_by",
    "onFailure": "on_failure",
    "retry": "retry",
    "timeout": "timeout",
}
"""The common fields of a body, and the columns that hold them."""


@dataclass(frozen=True, slots=True)
class State:
    """An instance with its subscriptions and the database's epoch, as of one moment."""

    instance: Instance
    epoch: str
    subscriptions: tuple[Subscription, ...]

    def sink(self, name: str) -> Subscription | None:
        """The subscription that the Evolution-style routes of a sink manage."""
        return next((each for each in self.subscriptions if each.name == name), None)


@dataclass(frozen=True, slots=True)
class Created:
    """A new instance, and its token, which nobody can read again."""

    state: State
    token: str


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What a drain must know of a lane. `retry` None: the server's schedule, in seconds."""

    target: Target
    concurrency: int
    wait: bool
    retry: tuple[float, ...] | None
    instance_id: int
    instance_name: str
    subscription_name: str


# --- reading ---------------------------------------------------------------------------------


def _live(name: str) -> Any:
    return (Instance.name == name) & Instance.deleted_at.is_null()


def _states(where: Any, limit: int | None = None) -> list[State]:
    """One statement, so that row, subscriptions and epoch are of one moment."""
    ids = Instance.select(Instance.id).where(where).order_by(Instance.id)
    epoch = Meta.select(Meta.value).where(Meta.key == "epoch")
    query = (
        Instance.select(Instance, Subscription, epoch.alias(_EPOCH))
        .join(Subscription, peewee.JOIN.LEFT_OUTER, attr="joined")
        .where(where if limit is None else Instance.id.in_(ids.limit(limit)))
        .order_by(Instance.id, Subscription.id)
    )
    found: dict[int, tuple[Instance, list[Subscription]]] = {}
    with db.translate():
        for row in query:
            _, subscriptions = found.setdefault(row.id, (row, []))
            joined = getattr(row, "joined", None)
            if joined is not None and joined.id is not None:
                joined.instance = row  # else the first look at it is a query
                subscriptions.append(joined)
    return [State(row, str(getattr(row, _EPOCH)), tuple(subs)) for row, subs in found.values()]


def find(name: str) -> State | None:
    """A live instance by name."""
    if not NAME.fullmatch(name):
        return None
    return next(iter(_states(_live(name))), None)


def get(name: str) -> State:
    """The same. Raises `NotFound`."""
    state = find(name)
    if state is None:
        raise _no_instance(name)
    return state


def by_id(instance: int) -> Instance | None:
    """The row of an instance that was not deleted."""
    with db.translate():
        row: Instance | None = Instance.get_or_none(
            (Instance.id == instance) & Instance.deleted_at.is_null()
        )
    return row


def get_subscription(name: str, subscription: str) -> Subscription:
    """Raises `NotFound`."""
    found = get(name).sink(subscription)
    if found is None:
        raise _no_subscription(subscription)
    return found


def list_instances(
    *,
    token_sha256: str | None = None,
    name: str | None = None,
    outbox: str | None = None,
    number: str | None = None,
) -> list[State]:
    """Live instances of tenants in the order of their creation. A None does not restrict."""
    where = Instance.deleted_at.is_null() & (Instance.name != OPERATOR)
    for column, value in (
        (Instance.token_sha256, token_sha256),
        (Instance.name, name),
        (Instance.outbox, outbox),
        (Instance.number, number),
    ):
        if value is not None:
            if "\x00" in value:  # PostgreSQL takes none in a parameter
                return []
            where &= column == value
    return _states(where)


def live_tokens(digests: Collection[str]) -> set[str]:
    """Return the digests that are tokens of live instances, by one query. Raises
    `DatabaseDown`."""
    with db.translate():
        query = Instance.select(Instance.token_sha256).where(
            Instance.token_sha256.in_(list(digests)) & Instance.deleted_at.is_null()
        )
        return {row.token_sha256 for row in query}


def read_route(name: str) -> Route | None:
    """A live instance as an emit sees it; the hidden one too."""
    state = next(iter(_states(_live(name))), None) if name == OPERATOR else find(name)
    if state is None:
        return None
    row = state.instance
    return Route(
        name=row.name,
        outbox=row.outbox,
        partition=row.partition,
        revision=row.revision,
        epoch=state.epoch,
        token_sha256=row.token_sha256,
        rules=tuple(rule_of(each) for each in state.subscriptions),
    )


def rule_of(row: Subscription) -> Rule:
    """Return a subscription as routing sees it."""
    return Rule(
        lane=row.lane,
        name=row.name,
        sink=row.sink,
        enabled=row.enabled,
        events=frozenset(row.events),
        order=ordering.compiled(*row.order),
    )


def read_lane_settings(lanes: Iterable[str]) -> dict[str, LaneSettings | None]:
    """What a drain must know of these lanes, in one query. A lane without a row is left out;
    None: its secrets open with no key."""
    query = (
        Subscription.select(Subscription, Instance)
        .join(Instance)
        .where(Subscription.lane.in_(list(lanes)) & Instance.deleted_at.is_null())
    )
    with db.translate():
        rows = list(query)
    found: dict[str, LaneSettings | None] = {}
    for row in rows:
        try:
            found[row.lane] = _lane_settings(row)
        except Undecipherable:
            found[row.lane] = None
    return found


def read_target(lane: str) -> Target | None:
    """A lane's subscription as its sink sees it."""
    settings = read_lane_settings([lane]).get(lane)
    return settings.target if settings else None


def known_lanes(lanes: Iterable[str]) -> set[str]:
    """Return the lanes that have a row. Raises `DatabaseDown`."""
    query = Subscription.select(Subscription.lane).where(Subscription.lane.in_(list(lanes)))
    with db.translate():
        return {row.lane for row in query}


def operator_target() -> Target | None:
    """Return the destination of the operator's events, or None if there is none.

    Raises `DatabaseDown`, `Undecipherable`.
    """
    query = Subscription.select(Subscription, Instance).join(Instance)
    with db.translate():
        row: Subscription | None = query.where(_live(OPERATOR) & Subscription.enabled).first()
    return None if row is None else _lane_settings(row).target


def _lane_settings(row: Subscription) -> LaneSettings:
    return LaneSettings(
        target=Target(
            sid=row.lane,
            version=row.version,
            instance=row.instance.name,
            sink=row.sink,
            format=row.format,
            timeout=row.timeout,
            settings=row.open_settings(),
            keys=tuple(row.open_keys()),
        ),
        concurrency=row.order[1],
        wait=row.on_failure == "wait",
        retry=None if row.retry is None else tuple(row.retry),
        instance_id=row.instance.id,
        instance_name=row.instance.name,
        subscription_name=row.name,
    )


# --- telling Redis ---------------------------------------------------------------------------


def push(outbox: Outbox, i: str) -> Configured:
    """Bring Redis in line with the row of the outbox `<i>`, as it is now.

    Raises `OutboxDown`, `OutboxFull` or `DatabaseDown`. A row that is gone changes nothing.
    """
    states = _states(Instance.outbox == i)
    return _push(outbox, states[0]) if states else Configured()


def push_row(outbox: Outbox, row: Instance) -> Configured:
    """The same for a row that the caller has."""
    return push(outbox, row.outbox)


def push_stale(outbox: Outbox, limit: int = _PAGE, *, idle: float = 2.0) -> int:
    """Push rows that Redis was not told of. Returns how many.

    `idle`: a row is left to the process that changed it for so many seconds, because a
    delete's count of discarded deliveries goes to whoever pushes it.
    """
    where = (Instance.pushed != Instance.revision) & (Instance.updated_at < time.time() - idle)
    states = _states(where, limit)
    for state in states:
        _push(outbox, state)
    return len(states)


def push_all(outbox: Outbox, *, between: Callable[[], object] = lambda: None) -> int:
    """Push every row, tombstones too: for a Redis that lost something. Returns how many.
    `between` is called now and then: the caller may have a lease to keep."""
    done, last = 0, 0
    while states := _states(Instance.id > last, _PAGE):
        for state in states:
            _push(outbox, state)
        done, last = done + len(states), states[-1].instance.id
        between()
    return done


def _push(outbox: Outbox, state: State) -> Configured:
    row = state.instance
    outbox.add_partition(row.partition)
    lanes = [_lane(each) for each in state.subscriptions if each.sink != "websocket"]
    configured = outbox.run(
        verbs.configure(
            row.partition,
            row.outbox,
            row.revision,
            state.epoch,
            lanes,
            deleted=row.deleted_at is not None,
        )
    )
    if not configured.newer and row.pushed != row.revision:
        _note_pushed(row)
    return configured


def _lane(row: Subscription) -> LaneConfig:
    return LaneConfig(
        s=row.lane,
        sink=row.sink,
        enabled=row.enabled,
        concurrency=row.order[1],
        wait=row.on_failure == "wait",
        stopped=row.stopped,
        version=row.version,
    )


def _note_pushed(row: Instance) -> None:
    """Redis knows already: when this fails, the clock pushes the same once more."""
    note = Instance.update(pushed=row.revision)
    try:
        with db.writing():
            note.where((Instance.id == row.id) & (Instance.pushed < row.revision)).execute()
    except DatabaseDown:
        log.warning("a pushed revision was not noted", extra={"instance": row.name})


# --- changing --------------------------------------------------------------------------------


class _Change:
    """A change under way; `state` and `told` are there when it is done."""

    state: State
    told: Configured

    def __init__(self, row: Instance) -> None:
        self.row = row

    def subscription(self, name: str) -> Subscription:
        """As it is now. Raises `NotFound` where somebody has deleted it, or all of them, since."""
        if self.state.instance.deleted_at is not None:
            raise _no_instance(self.row.name)
        found = self.state.sink(name)
        if found is None:
            raise _no_subscription(name)
        return found


class Configuration:
    """The one way in for changes. Holds no state but what it was made of."""

    def __init__(self, outbox: Outbox, settings: Settings) -> None:
        self._outbox = outbox
        self._settings = settings
        self._names = Names(settings.webhook_allow_networks)

    def create(self, new: NewInstance, *, by: str | None = None) -> Created:
        """A new instance with the sinks of its body. `by`, here and below: who does it by hand,
        for the audit log.

        Raises `NameTaken`, `BadInput`, `Unavailable`; nothing is kept then. The
        token cannot be shown again, so an instance whose push failed is taken back.
        """
        self._check_names(new.sinks.values())
        token = new.token or _new_token()
        row = self._insert(new, token, by)
        try:
            state, _ = self._tell(row)
        except Unavailable as error:
            with db.writing():
                _bury_row(row)
                _raise_revision(row)
                _note(by, "instance.delete", row, why=NOT_KEPT)
            raise OutboxDown(NOT_KEPT) from error
        return Created(state, token)

    def rotate_token(self, name: str, token: str | None, *, by: str | None = None) -> str:
        """Give an instance another token, drawn where none is given; the old one ends with this.
        Returns it: it cannot be read again.

        Raises `NotFound`, `Unavailable`.
        """
        token = token or _new_token()
        with self._changing(name) as change:
            shown = token if self._settings.expose_tokens else None
            values = {"token_sha256": digest(token), "token": shown}
            Instance.update(values).where(Instance.id == change.row.id).execute()
            _note(by, "instance.rotate_token", change.row)
        return token

    def delete(self, name: str, *, by: str | None = None) -> int:
        """Delete an instance, its subscriptions and letters. The name is free at once.

        Returns how many deliveries were discarded. Raises `NotFound`, `Unavailable`.
        """
        with self._changing(name) as change:
            _bury_row(change.row)
            noted = _note(by, "instance.delete", change.row)
        discarded = sum(change.told.discarded.values())
        _count(noted, discarded)
        _delete_letters(change.row.id)
        return discarded

    def set_sinks(
        self,
        name: str,
        patches: Mapping[str, Patch],
        *,
        enabled: bool | None = None,
        by: str | None = None,
    ) -> State:
        """Set the subscriptions that have their sinks' names, all of them or none.

        `enabled`: what a subscription is that says nothing about it, the first time. Returns
        the instance as stored. Raises `NotFound`, `BadInput`, `Unavailable`.
        """
        self._check_names(patches.values())
        with self._changing(name) as change:
            self._store(change.row, patches, enabled, by)
        for sink in patches:
            change.subscription(sink)
        return change.state

    def set_instance(self, name: str, data: Mapping[str, Any]) -> State:
        """The seed's verb: several sinks at once, a missing `enabled` means true."""
        return self.set_sinks(name, schemas.event_body(data).patches, enabled=True)

    def add(self, name: str, new: NewSubscription, *, by: str | None = None) -> Subscription:
        """A named subscription. Raises `Conflict` where the name is taken, else as `set_sinks`."""
        self._check_names([new.patch])
        with self._changing(name) as change:
            if _subscriptions(change.row).get(new.name):
                raise Conflict(f'This name "{new.name}" is already in use.')
            self._store(change.row, {new.name: new.patch}, None, by)
        return change.subscription(new.name)

    def change(
        self, name: str, subscription: str, patch: Patch, *, by: str | None = None
    ) -> Subscription:
        """Change what the patch names. Raises `NotFound`, else as `set_sinks`."""
        self._check_names([patch])
        with self._changing(name) as change:
            stored = _subscription(change.row, subscription)
            if stored.sink != patch.sink:  # deleted and made again since the body was checked
                raise Conflict("The subscription was replaced meanwhile; try again.")
            self._store(change.row, {subscription: patch}, None, by)
        return change.subscription(subscription)

    def stop(
        self, name: str, subscription: str, stopped: bool, *, by: str | None = None
    ) -> Subscription:
        """Pause a lane (its backlog stays), or let it go on, at once even if its failures had
        paused it. Raises `NotFound`, `Conflict`, `Unavailable`."""
        with self._changing(name) as change:
            stored = _subscription(change.row, subscription)
            if stored.sink == "websocket":
                raise Conflict("A websocket subscription has no lane.")
            # Another version ends the pause of a failing lane (configure.lua): whoever lets
            # it go on wants it looked at now. Stopping it leaves that pause as it is.
            version = Subscription.version + int(not stopped)
            flag = Subscription.update(stopped=stopped, version=version)
            flag.where(Subscription.id == stored.id).execute()
            _note(by, "lane.pause" if stopped else "lane.resume", change.row, subscription)
        return change.subscription(subscription)

    def disable_failing(self, lane: str, still: Callable[[], bool]) -> Subscription | None:
        """Disable the subscription of a lane, whose backlog stays. None: it is gone, or not
        failing any more: `still` is asked at the last moment, and once more when Redis knows,
        so that a success which came between undoes it. Raises `Unavailable`."""
        stored = self._enable(lane, False, still)
        if stored is not None and not still():
            self._enable(lane, True, lambda: True)
            return None
        return stored

    def _enable(self, lane: str, enabled: bool, may: Callable[[], bool]) -> Subscription | None:
        """Not through `_write`: another version would say that somebody mended it."""
        here = (Subscription.lane == lane) & Instance.deleted_at.is_null()
        with db.writing():
            # The instance is locked first, as by every other change of it.
            db.for_update(Instance.select().join(Subscription).where(here), Instance).first()
            home = Subscription.select(Subscription, Instance).join(Instance)
            stored: Subscription | None = home.where(here).first()
            if stored is None or not may():
                return None
            change = Subscription.update(enabled=enabled, updated_at=time.time())
            change.where(Subscription.id == stored.id).execute()
            _raise_revision(stored.instance)
        self._tell(stored.instance)
        return stored

    def set_operator(self, url: str, secret: str) -> bool:
        """Bring the hidden instance that tells the operator in line with the settings: made
        when there is a URL, disabled when there is none. Whether something changed. Raises
        `Unavailable`."""
        with db.writing():
            db.alone(OPERATOR)  # every clock does it when it starts
            row: Instance | None = Instance.select().where(_live(OPERATOR)).first()
            if row is None and not url:
                return False
            if row is None:
                nobody = digest(secrets.token_hex(32))
                row = Instance.create(name=OPERATOR, token_sha256=nobody, integration="EVOLUTION")
            stored = _subscriptions(row).get(OPERATOR[1:])
            given = {"enabled": bool(url), "url": url or None, "secret": secret or None}
            # By tenant, in the order in which things happened to it.
            patch = Patch("webhook", given | {"orderBy": ["data.instance"]}, "")
            old = _opened(stored)
            merged = schemas.merge(patch, old, None)
            if merged == old:
                return False
            _write(row, OPERATOR[1:], "webhook", merged, stored)
            _raise_revision(row)
        self._tell(row)
        return True

    def draw_key(
        self, name: str, subscription: str, kind: str, grace: float, *, by: str | None = None
    ) -> str:
        """Give it another key to sign with, one of `signing.KINDS`; the one before signs beside it
        for `grace` seconds. Returns the new one: a secret, or a private key.

        Raises `NotFound`, `Conflict` where it is no webhook, `Unavailable`.
        """
        drawn = signing.new_private_key() if kind == signing.ED25519 else signing.new_secret()
        with self._changing(name) as change:
            stored = _signing(change.row, subscription)
            old, now = stored.open_keys(), time.time()
            _write_keys(stored, signing.replace(old, kind, drawn, now=now, grace=grace))
            _note(by, "subscription.draw_key", change.row, subscription, kind=kind, grace=grace)
        return drawn

    def drop_keys(
        self, name: str, subscription: str, kinds: Iterable[str], *, by: str | None = None
    ) -> None:
        """Sign with keys of these kinds no more, at once. Raises as `draw_key`."""
        with self._changing(name) as change:
            stored = _signing(change.row, subscription)
            keys = stored.open_keys()
            for kind in kinds:
                keys = signing.without(keys, kind)
            _write_keys(stored, keys)
            _note(by, "subscription.drop_keys", change.row, subscription, kinds=sorted(kinds))

    def remove(self, name: str, subscription: str, *, by: str | None = None) -> int:
        """Delete a subscription. Returns how many deliveries were discarded.

        Raises `NotFound`, `Unavailable`.
        """
        with self._changing(name) as change:
            stored = _subscription(change.row, subscription)
            Subscription.delete().where(Subscription.id == stored.id).execute()
            facts = {"sink": stored.sink}
            noted = _note(by, "subscription.delete", change.row, subscription, **facts)
        discarded = change.told.discarded.get(stored.lane, 0)
        _count(noted, discarded)
        return discarded

    @contextmanager
    def _changing(self, name: str) -> Iterator[_Change]:
        """One change of an instance: locked, raised, committed, told to Redis."""
        with db.writing():
            change = _Change(_locked(name))
            yield change
            _raise_revision(change.row)
        change.state, change.told = self._tell(change.row)

    def _tell(self, row: Instance) -> tuple[State, Configured]:
        try:
            states = _states(Instance.id == row.id)
            if not states:  # deleted since, and forgotten
                raise _no_instance(row.name)
            return states[0], _push(self._outbox, states[0])
        except Unavailable as error:
            raise OutboxDown(STORED) from error

    def _insert(self, new: NewInstance, token: str, by: str | None) -> Instance:
        taken = NameTaken(f'This name "{new.name}" is already in use.')
        try:
            with db.writing():
                if Instance.select().where(_live(new.name)).exists():
                    raise taken
                self._check_instances()
                row: Instance = Instance.create(
                    name=new.name,
                    partition=secrets.randbelow(self._settings.outbox_partitions),
                    token_sha256=digest(token),
                    token=token if self._settings.expose_tokens else None,
                    integration=new.integration,
                    number=new.number,
                )
                _note(by, "instance.create", row)
                self._store(row, new.sinks, True, by)
        except peewee.IntegrityError as error:  # PostgreSQL lets two creators run side by side
            raise taken from error
        return row

    def _store(
        self,
        row: Instance,
        patches: Mapping[str, Patch],
        enabled: bool | None,
        by: str | None,
    ) -> None:
        """Write the subscriptions of these names: all are checked before one is written."""
        stored = _subscriptions(row)
        merged: dict[str, dict[str, Any]] = {}
        faults: list[str] = []
        for name, patch in patches.items():
            old = stored.get(name)
            try:
                merged[name] = schemas.merge(patch, fields_of(old) if old else None, enabled)
                self._check_server(patch, merged[name])
                self._check_address(patch, merged[name])
                self._check_queue(patch, merged[name])
                self._check_limits(patch, merged[name])
            except BadInput as error:
                faults += error.messages
        if faults:
            raise BadInput(*faults)
        most = self._settings.max_subscriptions
        if len(stored.keys() | merged.keys()) > max(most, len(stored)):
            raise Conflict(limits.too_many("subscriptions", most, "MAX_SUBSCRIPTIONS"))
        for name, patch in patches.items():
            _write(row, name, patch.sink, merged[name], stored.get(name))
            _note(
                by,
                "subscription.change" if name in stored else "subscription.create",
                row,
                name,
                sink=patch.sink,
                enabled=merged[name]["enabled"],
                # Which, and not what: a URL or a header may hold a secret.
                fields=sorted(patch.given),
            )

    def _check_limits(self, patch: Patch, merged: Mapping[str, Any]) -> None:
        """Of what is changed: whatever was stored before a limit came stays usable."""
        prefix = f"{patch.at}." if patch.at else ""
        beyond = [
            f"{prefix}{field}: {sentence}"
            for field, sentence in limits.faults(merged, self._settings)
            if field in patch.given
        ]
        if beyond:
            raise BadInput(*beyond)

    def _check_instances(self) -> None:
        """Within the transaction that makes one: creators queue here, where there is a limit."""
        most = self._settings.max_instances
        if not most:
            return
        db.for_update(Meta.select().where(Meta.key == "epoch")).first()
        live = Instance.deleted_at.is_null() & (Instance.name != OPERATOR)
        if Instance.select().where(live).count() >= most:
            raise Conflict(limits.too_many("instances", most, "MAX_INSTANCES"))

    def _check_server(self, patch: Patch, merged: Mapping[str, Any]) -> None:
        variable = sinks.lacks(patch.sink, self._settings) if merged["enabled"] else ""
        if variable:
            at = f"{patch.at}.enabled" if patch.at else "enabled"
            raise BadInput(f"{at}: {variable} is not set on the server, so there is none.")

    def _check_address(self, patch: Patch, merged: Mapping[str, Any]) -> None:
        """What is written out as an address, also where only something else was changed."""
        url = merged["url"] if patch.sink == "webhook" else None
        host = urlsplit(url).hostname if url else None
        if host and (why := guard.check_literal(host, self._settings.webhook_allow_networks)):
            raise BadInput(_unreachable(patch, why))

    def _check_names(self, patches: Iterable[Patch]) -> None:
        """What the names in these URLs stand for now. It may take a moment, so it is done before
        anything is locked. Raises `BadInput`."""
        faults = []
        for patch in patches:
            url = patch.given.get("url") if patch.sink == "webhook" else None
            host = urlsplit(url).hostname if url else None
            if host and (why := self._names.refusal(host)):
                faults.append(_unreachable(patch, why))
        if faults:
            raise BadInput(*faults)

    def _check_queue(self, patch: Patch, merged: Mapping[str, Any]) -> None:
        """A queue's URL names no host but AWS's or the operator's, and needs a region."""
        url = merged["queueUrl"] if patch.sink == "sqs" else None
        if url is None:
            return
        prefix = f"{patch.at}." if patch.at else ""
        try:
            queue = aws.read_queue(url, self._settings.sqs_endpoint_url)
        except aws.NotAQueue as error:
            raise BadInput(f"{prefix}queueUrl: {error}") from error
        if merged["enabled"] and not (queue.region or self._settings.sqs_region):
            raise BadInput(
                f"{prefix}enabled: SQS_REGION is not set on the server, "
                "and queueUrl names no region."
            )


def _unreachable(patch: Patch, why: str) -> str:
    at = f"{patch.at}.url" if patch.at else "url"
    return f"{at}: Must not be reached: {why}{guard.hint(why)}."


def _new_token() -> str:
    """In Evolution API's form: a random UUID in capitals."""
    return str(uuid.uuid4()).upper()


def _note(
    by: str | None, action: str, row: Instance, subscription: str | None = None, **facts: Any
) -> AuditLog | None:
    """In the audit log, within the transaction of what it tells of; None: nobody did it by hand."""
    return None if by is None else auditlog.note(by, action, row, subscription, **facts)


def _count(noted: AuditLog | None, discarded: int) -> None:
    """Add what went with it, which only Redis knew."""
    if noted is not None:
        auditlog.add(noted, discarded=discarded)


def common_of(row: Subscription) -> dict[str, Any]:
    """The fields that every sink has."""
    order_by, concurrency = row.order
    found = {field: getattr(row, column) for field, column in _COLUMNS.items()}
    return found | {"concurrency": concurrency, "orderBy": order_by}


def fields_of(row: Subscription) -> dict[str, Any]:
    """A row as a body would say it, secrets included: what `schemas.merge` lays a patch over.
    Raises `Undecipherable`."""
    found: dict[str, Any] = schemas.defaults(row.sink) | row.open_settings() | common_of(row)
    if row.sink == "webhook":
        found["secret"] = row.open_secret()
    return found


def _signing(row: Instance, subscription: str) -> Subscription:
    found = _subscription(row, subscription)
    if found.sink not in signing.SINKS:
        raise Conflict(f"A {found.sink} subscription is not signed.")
    return found


def _write_keys(row: Subscription, keys: list[SigningKey]) -> None:
    """The secret in use lies in its own column, as `set` has it; the others beside it."""
    secret = signing.in_use(keys, signing.SYMMETRIC)
    more = [[key.text, key.until] for key in keys if key is not secret]
    Subscription.update(
        secret=secret and secret.text,
        signing=orjson.dumps(more).decode() if more else None,
        version=Subscription.version + 1,
        updated_at=time.time(),
    ).where(Subscription.id == row.id).execute()


def _opened(row: Subscription | None) -> dict[str, Any] | None:
    """The same, for who has all of it from elsewhere: None where there is none, or no key."""
    try:
        return fields_of(row) if row else None
    except Undecipherable:
        return None


def _write(
    row: Instance, name: str, sink: str, merged: Mapping[str, Any], old: Subscription | None
) -> None:
    values: dict[str, Any] = {column: merged[field] for field, column in _COLUMNS.items()}
    values["order_by"], values["order_rule"] = ordering.to_row(merged["orderBy"])
    if sink == "webhook":  # of other sinks it is drawn on request alone
        values["secret"] = merged["secret"]
    own = {field: merged[field] for field in schemas.setting_names(sink)}
    values["settings"] = orjson.dumps(own).decode()
    if old is None:
        Subscription.create(instance=row, name=name, sink=sink, **values)
        return
    values |= {"version": Subscription.version + 1, "updated_at": time.time()}
    if sink == "webhook" and old.signing is not None and values["secret"] != old.open_secret():
        # Who sets another secret wants no other one: replaced ones end with it.
        more = signing.without(old.open_keys(), signing.SYMMETRIC)
        rest = [[key.text, key.until] for key in more]
        values["signing"] = orjson.dumps(rest).decode() if rest else None
    Subscription.update(**values).where(Subscription.id == old.id).execute()


def _locked(name: str) -> Instance:
    """The live row, kept from other writers until the transaction ends. Raises `NotFound`."""
    if NAME.fullmatch(name):
        found: Instance | None = db.for_update(Instance.select().where(_live(name))).first()
        if found is not None:
            return found
    raise _no_instance(name)


def _subscriptions(row: Instance) -> dict[str, Subscription]:
    query = Subscription.select().where(Subscription.instance == row)
    return {each.name: each for each in query}


def _subscription(row: Instance, name: str) -> Subscription:
    found = _subscriptions(row).get(name)
    if found is None:
        raise _no_subscription(name)
    return found


def _raise_revision(row: Instance) -> None:
    change = Instance.update(revision=Instance.revision + 1, updated_at=time.time())
    change.where(Instance.id == row.id).execute()


def _bury_row(row: Instance) -> None:
    """Make a tombstone of a live row, within a transaction."""
    Subscription.delete().where(Subscription.instance == row).execute()
    Instance.update(deleted_at=time.time()).where(Instance.id == row.id).execute()


def _delete_letters(instance_id: int) -> int:
    """Bodies may be many: a bounded piece at a time."""
    piece = DeadLetter.select(DeadLetter.id).where(DeadLetter.instance_id == instance_id)
    deleted = 0
    while True:
        with db.writing():
            gone: int = (
                DeadLetter.delete().where(DeadLetter.id.in_(piece.limit(_LETTERS))).execute()
            )
        deleted += gone
        if gone < _LETTERS:
            return deleted


def adopt() -> str:
    """Give a restored database a new epoch: whatever revisions Redis knows are of another one,
    so every row is pushed again. Returns the epoch."""
    epoch = random_id()
    with db.writing():
        Meta.update(value=epoch).where(Meta.key == "epoch").execute()
        Instance.update(pushed=0).execute()
    return epoch


def tombstones(before: float, limit: int = _PAGE) -> list[Instance]:
    """Deleted instances that Redis knows to be deleted since before a date (Unix seconds)."""
    pushed = Instance.pushed == Instance.revision
    with db.translate():
        query = Instance.select().where((Instance.deleted_at < before) & pushed)
        return list(query.order_by(Instance.deleted_at).limit(limit))


def forget(row: Instance) -> None:
    """Remove a tombstone whose keys are gone, with letters that came late."""
    _delete_letters(row.id)
    with db.writing():
        dead = Instance.deleted_at.is_null(False)
        Instance.delete().where((Instance.id == row.id) & dead).execute()


def _no_instance(name: str) -> NotFound:
    return NotFound(f'The "{name[:100]}" instance does not exist')


def _no_subscription(name: str) -> NotFound:
    return NotFound(f'The subscription "{name[:100]}" does not exist')
