"""A worker process: RQ in the main thread, the engine's loop beside it, and the signals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

import redis
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker import DequeueStrategy, WorkerStatus

from evoflask import bell
from evoflask.ids import random_id
from evoflask.log import Repeats
from workers import heartbeat, jobs
from workers.engine import Draining, Engine

log = logging.getLogger("evoflask.worker")

DELIVERIES = 0.7
"""Of `GRACE_SECONDS`, for deliveries under way after a SIGTERM; a second more for all else."""

LIMIT = 0.96
"""Of it, after which the process ends whatever hangs."""

TTL = 20
"""RQ blocks for `TTL - 15` seconds a turn and lets its socket wait ten more: a Redis that
hangs is noticed in 15 seconds, where RQ's default takes 7 minutes."""


class NoLimit(BaseDeathPenalty):
    """RQ's job timeout never stops a drain; it would do so by SIGALRM, which is ours."""

    def __enter__(self) -> NoLimit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        return False


class BellWorker(SimpleWorker):
    """An RQ worker that takes bells and no orders, and reports each sign of life of its Redis."""

    max_connection_wait_time = 5.0
    log_result_lifespan = False
    death_penalty_class = NoLimit

    def __init__(self, engine: Engine, connection: redis.Redis, served: Sequence[str]) -> None:
        self._engine = engine
        super().__init__(
            [bell.queue(connection, sink) for sink in served],
            name=f"evoflask-{os.getpid()}-{random_id()}",
            connection=connection,
            worker_ttl=TTL,
            serializer=JSONSerializer,
            log_job_description=False,
        )

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """RQ's own, before each wait for bells; also how the engine learns that they can arrive.

        A signal that came while RQ was set up ends here: `end` had nothing to interrupt.
        """
        if self._engine.stopping and self.get_state() != WorkerStatus.BUSY:
            raise StopRequested
        super().heartbeat(*args, **kwargs)
        self._engine.heard()

    def end(self) -> None:
        """Ends after the job under way. For a signal handler: interrupts a wait for bells."""
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested

    def subscribe(self) -> None:
        """Orders over Redis would be a door beside ours, and a thread and a connection more."""

    def unsubscribe(self) -> None:
        """See `subscribe`."""

    def _install_signal_handlers(self) -> None:
        """They are `Shell`'s: RQ's write to Redis from inside the handler."""


class Shell:
    """The process: its signals, and RQ in a loop that outlives RQ's Redis."""

    def __init__(
        self,
        drain: Draining,
        rq_redis_url: str,
        served: Sequence[str],
        grace: float,
        heartbeat_file: Path | None = None,
    ) -> None:
        self._served = served
        self._grace = grace
        self._heartbeat_file = heartbeat_file
        self._connection = bell.connect(rq_redis_url)
        self._engine = Engine(drain)
        self._worker: BellWorker | None = None
        self._asked = 0.0
        jobs.engine = self._engine

    def run(self) -> int:
        """Works until a signal; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)
        self._engine.start()
        heartbeat.beat(self._heartbeat_file, self._engine.responds)
        log.info("worker started", extra={"sinks": ",".join(self._served)})
        with contextlib.suppress(StopRequested):  # which a signal raises wherever it comes
            self._listen()
        ended = self._engine.join(LIMIT * self._grace)
        log.info("worker ended", extra={"in_order": ended})
        return 0 if ended else 1

    def _listen(self) -> None:
        """RQ leaves its own loop at every hiccup of Redis: enter it again."""
        failures = Repeats(log, expected=(redis.RedisError,))
        while not self._engine.stopping:
            try:
                self._worker = BellWorker(self._engine, self._connection, self._served)
                self._worker.work(logging_level="WARNING", dequeue_strategy=DequeueStrategy.RANDOM)
            except (redis.RedisError, OSError) as error:
                failures.tell("RQ's Redis cannot be used", bell.translate(error))
            self._worker = None
            self._pause(1)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._engine.stopping:
            time.sleep(0.05)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """No log and no lock in here: the main thread may hold it."""
        now = time.monotonic()
        if self._engine.stopping:
            # A Ctrl-C reaches a process on several ways; it is one wish all the same.
            if now - self._asked > 1:
                os._exit(128 + number)
            return
        self._asked = now
        signal.setitimer(signal.ITIMER_REAL, LIMIT * self._grace)
        self._engine.stop(DELIVERIES * self._grace)
        if self._worker:
            self._worker.end()

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        os._exit(1)
