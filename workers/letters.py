"""Requeueing a letter for RQ's own tools, which know nothing but to run its job again."""

from __future__ import annotations

import logging

import redis

from evoflask import auditlog, bell, configuration, db, deadletters, outbox
from evoflask.errors import EvoflaskError
from evoflask.manager import EventManager
from evoflask.settings import Settings

log = logging.getLogger("evoflask.worker")


class Letters:
    """Connects at the first letter: hardly a worker ever sees one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._manager: EventManager | None = None

    def requeue(self, letter: int) -> None:
        """Never raises: RQ would write what failed over the letter's own reason. A letter that
        stays open is shown again by the clock."""
        try:
            manager = self._built()
            row = deadletters.requeue(manager, letter)
            tenant = configuration.by_id(row.instance_id)
            auditlog.note("rq", "deadletter.requeue", tenant, row.subscription_name, letter=letter)
        except (EvoflaskError, redis.RedisError, OSError) as error:
            log.warning("letter %d was not requeued: %s", letter, error)
        finally:
            db.close()

    def _built(self) -> EventManager:
        db.connect(self._settings)  # a job may come before the drain has connected
        if self._manager is None:
            box = outbox.Outbox(outbox.connect(self._settings.redis_url, connections=2))
            bells = bell.connect(self._settings.rq_redis_url)
            self._manager = EventManager(box, self._settings, bells)
        return self._manager
