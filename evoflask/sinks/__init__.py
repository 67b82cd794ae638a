"""The kinds of destination: one module each, `base` is what they have in common.

A sink imports its base, formats, signing, net and its one client library, and knows nothing
of lanes, retries or HTTP routes. This registry names classes by string, so that the web
process may ask what there is without importing a client library. A new sink is one file,
one schema and one line here.
"""

from __future__ import annotations

import importlib
from typing import cast

from evoflask.sinks.base import Sink

SINKS: dict[str, str] = {
    "webhook": "evoflask.sinks.webhook:WebhookSink",
    "websocket": "",
    "rabbitmq": "",
    "nats": "",
    "sqs": "",
    "pusher": "",
}
"""Every sink's name; "" where nothing delivers to it yet."""


def built(name: str) -> bool:
    """Whether something delivers to this sink. KeyError for a name that is none."""
    return SINKS[name] != ""


def load(name: str) -> type[Sink]:
    """The sink's class, with its client library. KeyError for one that is none or not built."""
    module, _, attribute = SINKS[name].partition(":")
    if not module:
        raise KeyError(name)
    return cast("type[Sink]", getattr(importlib.import_module(module), attribute))
