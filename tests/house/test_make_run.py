"""What `make run` starts, whole: the pasted block delivers an event to its receiver."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil

from evoflask.dev.process import Process, free_port, wait_for


def test_the_pasted_block_shows_a_delivered_event(tmp_path: Path, root: Path) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "PORT": str(free_port()),
        "EVOFLASK_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "evoflask.dev"]
    with Process(command, env=env, cwd=root, log=tmp_path / "log") as supervisor:
        wait_for(lambda: "Ctrl-C stops" in supervisor.output() or not supervisor.alive, 30)
        said = supervisor.output()
        block = said[said.index("    export ") : said.index("Ctrl-C stops")]
        children = psutil.Process(supervisor.pid).children(recursive=True)

        shell = subprocess.run(
            ["sh", "-c", textwrap.dedent(block)],
            env={"PATH": os.environ["PATH"]},
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert '"subscriptions":["webhook"]' in shell.stdout, shell.stdout + shell.stderr
        assert "POST /hook" in shell.stdout
        assert '"conversation": "Hello"' in shell.stdout
        supervisor.stop(grace=10)
        assert supervisor.status == 0, supervisor.output()
        assert not any(child.is_running() for child in children)
        assert "level=error" not in supervisor.output()
