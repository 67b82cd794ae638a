"""The watcher's lines, which people and tests read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from evoflask.dev.process import Process, whole_lines

TROUBLED = """
import logging, threading
from evoflask.dev.watch import show

LINES = 3000

def complain():
    for n in range(LINES):
        logging.getLogger("a client").error("encountered error %d", n)

threads = [threading.Thread(target=complain) for _ in range(2)]
for thread in threads:
    thread.start()
for n in range(LINES):
    show({"sink": "webhook", "n": n})
for thread in threads:
    thread.join()
"""


def test_what_arrives_is_a_line_of_its_own_whatever_a_client_says_meanwhile(
    tmp_path: Path, root: Path
) -> None:
    env = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    process = Process([sys.executable, "-c", TROUBLED], env=env, cwd=root, log=log).start()
    try:
        assert process.wait(60) == 0, process.output()
    finally:
        process.kill9()

    lines = whole_lines(log)
    told = [json.loads(line)["n"] for line in lines if line.startswith("{")]
    assert told == list(range(3000))
    assert sum(line.startswith("encountered") for line in lines) == 6000
