"""Rules of the house that no tool holds."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from evoflask.vault import new_key

CLIENTS = ("aiohttp", "pika", "nats", "boto3", "pusher")
TRACING = {"opentelemetry.sdk.trace", "opentelemetry.exporter"}
"""redis-py loads the metrics of OpenTelemetry by itself, where they are installed."""

LOADED = """
import sys
from pathlib import Path
import app
from evoflask.settings import Settings
from evoflask.vault import new_key
app.create_app(Settings(home=Path(sys.argv[1]), api_key="a-key", encryption_key=(new_key(),)))
print(*sys.modules)
"""

WORKER = """
import sys
import workers.__main__
from evoflask import sinks, traces
from evoflask.settings import Settings
for name in sinks.delivering():
    sinks.load(name)
traces.configure(Settings(), "worker")
print(*sys.modules)
"""

LACKING = """
import sys
sys.modules["opentelemetry"] = None
from workers.__main__ import main
sys.exit(main([]))
"""


def test_the_web_process_loads_no_client_library(root: Path, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path)],
        cwd=root,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "flask" in said.stdout.split()
    assert not set(CLIENTS) & set(said.stdout.split())
    assert not TRACING & set(said.stdout.split())


def test_a_worker_without_traces_loads_no_opentelemetry(root: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", WORKER],
        cwd=root,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "evoflask.traces" in said.stdout.split()
    assert not TRACING & set(said.stdout.split())


def test_each_line_of_the_procfile_names_a_program_that_exists(root: Path) -> None:
    from evoflask.dev.supervisor import environment, read_procfile, resolve
    from evoflask.settings import Settings

    commands = read_procfile(root / "Procfile")
    env = environment(Settings(api_key="a-key", encryption_key=("a-key",)), os.environ)

    assert list(commands) == ["release", "web", "worker", "clock"]
    assert all(resolve(command, env) for command in commands.values())


def test_a_process_that_shall_trace_and_lacks_the_packages_does_not_start(root: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", LACKING],
        cwd=root,
        env={"PATH": os.environ["PATH"], "TRACES": "on", "ENCRYPTION_KEY": new_key()},
        capture_output=True,
        text=True,
        check=False,
    )

    assert said.returncode == 1
    assert "TRACES is on, and OpenTelemetry is not installed" in said.stderr


DOORS = {"ClientSession", "TCPConnector", "create_connection", "open_connection", "urlopen",
         "HTTPConnection", "HTTPSConnection"}  # fmt: skip
"""What connects to a host of somebody's choice."""
OF_THE_OPERATOR = {
    "evoflask/net/http.py",  # the guarded door itself
    "evoflask/net/certificate.py",  # connects to an address that the guard let pass
    "evoflask/sinks/_rabbitmq_link.py",  # RABBITMQ_URI
    "evoflask/sinks/sqs.py",  # botocore's, to hosts that `net.aws` knows to be AWS's, by name
}


def test_whoever_reaches_a_host_goes_through_the_one_door(root: Path) -> None:
    """`net.http` for what a tenant chooses; a broker is the operator's choice, by name here."""
    found = {}
    for path in sorted((root / "evoflask").rglob("*.py")):
        name = str(path.relative_to(root))
        if name.startswith("evoflask/dev/"):
            continue
        tree = ast.parse(path.read_text())
        called = {
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
        }
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        if used := (called & DOORS) | (imported & {"requests", "urllib3", "httpx"}):
            found[name] = used

    assert "evoflask/net/http.py" in found
    assert {name: used for name, used in found.items() if name not in OF_THE_OPERATOR} == {}
