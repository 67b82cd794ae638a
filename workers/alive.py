"""`python -m workers.alive`: whether the process with the same HEARTBEAT_FILE turns.

Status 0: it touched the file within the last half minute. Reads no other setting and imports
little: a platform asks every few seconds.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from workers.heartbeat import OLD


def fault(file: str, now: float) -> str:
    """What is wrong, in a sentence; empty: nothing. `now`: Unix seconds."""
    if not file:
        return "HEARTBEAT_FILE is not set."
    try:
        age = now - Path(file).stat().st_mtime
    except OSError as error:
        return f"{file}: {error.strerror}."
    if age > OLD:
        return f"{file} was not touched for {age:.0f} s."
    return ""


def main() -> int:
    """The command; the exit status."""
    wrong = fault(os.environ.get("HEARTBEAT_FILE", ""), time.time())
    if wrong:
        sys.stderr.write(f"evoflask: {wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
