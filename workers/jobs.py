"""What RQ calls by name. Jobs carry a sink's name, never payloads or secrets."""

from __future__ import annotations

from workers.engine import Engine

MAX_SECONDS = 60.0
QUIET_SECONDS = 3.0

engine: Engine | None = None
"""This process' engine, set by `workers.__main__` before the first job."""


def drain(sink: str) -> None:
    """A bell: drains every sink that this worker serves until nothing is due, at most a minute.

    `sink` says who was rung for, for a person who looks at the queue.
    """
    if engine is None:
        raise RuntimeError("Bells are for `python -m workers`.")
    engine.drain(MAX_SECONDS, QUIET_SECONDS)
