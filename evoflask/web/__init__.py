"""The HTTP side: one blueprint a noun. A view is its contract and a few lines; it knows no key
in Redis, catches nothing (`errors.py` renders what is raised) and reads a body through
`bodies.py` only.
"""

from __future__ import annotations

from dataclasses import dataclass

import redis
from flask import current_app

from evoflask.configuration import Configuration
from evoflask.doorkeeper import Doorkeeper
from evoflask.keyring import Keyring
from evoflask.manager import EventManager
from evoflask.outbox import Outbox
from evoflask.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """What `create_app` put together."""

    settings: Settings
    redis: redis.Redis
    outbox: Outbox
    configuration: Configuration
    manager: EventManager
    keys: Keyring
    door: Doorkeeper


def parts() -> Parts:
    """The parts of the application that handles this request."""
    found: Parts = current_app.extensions["evoflask"]
    return found
