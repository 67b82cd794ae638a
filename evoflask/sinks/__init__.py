"""The kinds of destination: one module each, `base` is what they have in common.

A sink imports its base, formats, signing, net and its one client library, and knows nothing
of lanes, retries or HTTP routes. This registry names classes by string, so that the web
process may ask what there is without importing a client library. A new sink is one file,
one schema and one line here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final, cast

from evoflask.settings import Settings
from evoflask.sinks.base import Sink


@dataclass(frozen=True, slots=True)
class Kind:
    """Where a sink's class is; "" for the websocket, whose clients read the outbox themselves.
    `needs`: the field of `Settings` that names its server, where there is one for all."""

    path: str
    needs: str = ""


SINKS: Final[dict[str, Kind]] = {
    "webhook": Kind("evoflask.sinks.webhook:WebhookSink"),
    "websocket": Kind(""),
    "rabbitmq": Kind("evoflask.sinks.rabbitmq:RabbitmqSink", needs="rabbitmq_uri"),
    "nats": Kind("evoflask.sinks.nats:NatsSink", needs="nats_uri"),
    "sqs": Kind("evoflask.sinks.sqs:SqsSink"),
    "pusher": Kind("evoflask.sinks.pusher:PusherSink"),
}
"""Every sink, in the order of the seed and of every answer."""


def delivering() -> list[str]:
    """The sinks that have lanes."""
    return [name for name, kind in SINKS.items() if kind.path]


def lacks(name: str, settings: Settings) -> str:
    """The variable without which this sink has no server; "": nothing is missing. KeyError for
    a name that is none."""
    field = SINKS[name].needs
    return field.upper() if field and not getattr(settings, field) else ""


def load(name: str) -> type[Sink]:
    """The sink's class, with its client library. KeyError for one that has no lanes."""
    module, _, attribute = SINKS[name].path.partition(":")
    if not module:
        raise KeyError(name)
    return cast("type[Sink]", getattr(importlib.import_module(module), attribute))
