"""Runs a command of the Procfile with places at which it can be made to kill itself.

    python tests/system/faulty.py <folder> python -m workers
    python tests/system/faulty.py <folder> gunicorn -c gunicorn.conf.py 'app:create_app()'

The real modules are imported, one function of each place is wrapped, then the real main
runs. A process that passes a place whose file `<folder>/fault-<place>` exists removes the
file and ends by SIGKILL, as if the machine had done it there. Nothing of this is known to
the product.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])


def die_at(place: str) -> None:
    """Dies here if it is this process' turn: whoever removes the file, and nobody else."""
    try:
        os.unlink(FOLDER / f"fault-{place}")  # noqa: PTH108 - a class of pathlib a call is dear
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: Any, name: str, *, before: str = "", after: str = "") -> None:
    """Puts places before and after a function."""
    inner: Callable[..., Any] = getattr(owner, name)

    @wraps(inner)
    def wrapped(*args: Any, **named: Any) -> Any:
        if before:
            die_at(before)
        answer = inner(*args, **named)
        if after:
            die_at(after)
        return answer

    setattr(owner, name, wrapped)


def around_async(owner: Any, name: str, *, before: str = "", after: str = "") -> None:
    """The same for a coroutine."""
    inner: Callable[..., Any] = getattr(owner, name)

    @wraps(inner)
    async def wrapped(*args: Any, **named: Any) -> Any:
        if before:
            die_at(before)
        answer = await inner(*args, **named)
        if after:
            die_at(after)
        return answer

    setattr(owner, name, wrapped)


def prepare() -> None:
    """All places. What is wrapped must be looked up when it is called."""
    from evoflask import configuration
    from evoflask.deadletters import writing
    from evoflask.delivery.admission import Admission
    from evoflask.delivery.drain import Drain
    from evoflask.manager import EventManager
    from evoflask.sinks.webhook import WebhookSink

    around(Admission, "admit", before="take-admit")
    around_async(Drain, "_fetch", after="read-send")
    around(Drain, "_settled", before="settle-note")
    around_async(WebhookSink, "deliver", before="take-send", after="send-settle")
    around(writing, "_write", after="letter-bury")
    around(configuration, "_push", before="commit-configure", after="configure-note")
    around(EventManager, "requeue", after="requeue-mark")
    around(EventManager, "accept", after="append-answer")


def main(command: list[str]) -> int:
    """The exit status of the command, run in this process."""
    sys.path.insert(0, str(Path.cwd()))
    prepare()
    if command[:2] == ["python", "-m"]:
        import runpy

        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
        return 0
    if command[0] == "gunicorn":
        from gunicorn.app.wsgiapp import run

        sys.argv = command
        run()
        return 0
    if command[0] == "flask":
        from flask.cli import main as flask

        sys.argv = command
        flask()
        return 0
    raise SystemExit(f"no faults for {command}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
