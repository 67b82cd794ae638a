"""What a name stands for now, for whoever sets it: a hint in time, not the guard itself.

A tenant that names a host inside our network shall hear so at once. What counts is what the
name stands for when something is sent, which `http` asks for again; so a name that cannot be
looked up within a moment is let pass here. Lookups have threads of their own, and a bound:
servers of names that never answer hold up who asked for them, for `seconds`, and nobody else.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Sequence
from typing import Final

from evoflask.net import guard
from evoflask.net.guard import Network

SECONDS: Final = 2.0
LOOKUPS: Final = 32


class Names:
    """For one process. `allow`: networks that may be reached though they are private."""

    def __init__(self, allow: Sequence[Network], *, seconds: float = SECONDS) -> None:
        self._allow = tuple(allow)
        self._seconds = seconds
        self._slots = threading.BoundedSemaphore(LOOKUPS)

    def refusal(self, host: str) -> str | None:
        """Why a URL's host must not be reached, as far as can be told: None for one that may be,
        or that nobody knows, or that is not answered in time."""
        if (refused := guard.check_literal(host, self._allow)) is not None:
            return refused
        # A dot at the end is the same name; the system's own table knows it without only.
        for address in self._look_up(host.removesuffix(".")):
            if (refused := guard.allowed(address, self._allow)) is not None:
                return f"its name stands for an address that is {refused}"
        return None

    def _look_up(self, host: str) -> list[str]:
        if not self._slots.acquire(blocking=False):
            return []
        found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

        def run() -> None:
            try:
                infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                found.put([str(info[4][0]) for info in infos])
            except (OSError, UnicodeError):
                found.put([])
            finally:
                self._slots.release()

        threading.Thread(target=run, name="names", daemon=True).start()
        try:
            return found.get(timeout=self._seconds)
        except queue.Empty:
            return []
