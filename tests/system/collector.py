"""An OpenTelemetry collector in the test's own process: OTLP over HTTP, as protobuf."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it was exported."""

    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    """`trace-span` of each."""
    attributes: dict[str, Any]
    role: str
    """Of the process that made it."""
    failed: str
    """The words of its status, where that is an error."""
    nanoseconds: int


class Collector:
    """A context manager. `slow`: seconds that it takes for each answer."""

    def __init__(self, *, slow: float = 0.0) -> None:
        self._spans: list[Span] = []
        self.bodies: list[bytes] = []
        """What came, as it was exported."""
        self._over = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._over.wait(slow)
                assert self.path == "/v1/traces"
                collector.bodies.append(body)
                collector._spans.extend(_spans(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def spans(self, name: str) -> list[Span]:
        """Those of that name, in the order of their arrival."""
        return [span for span in self._spans if span.name == name]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


def _spans(body: bytes) -> list[Span]:
    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        facts = {each.key: each.value.string_value for each in resource.resource.attributes}
        assert facts["service.name"] == "evoflask-test"
        for scope in resource.scope_spans:
            found += [_span(each, facts["evoflask.role"]) for each in scope.spans]
    return found


def _span(span: Any, role: str) -> Span:
    return Span(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple(f"{link.trace_id.hex()}-{link.span_id.hex()}" for link in span.links),
        attributes={
            each.key: getattr(each.value, each.value.WhichOneof("value"))
            for each in span.attributes
        },
        role=role,
        failed=span.status.message if span.status.code == 2 else "",
        nanoseconds=span.end_time_unix_nano - span.start_time_unix_nano,
    )
