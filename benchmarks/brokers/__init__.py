"""A real server for each broker sink, and its client library used bare, at its best.

A module a sink: `start(folder)` is a context manager that yields a `Broker`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, cast


class Broker(Protocol):
    """A running server, and how to reach it."""

    settings: dict[str, Any]
    """Changes of `Settings`."""
    subscription: dict[str, Any]
    """The sink's own settings as they are stored."""

    async def bare(self, bodies: Sequence[bytes], events: int) -> None:
        """Sends `events` bodies by the client library in its best mode, until all are proven."""


Start = Callable[[Path], AbstractContextManager[Broker]]


def start_of(sink: str) -> Start:
    """The broker of a sink."""
    return cast("Start", importlib.import_module(f"benchmarks.brokers.{sink}").start)
