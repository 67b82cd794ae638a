"""What RQ calls by name. Jobs carry a sink's name or a letter's number, nothing else."""

from __future__ import annotations

from collections.abc import Callable

from workers.engine import Engine

MAX_SECONDS = 60.0
QUIET_SECONDS = 3.0

engine: Engine | None = None
"""This process' engine, set by `workers.__main__` before the first job."""

requeue: Callable[[int], None] | None = None
"""Requeues a letter and never raises; set like `engine`."""


def drain(sink: str) -> None:
    """A bell: drains every sink that this worker serves until nothing is due, at most a minute.

    `sink` says who was rung for, for a person who looks at the queue.
    """
    if engine is None:
        raise RuntimeError("Bells are for `python -m workers`.")
    engine.drain(MAX_SECONDS, QUIET_SECONDS)


def requeue_letter(letter: int) -> None:
    """A dead letter's job that somebody requeued by RQ's own tools: does what they meant.

    The letter of a job that ends otherwise, or is lost, is still open: the clock shows it again.
    """
    if requeue is None:
        raise RuntimeError("Letters' jobs are for `python -m workers`.")
    requeue(letter)
