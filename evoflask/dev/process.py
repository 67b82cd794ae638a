"""A started command: its group, its output, its end. And how to wait for something."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
PORTS = range(12_000, 32_000)
"""Where `free_port` looks. Below the range that the system gives to clients (from 32768 on, on
Linux): one of those would be taken by somebody's connection before a server that starts slowly
listens on it."""
_given: set[int] = set()
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int, parent: int) -> None:
    """Asks the kernel to send this process a signal when its parent ends.

    `parent`: who that is; a process whose parent ended before it could ask ends by itself.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of `PORTS` on which nobody listens now; none twice while there are others."""
    while True:
        port = random.choice(PORTS)
        if port in _given and len(_given) < len(PORTS) // 2:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            _given.add(port)
            return port


def whole_lines(path: Path) -> list[str]:
    """Those of a file that another process may be appending to: what has no end yet is half a
    line, and left out. None where there is no file."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return text.split("\n")[:-1]


PATIENCE = 1.0
"""Multiplies the bounds of `wait_for`. The tests raise it: their bounds are not their subject."""


def wait_for(
    condition: Callable[[], T], timeout: float = 10.0, what: str = "", interval: float = 0.01
) -> T:
    """Poll until the condition is true, and return its answer.

    Raise `TimeoutError` after `timeout` times `PATIENCE` seconds; `what` names the condition.
    """
    return _poll(condition, timeout * PATIENCE, what, interval)


def _poll(condition: Callable[[], T], timeout: float, what: str = "", interval: float = 0.01) -> T:
    end = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > end:
            name = what or getattr(condition, "__qualname__", repr(condition))
            raise TimeoutError(f"waited {timeout:g} s for: {name}")
        time.sleep(interval)
    return answer


class Process:
    """A command in a process group of its own, which dies with whoever started it.

    The kernel ties the two by the *thread* that calls `start`: start from a thread that
    lives as long as the process shall. `log`: a file for its output; None: ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        parent_death_signal: int = signal.SIGKILL,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.command = list(command)
        self.name = name or Path(command[0]).name
        self.log = log
        self._env = dict(env) if env is not None else None
        self._cwd = cwd
        self._death = parent_death_signal
        self._pass_fds = tuple(pass_fds)
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Starts it; raises `OSError` when there is no such program."""
        parent = os.getpid()
        with contextlib.ExitStack() as stack:
            out: IO[bytes] | None = None
            if self.log is not None:
                out = stack.enter_context(self.log.open("ab"))
            self._popen = subprocess.Popen(
                self.command,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=self._pass_fds,
                preexec_fn=lambda: die_with_parent(self._death, parent),
            )
        return self

    @property
    def pid(self) -> int:
        """Of the leader; also the group's number. Raises `RuntimeError` before `start`."""
        if self._popen is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether the leader runs."""
        return self._popen is not None and not self._ended()

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return None if self._popen is None else self._popen.poll()

    def output(self) -> str:
        """What it wrote so far, where `log` was given."""
        return self.log.read_text(errors="replace") if self.log and self.log.exists() else ""

    def send(self, number: int) -> None:
        """Sends a signal to the leader, if it still runs."""
        if self.alive:
            os.kill(self.pid, number)

    def send_group(self, number: int) -> None:
        """Sends a signal to the whole group, if its leader still runs."""
        if self.alive:
            os.killpg(self.pid, number)

    def wait(self, timeout: float = 10.0) -> int:
        """Waits for its end and returns the status. Raises `TimeoutError`."""
        wait_for(self._ended, timeout, f"the end of {self.name}")
        return self._reap()

    def stop(self, grace: float = 8.0, number: int = signal.SIGTERM) -> int | None:
        """Asks the leader to end, and after `grace` seconds kills what is left of the group.

        Returns the status; None when it was never started.
        """
        if self._popen is None:
            return None
        self.send(number)
        with contextlib.suppress(TimeoutError):
            _poll(self._ended, grace)
        return self.kill9()

    def kill9(self) -> int | None:
        """Kills the whole group at once and returns the leader's status."""
        if self._popen is None:
            return None
        if self._popen.returncode is None:
            # Before the leader is reaped: until then nobody else can get its number.
            os.killpg(self.pid, signal.SIGKILL)
        return self._reap()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _ended(self) -> bool:
        """Whether the leader ended; leaves it to be reaped, see `kill9`."""
        if self._popen is None or self._popen.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._popen.pid, flags) is not None

    def _reap(self) -> int:
        assert self._popen is not None
        return self._popen.wait()
