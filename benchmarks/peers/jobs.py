"""The protocol of a producer, for those in Python."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

Job = tuple[str, str]
"""URL and body."""


def read(path: str) -> list[Job]:
    """The jobs of a file."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [(job["url"], job["body"]) for job in map(json.loads, lines)]


def produce(path: str, gate: str, keep: Callable[[list[Job]], None]) -> None:
    """Reads them, waits at the pipe, has all of them kept, and says how long that took."""
    jobs = read(path)
    print("ready", flush=True)
    Path(gate).read_text()
    began = time.perf_counter()
    keep(jobs)
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
