"""RESULTS.md: the table of goals, what stands behind each figure, versions and machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measures import read, shown
from benchmarks.versus import PEERS
from evoflask.dev.redis_server import find_binary, version_of

OURS = ("flask", "gunicorn", "redis", "hiredis", "rq", "aiohttp", "orjson", "msgspec")
THEIRS = ("celery", "gevent", "taskiq", "taskiq-redis", "requests", "rq", "aiohttp")
OUT = Path(__file__).with_name("RESULTS.md")
SETTINGS = """\
All of evoflask runs as its Procfile starts it and with the settings it comes with: Redis with an
append-only file synced each second, holds, quarantine, delivery log, guard, retries, secrets
sealed. The peers' Redis is the same. Events are the mix of `benchmarks/mix.py`, 100 instances, if
nothing else is said.
"""
WRITTEN = """\
Written by `{command}`; the raw figures are in `results/{file}`. Ratios of one run, pairs in
turns; median, lowest and highest of the rounds. Times are this machine's alone. The method is in
the modules' own words.
"""


def machine() -> dict[str, str]:
    """What it ran on and with."""
    model = [
        x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    found = {
        "cores": str(os.cpu_count()),
        "processor": model[0].partition(": ")[2] if model else platform.processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "redis-server": ".".join(map(str, version_of(find_binary()))),
    }
    found |= {name: version(name) for name in OURS}
    return found | _theirs()


def _theirs() -> dict[str, str]:
    python = PEERS / "bin" / "python"
    if not python.exists():
        return {}
    code = f"from importlib.metadata import version as v; print(*(v(n) for n in {THEIRS!r}))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    found = {f"peer {name}": v for name, v in zip(THEIRS, said.split(), strict=True)}
    for name in ("bullmq", "ioredis", "axios", "undici"):
        package = PEERS / "bullmq" / "node_modules" / name / "package.json"
        found[f"peer {name}"] = package.read_text().partition('"version": "')[2].partition('"')[0]
    return found


def write(file: Path) -> None:
    """From what was saved."""
    known, measures, tables = read(file)
    command = "make bench-full" if file.stem == "full" else "make bench"
    lines = [
        "# Results",
        "",
        WRITTEN.format(command=command, file=file.name),
        SETTINGS,
        "| measure | goal | median | lowest to highest | rounds | met |",
        "| --- | --- | --- | --- | --- | --- |",
        *(each.row() for each in measures),
        "",
    ]
    for heading, (names, *rows) in tables.items():
        lines += [f"## {heading}", "", *_table(names, rows), ""]
    lines += ["## Machine and versions", "", ", ".join(f"{k} {v}" for k, v in known.items()), ""]
    OUT.write_text("\n".join(lines))


def _table(names: list[str], rows: list[list[Any]]) -> list[str]:
    """Rows of the same name as one, by the median of each figure."""
    groups: dict[tuple[Any, ...], list[list[Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(v for v in row if not isinstance(v, float))].append(row)
    found = [f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"]
    for some in groups.values():
        cells = [
            shown(statistics.median(column)) if isinstance(column[0], float) else shown(column[0])
            for column in zip(*some, strict=True)
        ]
        found.append(f"| {' | '.join(cells)} |")
    return found
