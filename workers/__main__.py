"""`python -m workers [sink ...]`: a worker for these sinks, or for all that have lanes.

Non-forking: the loop and its connections outlive the jobs. SIGTERM or SIGINT ends it with
status 0 within `GRACE_SECONDS`; a second one at once.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence

import evoflask.log
from evoflask import sinks, traces, vault
from evoflask.delivery.fleet import Fleet
from evoflask.errors import Misconfigured
from evoflask.settings import Settings
from workers import jobs
from workers.letters import Letters
from workers.worker import Shell


def main(arguments: Sequence[str]) -> int:
    """The command; the exit status."""
    try:
        settings = Settings.from_env(os.environ)
        vault.unlock(settings)
        served = serve(arguments)
        traces.configure(settings, "worker")
    except Misconfigured as error:
        return evoflask.log.refuse(error)
    evoflask.log.configure(settings.log_level, settings.secrets(), settings.log_format)
    _allow_files()
    jobs.requeue = Letters(settings).requeue
    try:
        fleet = Fleet(settings, served)
        grace, file = settings.grace_seconds, settings.heartbeat_file
        return Shell(fleet, settings.rq_redis_url, served, grace, file).run()
    finally:
        traces.close()


def _allow_files() -> None:
    """As many open files as we may have: each delivery under way is a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def serve(names: Sequence[str]) -> list[str]:
    """The sinks to serve. Raises `Misconfigured` for one that has no lanes."""
    lanes = sinks.delivering()
    for name in names:
        if name not in lanes:
            known = ", ".join(lanes)
            raise Misconfigured(f"There is no sink {name!r} to work for; there are: {known}.")
    return list(names) or lanes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
