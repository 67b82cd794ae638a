"""What a contender is given, and processes whose CPU is counted."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from evoflask.dev.process import Process
from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Scene:
    """A Redis that keeps what it is given, a receiver, and names for its tenants."""

    folder: Path
    redis: RedisServer
    receiver: Receiver
    tenants: Sequence[str]
    processes: int
    """How many that deliver."""


@contextlib.contextmanager
def scene(processes: int, tenants: int) -> Iterator[Scene]:
    """Gone afterwards. The append-only file is synced each second, as `make run` does."""
    with tempfile.TemporaryDirectory(prefix="evoflask-bench-") as name, Receiver() as receiver:
        folder = Path(name)
        with RedisServer(folder / "redis", appendonly=True, maxmemory="12gb") as redis:
            receiver.control(record=False)
            names = [f"tenant{n}" for n in range(tenants)]
            yield Scene(folder, redis, receiver, names, processes)


def python(*words: str) -> list[str]:
    """A module, by our interpreter."""
    return [sys.executable, "-m", *words]


def program(name: str) -> str:
    """A program of our environment."""
    return str(Path(sys.executable).with_name(name))


def started(scene: Scene, name: str, command: Sequence[str], **env: str) -> Process:
    """A process of ours or theirs, with a log in the scene's folder."""
    log = scene.folder / f"{name}.log"
    everything = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return Process(command, name=name, env=everything, cwd=ROOT, log=log).start()


def cpu(pids: Sequence[int]) -> float:
    """Seconds of all of them and their children."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            one = psutil.Process(pid)
            for each in (one, *one.children(recursive=True)):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def spread(values: Sequence[float]) -> str:
    """The median, the lowest and the highest."""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
