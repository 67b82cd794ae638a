"""`python -m workers.alone <pid> [sink ...]`: lanes in quarantine, one entry at a time.

A worker starts it for lanes that lost three holds in a row. If an event kills it, it takes
nobody along; when nothing is left to do, or the worker with that pid is gone, it ends.
"""

from __future__ import annotations

import asyncio
import os
import sys

import evoflask.log
from evoflask import traces, vault
from evoflask.delivery.drain import Drain
from evoflask.settings import Settings

QUIET = 2.0
MAX_SECONDS = 600.0


async def _run(drain: Drain, parent: int) -> None:
    await drain.start()
    work = asyncio.ensure_future(drain.drain_until_quiet(MAX_SECONDS, QUIET))
    while not work.done() and os.getppid() == parent:
        await asyncio.wait({work}, timeout=0.5)
    await drain.stop(1.0)
    await work


def main() -> None:
    """The command."""
    settings = Settings.from_env(os.environ)
    vault.unlock(settings)
    evoflask.log.configure(settings.log_level, settings.secrets(), settings.log_format)
    traces.configure(settings, "alone")
    asyncio.run(_run(Drain(settings, sys.argv[2:], alone=True), int(sys.argv[1])))
    traces.close()


if __name__ == "__main__":
    main()
