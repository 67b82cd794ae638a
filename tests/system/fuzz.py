"""`make fuzz`: a running house against what its own documentation says, by schemathesis.

Web, worker and clock are processes with a real Redis and database. Valid and hostile requests go
to every operation, alone and in chains; each answer must be one that is documented, and none a
defect.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.conftest import ROOT
from tests.system.house import API_KEY, House

HERE = Path(__file__).parent
INSTANCES = ("support", "spare")
CLOSED = "http://127.0.0.1:9/"  # nobody listens: what goes there becomes a letter
LIMIT = 600
"""Seconds for all of it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `found`: schemathesis' own report; `output`: what it says to a person."""

    seconds: float
    found: dict[str, Any]
    output: str
    defects: list[str]
    """Lines of the house's logs that tell of one."""

    def __str__(self) -> str:
        cases, operations = self.found["test_cases"], self.found["operations"]
        return (
            f"{cases['generated']:,} cases for {operations['tested']} of {operations['total']} "
            f"operations in {self.seconds:.0f} s, seed {self.found['seed']}: "
            f"{cases['with_failures']} failures, {cases['errored']} errors, "
            f"{len(self.defects)} defects in the logs"
        )


class Gardener:
    """Makes what the requests are about, and makes it again when one of them deleted it. A context
    manager."""

    def __init__(self, house: House) -> None:
        self._client = house.client()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Gardener:
        self._tend()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _work(self) -> None:
        while not self._stop.wait(0.3):
            with contextlib.suppress(requests.RequestException):
                self._tend()

    def _tend(self) -> None:
        hook = {"enabled": True, "url": "https://example.com/hook"}
        for name in INSTANCES:
            post = functools.partial(self._client.call, "POST")
            post("/instance/create", {"instanceName": name, "webhook": hook})
            post(f"/websocket/set/{name}", {"enabled": True})
            post(f"/nats/set/{name}", {"enabled": True})
            dead = {"name": "dead", "sink": "webhook", "retry": [], "enabled": True, "url": CLOSED}
            post(f"/subscription/{name}", dead)
            post(f"/subscription/{name}", {"name": "archive", "sink": "webhook", **hook})
            for id in ("order-4711-paid", "e-1"):
                post(f"/event/emit/{name}", {"event": "CALL", "id": id, "data": {"id": id}})
            post(f"/event/emit/{name}", {"event": "CALL", "data": {}})


def run(folder: Path, *, seed: int, examples: int, phases: str = "") -> Report:
    """Starts a house, lets schemathesis at it, and ends it."""
    options: dict[str, Any] = {
        "web_concurrency": 2,
        "retry_schedule": "0.1",
        "sqs_region": "eu-west-1",
        # Nobody listens there: what is sent to brokers waits, and whoever sets one is let.
        "rabbitmq_uri": "amqp://127.0.0.1:1",
        "nats_uri": "nats://127.0.0.1:1",
    }
    with House(folder, **options) as house, Gardener(house):
        report = folder / "report.json"
        began = time.monotonic()
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(HERE / "fuzz.toml")),
            *("run", f"http://127.0.0.1:{house.port}/openapi.json"),
            *("--header", f"apikey:{API_KEY}"),
            # CPython 3.11 counts the depth of `ast.parse` for all threads together. With several
            # threads the client's coverage phase raises SystemError.
            *("--mode", "all", "--workers", "1"),
            *("--seed", str(seed), "--max-examples", str(examples)),
            *("--request-timeout", "60", "--continue-on-failure", "--no-shrink"),
            *("--generation-database", "none", "--no-color"),
            *("--report", "json", "--report-json-path", str(report)),
            *(("--phases", phases) if phases else ()),
        ]
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.system.fuzz_hooks",
        }
        done = subprocess.run(
            command,
            cwd=folder,  # it leaves notes for its next run where it works
            env=env,
            capture_output=True,
            text=True,
            timeout=LIMIT * 2,
            check=False,
        )
        output = done.stdout + done.stderr
        seconds = time.monotonic() - began
        defects = [line for line in house.output("web").splitlines() if "Traceback" in line]
        if not report.exists():
            raise RuntimeError(output)
        return Report(seconds, json.loads(report.read_text()), output, defects)


def main() -> int:
    """The report, and whether there was no failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--examples", type=int, default=30, help="of each operation and phase")
    parser.add_argument("--phases", default="", help="examples, coverage, fuzzing, stateful")
    parser.add_argument("--keep", type=Path, help="a new folder for logs and data")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if asked.keep is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="evoflask-fuzz-"))
        else:
            folder = asked.keep
            asked.keep.mkdir()
        report = run(Path(folder), seed=asked.seed, examples=asked.examples, phases=asked.phases)
    print(report.output)
    print(report)
    return 0 if report.found["exit_code"] == 0 and not report.defects else 1


if __name__ == "__main__":
    sys.exit(main())
