"""`/metrics`: what Redis counts, in Prometheus' text format. Never a label per instance.
`docs/metrics.md` lists each of them: a test compares.

Everything is read when it is asked for and nothing is counted in this process, so the answer
is the same from every web process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from evoflask.outbox.totals import Totals

CONTENT_TYPE = CONTENT_TYPE_LATEST

ENDS = {
    "routed": "Deliveries that accepted events were routed to.",
    "requeued": "Deliveries that dead letters were requeued to.",
    "delivered": "Deliveries that the sink proved.",
    "dead": "Deliveries that were given up and have their letter.",
    "discarded": "Deliveries that went with their deleted subscription.",
    "retried": "Attempts that failed and were given a date for the next one.",
}
"""Counters by sink: name in the totals, and what it means."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Open dead letters."""

    by_sink: Mapping[str, int]
    expiring: int
    """Those that go within a day if nobody deals with them."""


def render(
    totals: Totals,
    sinks: Sequence[str],
    letters: Letters | None,
    chores: Mapping[str, float],
    closed: int | None = None,
) -> bytes:
    """The text. `letters`, `closed` (secrets that do not open, of those that were looked at):
    None where the database did not answer; `chores`: when each was last done, Unix seconds."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot([*_events(totals), *_deliveries(totals, sinks)]))
    registry.register(
        _Snapshot(
            [*_memory(totals), *_disk(totals), *_log(totals), *_house(sinks, letters, chores)]
        )
    )
    if closed is not None:
        registry.register(_Snapshot([_closed(closed)]))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _events(totals: Totals) -> Iterator[Metric]:
    for name, words in (
        ("accepted", "Events that were accepted and that at least one subscription wanted."),
        ("unwanted", "Events that were accepted and that nobody wanted."),
        ("limited", "Events refused because their instance sent more than it may a second."),
        ("duplicates", "Events whose id had been accepted before."),
        ("conflicts", "Events refused because their id was accepted before with other content."),
    ):
        count = totals.counters.get(name, 0)
        yield CounterMetricFamily(f"evoflask_events_{name}", words, value=count)


def _deliveries(totals: Totals, sinks: Sequence[str]) -> Iterator[Metric]:
    for name, words in ENDS.items():
        family = CounterMetricFamily(f"evoflask_deliveries_{name}", words, labels=["sink"])
        for sink in sinks:
            family.add_metric([sink], totals.of(sink, name))
        yield family
    failed = CounterMetricFamily(
        "evoflask_attempts_failed", "Attempts that failed, by outcome.", labels=["sink", "outcome"]
    )
    backlog = GaugeMetricFamily(
        "evoflask_backlog", "Deliveries that did not end yet.", labels=["sink"]
    )
    oldest = GaugeMetricFamily(
        "evoflask_oldest_waiting_seconds",
        "Age of the oldest event that waits; 0 where none does.",
        labels=["sink"],
    )
    latency = HistogramMetricFamily(
        "evoflask_delivery_latency_seconds", "From accept to delivery.", labels=["sink"]
    )
    for sink in sinks:
        for outcome, n in totals.failed(sink).items():
            failed.add_metric([sink, outcome], n)
        backlog.add_metric([sink], totals.backlog(sink))
        oldest.add_metric([sink], totals.oldest.get(sink, 0.0))
        buckets, seconds = totals.latency(sink)
        latency.add_metric([sink], buckets, seconds)
    yield from (failed, backlog, oldest, latency)
    retired = CounterMetricFamily(
        "evoflask_dead_letters_retired",
        "Letters that were given up for good by DEADLETTER_RETAIN_*.",
        labels=["sink"],
    )
    for sink in sinks:
        retired.add_metric([sink], totals.of(sink, "retired"))
    yield retired
    yield GaugeMetricFamily(
        "evoflask_subscriptions_failing",
        "Subscriptions with a failed attempt and no success since.",
        value=totals.failing,
    )
    yield CounterMetricFamily(
        "evoflask_subscriptions_disabled",
        "Subscriptions that failed for too long and were disabled.",
        value=totals.counters.get("disabled", 0),
    )


def _memory(totals: Totals) -> Iterator[Metric]:
    memory = totals.memory
    for name, words, value in (
        ("used_bytes", "Memory that the outbox's Redis uses.", memory.used),
        ("max_bytes", "Its maxmemory; 0: no limit.", memory.limit),
        ("used_share", "Used share of maxmemory; 0 where there is no limit.", memory.share),
    ):
        yield GaugeMetricFamily(f"evoflask_redis_memory_{name}", words, value=value)
    yield GaugeMetricFamily(
        "evoflask_memory_pressure",
        "Share of maxmemory that our entries use, of what other keys leave them.",
        value=memory.pressure,
    )
    users = GaugeMetricFamily(
        "evoflask_redis_memory_by_user_bytes", "Memory of Redis by its user.", labels=["where"]
    )
    for user, n in memory.users.items():
        users.add_metric([user], n)
    yield users


def _disk(totals: Totals) -> Iterator[Metric]:
    disk = totals.disk
    for name, words, works in (
        (
            "appends",
            "1: Redis' last write to its append-only file failed; it refuses all writes.",
            disk.appends,
        ),
        ("rewrites", "1: Redis' last rewrite of its append-only file failed.", disk.rewrites),
        ("snapshots", "1: Redis' last snapshot failed.", disk.snapshots),
    ):
        yield GaugeMetricFamily(f"evoflask_redis_{name}_failing", words, value=int(not works))
    yield CounterMetricFamily(
        "evoflask_redis_fsyncs_delayed",
        "Fsyncs of the append-only file that took over two seconds, since Redis' start.",
        value=disk.delayed,
    )


def _log(totals: Totals) -> Iterator[Metric]:
    kept = totals.counters.get("attempts:kept", 0)
    yield CounterMetricFamily(
        "evoflask_attempts_logged", "Attempts handed over to the delivery log.", value=kept
    )
    dropped = CounterMetricFamily(
        "evoflask_attempts_dropped",
        "Attempts that are not in the delivery log, by whose room was short.",
        labels=["where"],
    )
    for where in ("drain", "redis"):
        dropped.add_metric([where], totals.counters.get(f"attempts:dropped:{where}", 0))
    yield dropped


def _closed(count: int) -> Metric:
    return GaugeMetricFamily(
        "evoflask_secrets_closed",
        "Of the oldest and the newest stored secrets, those that no key opens.",
        value=count,
    )


def _house(
    sinks: Sequence[str], letters: Letters | None, chores: Mapping[str, float]
) -> Iterator[Metric]:
    if letters is not None:
        family = GaugeMetricFamily(
            "evoflask_dead_letters", "Letters nobody requeued or discarded yet.", labels=["sink"]
        )
        for sink in sinks:
            family.add_metric([sink], letters.by_sink.get(sink, 0))
        yield family
        yield GaugeMetricFamily(
            "evoflask_dead_letters_expiring",
            "Letters that go within a day, by DEADLETTER_RETAIN_*, if nobody deals with them.",
            value=letters.expiring,
        )
    done = GaugeMetricFamily(
        "evoflask_chore_last_done_timestamp_seconds",
        "When the clock last did it.",
        labels=["chore"],
    )
    for chore, at in sorted(chores.items()):
        done.add_metric([chore], at)
    yield done
