"""Letters go: those that were requeued or discarded, once nothing can bring them back."""

from __future__ import annotations

import logging

from evoflask import db
from evoflask.models import DeadLetter
from evoflask.outbox.timetable import Persisted

log = logging.getLogger(__name__)

PERSIST_SECONDS = 3.0
"""A requeue counts as written to disk so long after it, when Redis says that it keeps up:
`appendfsync everysec` takes at most two."""


def confirm(persisted: Persisted, now: float) -> None:
    """Requeued letters: let go of the bodies once Redis has the events on disk under the run
    id that took them; another run id may have lost them, so those letters are open again."""
    marked = DeadLetter.requeued_at.is_null(False) & DeadLetter.requeued_run.is_null(False)
    with db.translate():
        waiting = DeadLetter.select(DeadLetter.id).where(marked).limit(1).exists()
    if not waiting:
        return
    with db.writing():
        reopened = (
            DeadLetter.update(requeued_at=None, requeued_run=None)
            .where(marked & (DeadLetter.requeued_run != persisted.run_id))
            .execute()
        )
        if persisted.settled:
            DeadLetter.update(data=None, requeued_run=None).where(
                marked & (DeadLetter.requeued_at < now - PERSIST_SECONDS)
            ).execute()
    if reopened:
        log.warning("Redis restarted: requeued letters are open again", extra={"n": reopened})


def forget(before: float) -> None:
    """Delete keys of letters that were requeued or discarded before that."""
    old = (DeadLetter.requeued_run.is_null() & (DeadLetter.requeued_at < before)) | (
        DeadLetter.discarded_at < before
    )
    with db.translate():
        ids = [row.id for row in DeadLetter.select(DeadLetter.id).where(old).limit(500)]
    if ids:
        with db.writing():
            DeadLetter.delete().where(DeadLetter.id.in_(ids)).execute()
