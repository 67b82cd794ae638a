"""Traces, as a collector sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evoflask.dev.receiver import Receiver
from tests.system.collector import Collector
from tests.system.conftest import MakeHouse
from tests.system.house import House, message

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traced(make_house: MakeHouse, collector: Collector, **settings: Any) -> House:
    return make_house(
        traces="on",
        otel_exporter_otlp_endpoint=collector.endpoint,
        otel_service_name="evoflask-test",
        otel_bsp_schedule_delay=200,
        **settings,
    )


def test_an_event_can_be_followed_from_its_producer_over_accept_to_each_attempt(
    make_house: MakeHouse, receiver: Receiver, wait_for: Callable[..., Any]
) -> None:
    with Collector() as collector:
        house = traced(make_house, collector, retry_schedule="0.1")
        client = house.client()
        client.create("a")
        client.subscribe("a", "good", receiver.url("/slow/50"))
        client.subscribe("a", "bad", receiver.url("/status/500"))
        client.session.headers["traceparent"] = f"00-{TRACE}-{SPAN}-01"
        id = client.emit("a", data=message(1, secret_of_the_tenant="xyzzy")).json()["id"]
        house.wait_quiet()
        wait_for(lambda: len(collector.spans("deliver webhook")) >= 3, timeout=60)

        (accept,) = collector.spans("accept")
        attempts = collector.spans("deliver webhook")
    assert (accept.trace, accept.parent, accept.role) == (TRACE, SPAN, "web")
    assert accept.attributes == {
        "evoflask.instance": "a", "evoflask.events": 1, "evoflask.event_id": id,
        "evoflask.event": "MESSAGES_UPSERT",
    }  # fmt: skip
    assert {each.links for each in attempts} == {(f"{accept.trace}-{accept.id}",)}
    assert {each.attributes["evoflask.event_id"] for each in attempts} == {id}
    assert accept.trace not in {each.trace for each in attempts}
    ends = [
        (each.attributes["evoflask.subscription"], each.attributes["evoflask.attempt"], each.failed)
        for each in attempts
    ]
    assert sorted(ends) == [("bad", 1, "refused 500"), ("bad", 2, "refused 500"), ("good", 1, "")]
    (good,) = [each for each in attempts if not each.failed]
    assert good.nanoseconds >= 50_000_000
    assert "xyzzy" not in str([accept, *attempts])


def test_of_a_share_of_sampled_batches_each_attempt_is_there_and_the_others_leave_no_trace(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    with Collector() as collector:
        house = traced(
            make_house, collector, otel_traces_sampler="traceidratio", otel_traces_sampler_arg=0.5
        )
        client = house.client()
        client.create("a")
        client.set_webhook("a", receiver.url())
        client.session.headers["traceparent"] = "nonsense"
        for n in range(40):
            client.emit_many("a", [{"event": "CALL", "data": {"n": n}} for _ in range(3)])
        house.wait_quiet()
        house.stop("web")
        house.stop("worker")

        outbox = house.query("SELECT outbox FROM instance")[0][0]
        entries = house.raw.xrange(f"evo:{{p0}}:outbox:{outbox}")
        accepts = collector.spans("accept")
        attempts = collector.spans("deliver webhook")
    accepted = sorted(f"{each.trace}-{each.id}" for each in accepts)
    linked = sorted(each.links[0] for each in attempts)
    stamped = [entry for _, entry in entries if b"traceparent" in entry[b"meta"]]
    assert {each.attributes["evoflask.events"] for each in accepts} == {3}
    assert {each.parent for each in accepts} == {""}
    assert 5 <= len(accepted) <= 35
    assert linked == sorted(accepted * 3)
    assert len(stamped) == len(linked)
    assert {entry[b"meta"] for _, entry in entries if entry not in stamped} == {b"{}"}


def test_a_collector_that_hangs_delays_no_delivery_and_no_stop(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    with Collector(slow=120) as collector:
        house = traced(make_house, collector)
        client = house.client()
        client.create("a")
        client.set_webhook("a", receiver.url())
        client.emit_many("a", [{"event": "CALL", "data": {"n": n}} for n in range(500)])

        house.wait_quiet()
        ended = house.stop("worker", grace=20), house.stop("web", grace=20)

        assert receiver.count() == 500
        assert ended == (0, 0)
