"""The audit log: who did what, and when. Written by whoever acts for somebody, read by the route.

`audit.py` is another thing: it checks the books.
"""

from __future__ import annotations

import logging
from typing import Any

from evoflask import db
from evoflask.models import AuditLog, Instance

log = logging.getLogger(__name__)


def note(
    by: str,
    action: str,
    instance: Instance | None = None,
    subscription: str | None = None,
    **facts: Any,
) -> None:
    """Write that it was done, in the table and as a line of the log. `facts`: what else one
    would ask, counts and ids, never a payload or a secret. Raises `DatabaseDown`."""
    name = None if instance is None else instance.name
    with db.writing():
        AuditLog.create(
            by=by,
            action=action,
            instance_id=None if instance is None else instance.id,
            instance_name=name,
            subscription_name=subscription,
            facts=facts,
        )
    told = {"by": by, "action": action, "instance": name, "subscription": subscription} | facts
    log.info("done by hand", extra={k: v for k, v in told.items() if v is not None})
