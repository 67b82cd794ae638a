"""The outbox: the only package that knows a key in Redis.

keys.py draws the keys, one .lua file a verb, verbs.py calls them, client.py runs the calls.
It knows no sink, no row and no HTTP; it imports only `settings`, `errors` and below.
"""

from evoflask.outbox.client import AsyncOutbox, Copies, Outbox, connect, connect_async
from evoflask.outbox.verbs import (
    Appended,
    Configured,
    Ended,
    Held,
    LaneConfig,
    LaneView,
    Limits,
    NewEntry,
    Settled,
    Taken,
    Want,
)

__all__ = [
    "Appended",
    "AsyncOutbox",
    "Configured",
    "Copies",
    "Ended",
    "Held",
    "LaneConfig",
    "LaneView",
    "Limits",
    "NewEntry",
    "Outbox",
    "Settled",
    "Taken",
    "Want",
    "connect",
    "connect_async",
]
