"""What `make run` starts, whole: the pasted block delivers an event to its receiver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from evoflask.dev.process import Process, free_port, wait_for, whole_lines
from tests.conftest import missing


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


@pytest.mark.timeout(180)
def test_make_run_all_shows_one_event_at_six_destinations(tmp_path: Path, root: Path) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "PORT": str(free_port()),
        "EVOFLASK_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "evoflask.dev", "--all"]
    supervisor = Process(command, env=env, cwd=root, log=tmp_path / "log").start()
    try:
        wait_for(lambda: "Emit an event" in supervisor.output() or not supervisor.alive, 120)
        said = supervisor.output()
        if "evoflask: There is no" in said:
            missing(said.strip().splitlines()[-1])
        wait_for(lambda: supervisor.output().count('"watching"') == 6, 60, "the six clients")
        children = psutil.Process(supervisor.pid).children(recursive=True)
        key = (tmp_path / "home" / "apikey").read_text().strip()
        curl = said[said.index("Emit an event") :].partition("\n")[2]

        subprocess.run(
            ["sh", "-c", textwrap.dedent(curl)],
            env={"PATH": os.environ["PATH"], "AUTHENTICATION_API_KEY": key},
            check=True,
            timeout=30,
        )

        def arrived() -> set[str]:
            lines = [line for line in whole_lines(tmp_path / "log") if line.startswith("{")]
            return {told["sink"] for told in map(json.loads, lines) if told.get("event") == "CALL"}

        wait_for(lambda: len(arrived()) == 6, 30, "the event at all six")
        supervisor.stop(grace=15)
        assert supervisor.status == 0, supervisor.output()
        # What lost its parent is reaped by the system, a moment later.
        assert psutil.wait_procs(children, timeout=10)[1] == []
    finally:
        supervisor.kill9()
