"""Who gets an event, and who does not and why: pure decisions over one instance's rows."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from evoflask.ordering import Order


@dataclass(frozen=True, slots=True)
class Rule:
    """A subscription as routing sees it."""

    lane: str
    """The lane's random id, `<s>`; a websocket subscription has one too, but no lane in Redis."""
    name: str
    sink: str
    enabled: bool
    events: frozenset[str]
    """Catalogue names; empty means all."""
    order: Order


@dataclass(frozen=True, slots=True)
class Route:
    """An instance as an emit sees it, read in one transaction."""

    name: str
    outbox: str
    """The outbox' random id, `<i>`."""
    partition: int
    revision: int
    epoch: str
    token_sha256: str
    rules: tuple[Rule, ...]


class Why(enum.StrEnum):
    """Why a subscription gets an event, or does not."""

    ROUTED = "routed"
    DISABLED = "disabled"
    EVENTS = "event not in the list"
    INTEGRATION = "sink not named in integration"
    LOCAL = "local is false"


LOCAL_SINKS = frozenset({"webhook", "pusher"})
"""`local: false` leaves these out, as Evolution API does."""


def why(rule: Rule, event: str, integration: Collection[str] | None, local: bool) -> Why:
    """The verdict on one subscription. `integration` None: no restriction."""
    if not rule.enabled:
        return Why.DISABLED
    if rule.events and event not in rule.events:
        return Why.EVENTS
    if integration is not None and rule.sink not in integration:
        return Why.INTEGRATION
    if not local and rule.sink in LOCAL_SINKS:
        return Why.LOCAL
    return Why.ROUTED


def wanted(
    route: Route, event: str, integration: Collection[str] | None, local: bool
) -> Iterator[Rule]:
    """The subscriptions that get the event, in the route's order."""
    for rule in route.rules:
        if why(rule, event, integration, local) is Why.ROUTED:
            yield rule
