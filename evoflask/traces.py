"""Traces by OpenTelemetry's own packages, where `TRACES=on`; else they are not even imported.

Two spans an event: `accept` ends when the outbox holds it (its parent is the producer's, where
the request had a `traceparent`), and `deliver` is one attempt at one destination. Hours may lie
between them, so they are two traces and `deliver` links to `accept`, whose `traceparent` lies in
the entry's meta meanwhile, where it was sampled. What is exported waits in a bounded queue of the
SDK, which drops rather than hold anybody up. Everything else (endpoint, sampler, headers) is
`OTEL_*`, read by the SDK. No attribute holds a payload, a URL or what a destination answered.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from evoflask.errors import Misconfigured
from evoflask.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext, Tracer

FLUSH_SECONDS = 2.0
"""How long a process that ends waits for what it did not export yet."""

Attributes = Mapping[str, str | int]

_tracer: Tracer | None = None
_follower: Tracer | None = None
_provider: TracerProvider | None = None
_parent: ContextVar[str] = ContextVar("traceparent", default="")


def on() -> bool:
    """Whether this process makes spans."""
    return _tracer is not None


def check(settings: Settings) -> None:
    """Raises `Misconfigured` where traces are on and the packages are missing."""
    if settings.traces != "on":
        return
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http")
    except (ImportError, ValueError):  # one of the packages above it is missing
        found = None
    if found is None:
        raise Misconfigured(
            "TRACES is on, and OpenTelemetry is not installed: "
            "pip install -r requirements-otel.txt."
        )


def configure(settings: Settings, role: str) -> None:
    """Begin, where the settings say so; after a fork, because it starts a thread. Raises
    `Misconfigured` where the packages are missing."""
    global _tracer, _follower, _provider
    check(settings)
    if settings.traces != "on" or _tracer is not None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    ours = Resource({"service.name": "evoflask", "evoflask.role": role})
    resource = ours.merge(OTELResourceDetector().detect())
    # At exit it would wait for an exporter that hangs; `close` does not.
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # Whether an event is sampled was decided when it was accepted: by chance once more, of ten
    # per cent one would be left.
    followers = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
    exporting = BatchSpanProcessor(OTLPSpanExporter())
    for provider in (_provider, followers):
        provider.add_span_processor(exporting)
    _tracer, _follower = (each.get_tracer("evoflask") for each in (_provider, followers))


def close() -> None:
    """Export what is left, for `FLUSH_SECONDS` at most."""
    if _provider is not None:
        flush = threading.Thread(target=_provider.force_flush, name="traces", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def follow(traceparent: str | None) -> None:
    """The producer's own span: what is accepted next in this thread belongs to it."""
    if _tracer is not None:
        _parent.set(traceparent or "")


@contextlib.contextmanager
def accepting(attributes: Attributes) -> Iterator[str]:
    """The span of an accept; its `traceparent`, "" where it is not sampled."""
    from opentelemetry import trace
    from opentelemetry.trace import SpanKind, Status, StatusCode

    assert _tracer is not None
    context = None
    parent = _context(_parent.get())
    if parent is not None:
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    span = _tracer.start_span(
        "accept", context=context, kind=SpanKind.PRODUCER, attributes=attributes
    )
    try:
        yield _traceparent(span.get_span_context()) if span.is_recording() else ""
    except Exception as error:
        # By its name: its words may be the caller's.
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        span.end()


def delivered(
    sink: str, traceparent: str | None, began: int, attributes: Attributes, *, failed: str
) -> None:
    """The span of an attempt that ended now, where its event's accept was sampled. `began`:
    `time.time_ns()`; `failed`: its outcome and code where it was not delivered, else ""."""
    accept = _context(traceparent) if traceparent else None
    if accept is None:
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode

    assert _follower is not None
    span = _follower.start_span(
        f"deliver {sink}",
        context=Context(),
        kind=SpanKind.CLIENT,
        links=[Link(accept)],
        start_time=began,
        attributes=attributes,
    )
    if failed:
        span.set_status(Status(StatusCode.ERROR, failed))
    span.end(time.time_ns())


def stamp(meta: bytes, traceparent: str) -> bytes:
    """An entry's meta, a JSON object, with the `traceparent` in it."""
    return b'{"traceparent":"%b"%b' % (
        traceparent.encode(),
        b"}" if meta == b"{}" else b"," + meta[1:],
    )


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


@functools.lru_cache(maxsize=1024)  # a chunk's deliveries have one
def _context(traceparent: str) -> SpanContext | None:
    """What a W3C `traceparent` names; None where it is none, whoever sent it."""
    from opentelemetry.context import Context
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found = get_current_span(
        TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
    ).get_span_context()
    return found if found.is_valid else None
