"""The table of answers through deliveries, tests of subscriptions and `OUTBOUND_PROXY`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from evoflask.delivery.trials import send
from evoflask.sinks.base import Attempt, Delivery
from evoflask.sinks.webhook import WebhookSink
from tests.certificates import self_signed
from tests.sinks.answers import (
    ROWS,
    answering,
    answering_with_tls,
    proxying,
    server,
)
from tests.sinks.harness import delivery, settings, target

Found = dict[str, tuple[str, str, float | None]]
EXPECTED: Found = {each.name: (each.outcome, each.code, each.retry_after) for each in ROWS}
AT_ONCE = 8


def deliveries(base: str) -> list[Delivery]:
    """Return a delivery for each row of the table, each with its own subscription."""
    return [
        delivery(target("webhook", sid=f"s{n}", timeout=60.0, url=f"{base}/{n}"), f"e-{n}")
        for n in range(len(ROWS))
    ]


def outcomes(sink: WebhookSink, base: str, attempt: Callable[..., Awaitable[Attempt]]) -> Found:
    """Return the outcome of each row."""

    async def run() -> list[Attempt]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(each: Delivery) -> Attempt:
            async with gate:
                return await attempt(sink, each)

        try:
            return await asyncio.gather(*map(one, deliveries(base)))
        finally:
            await sink.close()

    found = zip(ROWS, asyncio.run(run()), strict=True)
    return {row.name: (each.outcome.value, each.code, each.retry_after) for row, each in found}


async def delivered(sink: WebhookSink, one: Delivery) -> Attempt:
    return (await sink.deliver([one]))[0]


def test_the_table_has_sixty_answers_and_more() -> None:
    assert len(EXPECTED) == len(ROWS) >= 60


def test_a_delivery_ends_as_the_table_of_answers_says() -> None:
    patient = settings(webhook_connect_timeout=30.0)
    with server(answering) as port:
        found = outcomes(WebhookSink(patient), f"http://127.0.0.1:{port}", delivered)

    assert found == EXPECTED


def test_a_test_of_a_subscription_ends_as_a_delivery_does() -> None:
    told: dict[str, dict[str, Any]] = {}

    async def run(sink: WebhookSink, base: str) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(each: Delivery, name: str) -> None:
            async with gate:
                told[name] = await send(sink, each)

        names = [row.name for row in ROWS]
        try:
            await asyncio.gather(*map(one, deliveries(base), names))
        finally:
            await sink.close()

    with server(answering) as port:
        sink = WebhookSink(settings(webhook_connect_timeout=30.0))
        asyncio.run(run(sink, f"http://127.0.0.1:{port}"))

    assert {name: (each["outcome"], each["code"]) for name, each in told.items()} == {
        name: (outcome, code) for name, (outcome, code, _) in EXPECTED.items()
    }
    assert all(each["delivered"] == (each["outcome"] == "delivered") for each in told.values())
    assert all(each["verdict"].endswith((".", "?")) for each in told.values())


def test_a_delivery_through_a_proxy_ends_as_the_table_of_answers_says() -> None:
    with server(answering) as port, server(proxying) as proxy:
        through = settings(webhook_connect_timeout=30.0, outbound_proxy=f"http://127.0.0.1:{proxy}")
        found = outcomes(WebhookSink(through), f"http://127.0.0.1:{port}", delivered)

    assert found == EXPECTED


def test_a_delivery_through_a_tunnel_ends_as_the_table_of_answers_says(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, together=True)[0]
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with server(answering_with_tls(serving)) as port, server(proxying) as proxy:
        through = settings(webhook_connect_timeout=30.0, outbound_proxy=f"http://127.0.0.1:{proxy}")
        sink = WebhookSink(through, ssl_context=trusting)
        found = outcomes(sink, f"https://127.0.0.1:{port}", delivered)

    assert found == EXPECTED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_documentation_has_the_table_of_answers(root: Path, row: Any) -> None:
    page = (root / "docs" / "sinks.md").read_text()

    after = f"; retry after {row.retry_after:g} s" if row.retry_after is not None else ""
    assert f"| {row.name} | {row.outcome} | `{row.code}`{after} |" in page
