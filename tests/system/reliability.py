"""The table of faults: a row for each test that breaks something on purpose.

    python -m tests.system.reliability

runs those tests (all that use the fixture `table`) and writes what they saw into
`docs/reliability.md`, between its two marks; with `DATABASE=postgres` between two others. A row
comes from the test's own ledger, kept outside the product; a test that fails writes none, and
the table says so.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evoflask.dev.receiver import Received, Receiver
from tests.system.ledger import Faults, Ledger

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
ROWS = "RELIABILITY_ROWS"
"""The environment's variable that names the file which gets the rows."""
END = "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """What one test did and saw. `events`: accepted; `lost`: of them, never arrived; `repeats`:
    arrivals after the first; `why`: what explains the repeats, or what else is to be said."""

    fault: str
    done: str
    events: int
    lost: int
    repeats: int
    why: str
    test: str = ""


class Table:
    """What a test writes its row with."""

    def __init__(self, test: str) -> None:
        self._test = test

    def write(self, row: Row) -> None:
        """Prints it, and keeps it where the run wants it kept."""
        row = dataclasses.replace(row, test=self._test)
        print(json.dumps(dataclasses.asdict(row)))
        if path := os.environ.get(ROWS):
            with Path(path).open("a") as file:
                file.write(json.dumps(dataclasses.asdict(row)) + "\n")

    def check(
        self,
        fault: str,
        done: str,
        ledger: Ledger,
        arrivals: Receiver | Sequence[Received],
        faults: Faults | None = None,
        why: str = "",
        *,
        ordered: bool = True,
        lost: int = 0,
    ) -> list[Received]:
        """Asserts that nothing is lost, that first arrivals are in order and that each repeat
        is explained by one of the faults; then writes the row. Returns what arrived.
        `ordered`: false where events pass others that could not be sent, as they may. `lost`:
        how many were, before their producer repeated them."""
        received = arrivals.received() if isinstance(arrivals, Receiver) else list(arrivals)
        missing, disorder = ledger.missing(received), ledger.disorder(received)
        assert not missing, f"{len(missing)} of {len(ledger)} lost: {missing[:5]}"
        assert not (ordered and disorder), f"{len(disorder)} out of order: {disorder[:5]}"
        known = ledger.ids()
        ours = [one for one in received if one.id in known]
        repeats, left = (faults or Faults()).explain(ours)
        assert not left, f"{len(left)} repeats that no fault explains: {left[:5]}"
        reason = why or ("under way when it was done" if repeats else "")
        self.write(Row(fault, done, len(ledger), lost, len(repeats), reason))
        return received


def render(rows: Sequence[Row]) -> str:
    """The table as Markdown, without the names of tests that one reads in the code."""
    lines = [
        "| fault | what was done | events | lost | repeats | what explains them |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {r.fault} | {r.done} | {r.events:,} | {r.lost} | {r.repeats} | {r.why} |" for r in rows
    ]
    return "\n".join(lines) + "\n"


def read_rows(path: Path) -> list[Row]:
    """Those that a run wrote, by fault."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted((Row(**json.loads(line)) for line in lines), key=lambda row: row.fault)


def mark(database: str) -> str:
    """Where the table of runs on that database begins; "": as by default."""
    how = f"DATABASE={database} make" if database else "make"
    return f"<!-- begin: {how} reliability -->"


def rewrite(page: str, table: str, database: str = "") -> str:
    """The page with a new table between its marks. Raises `ValueError` without them."""
    before, begin, rest = page.partition(mark(database))
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} has no place for the table")
    return f"{before}{begin}\n\n{table}\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Runs the suite, prints the table, keeps it in the page; pytest's exit status. With
    arguments they are pytest's, and the page stays as it is: it tells of whole runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-m", "fault", "--timeout", "600", *arguments]
        env = {**os.environ, ROWS: str(path)}
        status = subprocess.run(command, cwd=ROOT, env=env).returncode
        rows = read_rows(path)
    minutes = (time.monotonic() - began) / 60
    said = f"{len(rows)} faults, {sum(r.events for r in rows):,} events, {minutes:.1f} minutes.\n"
    table = render(rows) + "\n" + said
    print(table)
    if status == 0 and not arguments:
        PAGE.write_text(rewrite(PAGE.read_text(), table, os.environ.get("DATABASE", "")))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
