"""What an attempt means for its lane: the outcome to settle, the breaker, the counters. Pure."""

from __future__ import annotations

from bisect import bisect_left

import orjson

from evoflask.configuration import LaneSettings
from evoflask.delivery import retry
from evoflask.delivery.breaker import State
from evoflask.delivery.lanes import Item
from evoflask.delivery.retry import Again, Done, Kept, Policy
from evoflask.outbox.totals import BUCKETS
from evoflask.outbox.verbs import Ended
from evoflask.sinks.base import Attempt, Delivery, Outcome

PROBE = "probe"
"""Cause of a delivery before its date: an operator wants it tried now."""
DETAIL = 300
"""Characters of a reason that are kept."""


def conclude(item: Item, attempt: Attempt, policy: Policy, *, luck: float) -> Ended:
    """Return the outcome that is settled, and counted in the lane's books."""
    number = item.tries + 1
    early = bool(item.early)
    decision = retry.decide(policy, item.tries, attempt, now=0.0, luck=luck, early=early)
    if isinstance(decision, Done):
        return Ended("d", item.member, number)
    if isinstance(decision, Again):
        return Ended("r", item.member, number, delay=decision.at)
    if isinstance(decision, Kept):
        return Ended("e", item.member, number, tried=item.early != PROBE)
    return given_up(item, decision.reason, attempt.code, attempt.detail)


def given_up(item: Item, reason: str, code: str, detail: str, *, tried: bool = True) -> Ended:
    """A delivery that ends as a letter."""
    why = orjson.dumps({"reason": reason, "code": code, "detail": detail[:DETAIL]}).decode()
    return Ended("x", item.member, item.tries + 1, why=why, tried=tried)


def breaker_facts(state: State) -> dict[str, str | int]:
    """The state as fields of the lane; dates in milliseconds, as Redis keeps them."""
    return {
        "failures": state.failures,
        "until": round(state.until * 1000),
        "pauses": state.pauses,
        "last_entry": state.last_entry,
    }


def error_facts(attempt: Attempt, now: float) -> dict[str, str | int]:
    """What a person sees of a lane's last failure."""
    words = " ".join(w for w in (attempt.outcome.value, attempt.code, attempt.detail) if w)
    return {"error": words[:DETAIL], "errat": round(now * 1000)}


def log_facts(
    settings: LaneSettings, delivery: Delivery, attempt: Attempt, ended: Ended
) -> dict[str, object]:
    """A failed attempt as fields of a line. Not what the destination answered: it may repeat
    what it was sent."""
    return {
        "event_id": delivery.event_id,
        "event": delivery.event,
        "instance": settings.instance_name,
        "subscription": settings.subscription_name,
        "sink": settings.target.sink,
        "attempt": ended.attempt,
        "outcome": attempt.outcome.value,
        "code": attempt.code,
        "next": _next(ended),
    }


def _next(ended: Ended) -> str:
    if ended.kind == "e":
        return "at its date"
    return f"in {ended.delay:.1f} s" if ended.kind == "r" else "dead"


def trace_facts(
    settings: LaneSettings, delivery: Delivery, attempt: Attempt
) -> dict[str, str | int]:
    """An attempt as attributes of a span; nothing of what was sent or answered."""
    return {
        "evoflask.event_id": delivery.event_id,
        "evoflask.event": delivery.event,
        "evoflask.instance": settings.instance_name,
        "evoflask.subscription": settings.subscription_name,
        "evoflask.sink": settings.target.sink,
        "evoflask.attempt": delivery.tries + 1,
        "evoflask.outcome": attempt.outcome.value,
        "evoflask.code": attempt.code,
    }


def count(totals: dict[str, int], sink: str, attempt: Attempt, latency: float) -> None:
    """Add an attempt to the counters that the next settle carries."""
    if attempt.outcome is Outcome.DELIVERED:
        n = bisect_left(BUCKETS, latency)
        bucket = f"{BUCKETS[n]:g}" if n < len(BUCKETS) else "+Inf"
        _add(totals, f"{sink}:le:{bucket}", 1)
        _add(totals, f"{sink}:latency_ms", max(0, round(latency * 1000)))
    else:
        _add(totals, f"{sink}:failed:{attempt.outcome.value}", 1)


def _add(totals: dict[str, int], name: str, n: int) -> None:
    totals[name] = totals.get(name, 0) + n
