"""The one way in: `EventManager.emit` and `set_instance`, for the routes and for Python.

Routes are kept in memory with the revision they were read at; an append that names another
revision than Redis holds is refused, so a kept route is never a stale one, and an emit for
a known instance is one call of Redis and no query.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from evoflask import bell, configuration, envelope, routing, traces, unwanted
from evoflask.configuration import Configuration, State
from evoflask.envelope import Event
from evoflask.errors import Conflict, NotFound, OutboxFull, TooFast, Unauthorized, Unavailable
from evoflask.ids import OPERATOR
from evoflask.log import Repeats
from evoflask.ordering import Order
from evoflask.outbox import Appended, Copies, Limits, NewEntry, Outbox, usage, verbs
from evoflask.outbox.members import key_hash, key_of_its_own
from evoflask.outbox.timetable import Timetable
from evoflask.reading import Reads
from evoflask.routing import Route, Rule
from evoflask.settings import Settings

log = logging.getLogger(__name__)

CHUNK_EVENTS = 100
CHUNK_BYTES = 1024 * 1024
"""Bounds of one append: no script may hold up Redis for more than some milliseconds."""
ROUTES = 20_000
"""Routes kept in memory; above it the half that was read first goes."""

May = Callable[[str], bool]
"""Whether the caller may emit for the instance whose token has this SHA-256."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """One event that is kept, or that nobody wanted."""

    id: str
    event: str
    subscriptions: Sequence[str]
    """Names of those it was routed to."""
    duplicate: bool = False
    """The id was accepted before with the same content: nothing was appended."""


class Routes:
    """The routes that this process keeps, by the instance's name."""

    def __init__(self) -> None:
        self._kept: dict[str, Route] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Route | None:
        return self._kept.get(name)

    def load(self, name: str) -> Route | None:
        """Read it anew. Raises `DatabaseDown`."""
        route = configuration.read_route(name)
        with self._lock:
            if route is None:
                self._kept.pop(name, None)
            else:
                self._kept[name] = route
                if len(self._kept) > ROUTES:
                    for old in list(self._kept)[: ROUTES // 2]:
                        del self._kept[old]
        return route


class EventManager:
    """Safe to share between threads."""

    def __init__(
        self,
        outbox: Outbox,
        settings: Settings,
        bells: redis.Redis,
        changes: Configuration | None = None,
    ) -> None:
        self.outbox = outbox
        self._bells = bells
        self._routes = Routes()
        self._configuration = changes or Configuration(outbox, settings)
        self.reads = Reads(settings.web_read_bytes)
        self.limits = limits_of(settings)
        self._unhurried = replace(self.limits, events_per_second=0)
        """Limits for events accepted before, and for the operator's events."""
        self._silent = Repeats(log)
        self._copies = Copies(
            settings.redis_wait_replicas, settings.redis_wait_seconds, settings.redis_wait_aof
        )
        self._users_words, self._users_until = "", 0.0

    # -- the seed's two verbs ----------------------------------------------------------------

    def emit(
        self,
        instanceName: str,
        event: str,
        data: Any,
        *,
        origin: str | None = None,
        serverUrl: str | None = None,
        dateTime: str | None = None,
        sender: str | None = None,
        apiKey: str | None = None,
        local: bool | None = None,
        integration: list[str] | None = None,
        id: str | None = None,
    ) -> Accepted:
        """Accept one event. When it returns, the event is kept.

        Raises `BadInput`, `NotFound`, `Conflict` (the `id` was accepted before with another event
        or other data) and `Unavailable`. After `Unavailable` nothing was accepted, unless the
        answer of Redis was lost. Repeat with the same `id`.
        """
        fields = {
            "event": event,
            "data": data,
            "origin": origin,
            "serverUrl": serverUrl,
            "dateTime": dateTime,
            "sender": sender,
            "apiKey": apiKey,
            "local": local,
            "integration": integration,
            "id": id,
        }
        accepted = self.accept(instanceName, [envelope.of(fields)], _everybody)[0]
        if isinstance(accepted, Conflict):
            raise accepted
        return accepted

    def set_instance(self, instanceName: str, data: Mapping[str, Any]) -> State:
        """Configure several sinks; a missing `enabled` means true. See `Configuration`."""
        return self._configuration.set_instance(instanceName, data)

    # -- what the routes call ----------------------------------------------------------------

    def accept(self, name: str, events: Sequence[Event], may: May) -> list[Accepted | Conflict]:
        """Accept events of one instance in one append: all of them, or none. The place of an event
        whose id was accepted before with other content has a `Conflict`; the others stand.

        Raises `NotFound`, `Unauthorized`, `TooFast`, `OutboxFull`, `OutboxDown`, `DatabaseDown`.
        """
        if name == OPERATOR:
            raise _refusal(name, may)
        if not traces.on():
            return self._accept(name, events, may)
        facts: dict[str, str | int] = {"evoflask.instance": name, "evoflask.events": len(events)}
        if len(events) == 1:
            facts |= {"evoflask.event_id": events[0].id, "evoflask.event": events[0].name}
        with traces.accepting(facts) as traceparent:
            if traceparent:
                events = [replace(e, meta=traces.stamp(e.meta, traceparent)) for e in events]
            return self._accept(name, events, may)

    def tell_operator(self, events: Sequence[Event]) -> None:
        """Accept events of the hidden instance. Raises as `accept` does; `NotFound`: nobody
        wants to be told."""
        self._accept(OPERATOR, events, _everybody)

    def _accept(self, name: str, events: Sequence[Event], may: May) -> list[Accepted | Conflict]:
        route = self._routes.get(name)
        for _ in range(3):
            if route is None or not may(route.token_sha256):
                # A kept route says nothing of a name that was given again.
                route = self._routes.load(name)
            if route is None or not may(route.token_sha256):
                raise _refusal(name, may)
            ways: dict[Hashable, _Way] = {}
            plan = [_plan(route, event, ways) for event in events]
            answer = self._append(route, plan)
            if answer.status == "ok":
                self._ring(answer.bells)
                return [
                    _conflict(event)
                    if n in answer.conflicts
                    else Accepted(event.id, event.name, names, n in answer.duplicates)
                    for n, (event, (_, names)) in enumerate(zip(events, plan, strict=True))
                ]
            route = self._catch_up(name, route)
        raise Unavailable("The configuration of the instance is changing; repeat.")

    def check(self, name: str, may: May) -> None:
        """Raises what `accept` would for the name and the caller alone."""
        if name == OPERATOR:
            raise _refusal(name, may)
        route = self._routes.get(name)
        if route is None or not may(route.token_sha256):
            route = self._routes.load(name)
        if route is None or not may(route.token_sha256):
            raise _refusal(name, may)

    def full(self, events: int, size: int) -> bool:
        """Whether one append may not carry one more event, that makes it `size` bytes."""
        return events >= CHUNK_EVENTS or size > CHUNK_BYTES

    def requeue(self, name: str, lane: str, events: Sequence[Event]) -> None:
        """Append events again for one lane alone, in one append, with their ids and without
        the repeat check: all of them, or none.

        Raises `Conflict` where the instance has no such lane, else as `accept` does.
        """
        route = self._routes.get(name)
        for _ in range(3):
            rule = _rule(route, lane)
            if route is None or rule is None:
                route = self._routes.load(name)
                rule = _rule(route, lane)
            if route is None or rule is None:
                raise Conflict("The subscription was deleted.")
            plan = [(_again(event, rule), ()) for event in events]
            answer = self._append(route, plan, requeue=True)
            if answer.status == "ok":
                self._ring(answer.bells)
                return
            route = self._catch_up(name, route)
        raise Unavailable("The configuration of the instance is changing; repeat.")

    def run_id(self) -> str:
        """Which run of Redis takes what is appended now."""
        return Timetable(self.outbox).run_id()

    # -- inside ------------------------------------------------------------------------------

    def _append(
        self, route: Route, plan: Sequence[tuple[NewEntry, Any]], *, requeue: bool = False
    ) -> Appended:
        ours = requeue or route.name == OPERATOR
        call = verbs.append(
            route.partition,
            route.outbox,
            route.revision,
            route.epoch,
            [entry for entry, _ in plan],
            self._unhurried if ours else self.limits,
            requeue=requeue,
            name=route.name,
        )
        try:
            if self._copies.replicas or self._copies.disk:
                answer = self.outbox.run_copied(call, self._copies)
            else:
                answer = self.outbox.run_written(call)
        except OutboxFull as error:  # Redis refused the script itself
            raise OutboxFull(f"{error}. {self._users()}".rstrip()) from error
        if answer.status == "limited":
            raise TooFast(
                f"The instance's events come faster than {self.limits.events_per_second:g} a "
                "second; nothing was accepted.",
                wait=answer.wait,
            )
        if answer.status == "full":
            raise OutboxFull(
                f"The outbox is out of memory; nothing was accepted. {self._users()}".rstrip()
                if answer.full == "memory"
                else "Memory is short, and more than a fair share of it waits for these "
                "destinations; nothing was accepted."
            )
        return answer

    def _users(self) -> str:
        """Return a sentence on the users of Redis' memory, or "" if Redis does not answer.

        Redis is asked once a second at most.
        """
        now = time.monotonic()
        if now > self._users_until:
            self._users_until = now + 1.0
            try:
                self._users_words = usage.sentence(usage.read(self.outbox, 1))
            except Unavailable:
                self._users_words = ""
        return self._users_words

    def _catch_up(self, name: str, old: Route) -> Route | None:
        """The row is newer than the route, or than what Redis was told: mend either."""
        route = self._routes.load(name)
        if route is not None and (route.outbox, route.revision, route.epoch) == (
            old.outbox,
            old.revision,
            old.epoch,
        ):
            configuration.push(self.outbox, route.outbox)
        return route

    def _ring(self, sinks: Iterable[str]) -> None:
        for sink in sinks:
            try:
                bell.ring(self._bells, sink)
            except (redis.RedisError, OSError) as error:
                self._silent.tell("no bell, the clock will ring", bell.translate(error))
            else:
                self._silent.over("bells ring again")


def limits_of(settings: Settings) -> Limits:
    """What append and trim keep to."""
    return Limits(
        inline_bytes=settings.inline_body_bytes,
        seen_seconds=settings.idempotency_seconds,
        seen_ids=settings.idempotency_ids,
        retain_entries=settings.outbox_retain_entries,
        retain_seconds=settings.outbox_retain_seconds,
        lane_entries=settings.lane_backlog_entries,
        lane_bytes=settings.lane_backlog_bytes,
        events_per_second=settings.max_events_per_second,
        burst=settings.max_events_burst,
    )


_Way = tuple[tuple[Rule, ...], bool, tuple[str, ...], bytes]
"""Where events of a kind go: rules with a lane, whether to websockets, the names of all; where
there are none, why."""


def _plan(
    route: Route, event: Event, ways: dict[Hashable, _Way]
) -> tuple[NewEntry, tuple[str, ...]]:
    """`ways`: those of this route that were found already; a batch has few kinds of events."""
    kind = (event.name, event.integration, event.local)
    way = ways.get(kind)
    if way is None:
        rules = tuple(routing.wanted(route, event.name, event.integration, event.local))
        lanes = tuple(rule for rule in rules if rule.sink != "websocket")
        why = b"" if rules else unwanted.pack(route, event)
        names = tuple(rule.name for rule in rules)
        way = ways[kind] = lanes, len(lanes) < len(rules), names, why
    lanes, ws, names, why = way
    to = _lanes(event, lanes)
    print_ = envelope.fingerprint(event) if event.given else b""
    entry = NewEntry(event.id, event.given, event.name, event.meta, event.data, to, ws, print_, why)
    return entry, names


def _conflict(event: Event) -> Conflict:
    return Conflict(
        f'id: "{event.id}" was accepted before with another event or other data. '
        "Send a new event under an id of its own."
    )


def _lanes(event: Event, rules: Sequence[Rule]) -> tuple[tuple[str, str], ...]:
    keys: dict[Order, str] = {}
    for rule in rules:
        if rule.order not in keys:
            keys[rule.order] = _key(event, rule.order)
    return tuple((rule.lane, keys[rule.order]) for rule in rules)


def _key(event: Event, order: Order) -> str:
    return key_of_its_own(event.id) if order.is_none else key_hash(order.key(event))


def _rule(route: Route | None, lane: str) -> Rule | None:
    return next((rule for rule in route.rules if rule.lane == lane), None) if route else None


def _again(event: Event, rule: Rule) -> NewEntry:
    to = ((rule.lane, _key(event, rule.order)),)
    return NewEntry(event.id, False, event.name, event.meta, event.data, to)


def _everybody(_: str) -> bool:
    return True


def _refusal(name: str, may: May) -> NotFound | Unauthorized:
    """Only the global key may learn that a name does not exist."""
    if may(""):
        return NotFound(f'The "{name}" instance does not exist')
    return Unauthorized()
