"""A sign of life for whoever restarts what hangs: a file that is touched while loops turn.

It asks nobody else. A worker whose Redis is away is alive: to start it again helps nobody.

    HEARTBEAT_FILE=/dev/shm/evoflask-worker python -m workers
    HEARTBEAT_FILE=/dev/shm/evoflask-worker python -m workers.alive
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("evoflask.heartbeat")

EVERY = 1.0
"""Seconds between touches."""
OLD = 30.0
"""Seconds after which a process without one counts as dead. A machine that is out of breath makes
a loop turn seldom, and a restart would not help it."""


class Heartbeat:
    """A thread of its own: the file may lie on a disk that stalls.

    `responds`: whether everything that has to turn does; may take some seconds, does not raise.
    """

    def __init__(self, file: Path, responds: Callable[[], bool]) -> None:
        self._file = file
        self._responds = responds
        self._told = False

    def start(self) -> None:
        """At once, and until the process ends."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        while True:
            if self._responds():
                self._touch()
            time.sleep(EVERY)

    def _touch(self) -> None:
        try:
            self._file.touch()
        except OSError as error:
            if not self._told:
                log.warning("no sign of life can be given: %s", error.strerror)
            self._told = True


def beat(file: Path | None, responds: Callable[[], bool]) -> None:
    """Starts one where there is a file for it."""
    if file is not None:
        Heartbeat(file, responds).start()
