"""What `make run` starts, whole: the pasted block delivers an event to its receiver."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
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
        assert "sleep" not in block

        shell = subprocess.run(
            ["sh", "-c", textwrap.dedent(block)],
            env={"PATH": os.environ["PATH"]},
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert shell.returncode == 0, shell.stdout + shell.stderr
        assert '"subscriptions":["webhook"]' in shell.stdout, shell.stdout + shell.stderr
        assert "POST /hook" in shell.stdout
        assert '"conversation": "Hello"' in shell.stdout
        supervisor.stop(grace=10)
        assert supervisor.status == 0, supervisor.output()
        assert not any(child.is_running() for child in children)
        assert "level=error" not in supervisor.output()


@pytest.mark.parametrize(("host", "listens"), [("", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")])
def test_the_web_process_listens_on_loopback_unless_asked(
    tmp_path: Path, root: Path, host: str, listens: str
) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "PORT": str(free_port()),
        "EVOFLASK_HOME": str(tmp_path / "home"),
        "WEB_HOST": host,
    }
    command = [sys.executable, "-m", "evoflask.dev"]

    with Process(command, env=env, cwd=root, log=tmp_path / "log") as supervisor:
        wait_for(lambda: "Ctrl-C stops" in supervisor.output() or not supervisor.alive, 60)

        processes = psutil.Process(supervisor.pid).children(recursive=True)
        sockets = [each for one in processes for each in one.net_connections("inet")]
        listening = {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
        assert listening == {listens}
        assert f"http://127.0.0.1:{env['PORT']}/rq/" in supervisor.output()


@pytest.mark.slow
@pytest.mark.beside
@pytest.mark.timeout(900)
def test_a_fresh_copy_delivers_its_first_event_and_installs_only_what_running_needs(
    tmp_path: Path, root: Path
) -> None:
    """Take four commands: copy, `cd`, `make run`, and the pasted block."""
    copy = tmp_path / "evoflask"
    began = time.monotonic()
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".venv", "var", ".git", ".*_cache"))
    env = {**os.environ, "PORT": str(free_port()), "EVOFLASK_HOME": str(tmp_path / "home")}
    env["PATH"] = os.pathsep.join(
        each for each in env["PATH"].split(os.pathsep) if ".venv" not in each
    )
    for name in ("VIRTUAL_ENV", "AUTHENTICATION_API_KEY", "MAKEFLAGS"):
        env.pop(name, None)

    with Process(["make", "run"], env=env, cwd=copy, log=tmp_path / "log") as run:
        wait_for(lambda: "Ctrl-C stops" in run.output() or not run.alive, 600, "the greeting")
        said = run.output()
        block = said[said.index("    export ") : said.index("Ctrl-C stops")]
        shell = subprocess.run(
            ["sh", "-c", textwrap.dedent(block)], env=env, cwd=copy, capture_output=True, text=True,
            timeout=120, check=True,
        )  # fmt: skip
        seconds = time.monotonic() - began

    print(f"first delivered event after {seconds:.0f} s")
    assert '"conversation": "Hello"' in shell.stdout
    assert "  gunicorn==" in said
    installed = {each.name.partition("-")[0].lower() for each in site_packages(copy)}
    assert {"flask", "gunicorn"} <= installed
    assert not {"pytest", "mypy", "selenium", "moto", "schemathesis", "honcho"} & installed


def site_packages(copy: Path) -> list[Path]:
    """Return the packages that the environment of a copy has."""
    return list(next((copy / ".venv/lib").iterdir()).glob("site-packages/*.dist-info"))


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
        wait_for(lambda: "Ctrl-C stops" in supervisor.output() or not supervisor.alive, 120)
        said = supervisor.output()
        if "evoflask: There is no" in said:
            missing(said.strip().splitlines()[-1])
        wait_for(lambda: supervisor.output().count('"watching"') == 6, 60, "the six clients")
        children = psutil.Process(supervisor.pid).children(recursive=True)
        block = said[said.index("    export ") : said.index("Ctrl-C stops")]

        subprocess.run(
            ["sh", "-c", textwrap.dedent(block)],
            env={"PATH": os.environ["PATH"]},
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
