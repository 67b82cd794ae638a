"""Divide the files that a web process may open between connections and the rest."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

RESERVE: Final = 512
"""Files for Redis, the database, logs and modules, if the limit allows."""
SOCKET_FILES: Final = 2
"""Files of a websocket: its connection, and a descriptor that wakes its thread."""
_BASE: Final = 48
"""Files that a process has open before its first request, and some spare ones."""


@dataclass(frozen=True, slots=True)
class Files:
    """Connections and, among them, websockets that fit into the limit of open files."""

    connections: int
    sockets: int


def share(limit: int, connections: int, sockets: int) -> Files:
    """Return the connections and websockets that fit into a limit. Pure.

    At most half of a small limit is kept for other files.
    """
    free = limit - max(_BASE, min(RESERVE, limit // 2))
    sockets = min(sockets, max(0, free // 4))
    # The second file of a websocket is no connection.
    connections = min(connections, free - sockets * (SOCKET_FILES - 1))
    return Files(max(8, connections), sockets)


def allow(connections: int, sockets: int) -> Files:
    """Raise the soft limit as far as needed and allowed, and return what fits into it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, connections + sockets * (SOCKET_FILES - 1) + RESERVE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if limit != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    found = share(limit, connections, sockets)
    if found != Files(connections, sockets):
        log.warning(
            "The limit of open files is small: raise it (ulimit -n, LimitNOFILE=), or lower "
            "WEB_CONNECTIONS and WEBSOCKET_MAX_CLIENTS.",
            extra={"limit": limit, "connections": found.connections, "websockets": found.sockets},
        )
    return found
