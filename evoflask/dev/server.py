"""What all private servers have in common: started, killed, paused and started again on the
same data and address. Each kind says how its command looks and when it answers."""

from __future__ import annotations

import abc
import contextlib
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from evoflask.dev.process import Process, wait_for
from evoflask.errors import Misconfigured


def find_program(name: str, package: str, *more: Path) -> Path:
    """A program of PATH or of one of the folders `more`.

    Raises `Misconfigured` with what to install when there is none.
    """
    for folder in (None, *map(str, more)):
        if found := shutil.which(name, path=folder):
            return Path(found)
    raise Misconfigured(f"There is no {name} on PATH; {package} brings it.")


def stopped(group: int) -> bool:
    """Whether every thread of a process group stands still."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/task/*/stat"):
        with contextlib.suppress(OSError):  # it ended
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                states.append(fields[0])
    return all(state in "TtZX" for state in states)


class Server(abc.ABC):
    """A server in a process group of its own, on loopback or a Unix socket.

    `data`: its folder; made if missing. A context manager: it ends with its whole group.
    """

    name: ClassVar[str]
    patience: ClassVar[float] = 30.0
    """Seconds that its start may take."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process: Process | None = None

    @abc.abstractmethod
    def command(self) -> Process:
        """The command, not started yet, its folders and files made; its output goes to a file
        in `data`. Called once. Raises `Misconfigured` when there is no such program."""

    @abc.abstractmethod
    def answers(self) -> bool:
        """Whether it is up and would serve a client now. Does not raise."""

    def prepare(self) -> Process:
        """The command, always the same `Process`."""
        if self.process is None:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.process = self.command()
        return self.process

    def start(self) -> Self:
        """Starts it and waits until it answers.

        Raises `Misconfigured`, `RuntimeError` with the end of its log when it ends instead,
        `TimeoutError`.
        """
        process = self.prepare().start()
        try:
            wait_for(self.up, self.patience, f"an answer of {self.name}, see {process.log}")
        except BaseException:
            process.kill9()
            raise
        return self

    def stop(self, grace: float = 10.0) -> None:
        """SIGTERM, then the whole group."""
        if self.process:
            self.process.stop(grace)

    def kill9(self) -> None:
        """As a crash."""
        if self.process:
            self.process.kill9()

    def restart(self) -> Self:
        """Starts again after `stop` or `kill9`, on the same data and address."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Hangs until `resume`: connections stay open, nothing is answered."""
        if self.process:
            self.process.send_group(signal.SIGSTOP)
            # A thread that runs on another core goes on for a moment, and may answer.
            wait_for(lambda: stopped(self.process.pid), 10, f"{self.name} to stand still")  # type: ignore[union-attr]

    def resume(self) -> None:
        """Ends `pause`."""
        if self.process:
            self.process.send_group(signal.SIGCONT)

    def up(self) -> bool:
        """Whether it answers. Raises `RuntimeError` with the end of its log when it ended."""
        if self.process is None or not self.process.alive:
            output = self.process.output() if self.process else ""
            end = "\n".join(output.splitlines()[-8:])
            raise RuntimeError(f"{self.name} ended:\n{end}")
        with contextlib.suppress(OSError):
            return self.answers()
        return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.resume()
        self.stop()
