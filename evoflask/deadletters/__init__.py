"""Dead letters: written, listed, requeued, discarded. For the routes, the CLI and the clock.

A row is the truth, and jobs in a dashboard are pictures of it.

    reading     what there is: lists, counts, one with its body
    writing     `bury`: letters of what was given up
    walk        many of them in order, a bounded look at a time
    requeue     deliver again, one or many
    discard     give up for good, one or many
    retention   what goes by itself, and when
"""

from __future__ import annotations

from evoflask.deadletters.discard import discard, discard_many
from evoflask.deadletters.reading import (
    Filter,
    by_sink,
    count,
    find,
    get,
    head,
    newest_of,
    of_event,
    reasons,
    refuse_websocket,
)
from evoflask.deadletters.requeue import Requeued, requeue, requeue_many, target
from evoflask.deadletters.retention import confirm, expiring, forget, retire
from evoflask.deadletters.walk import plan
from evoflask.deadletters.writing import bury

__all__ = [
    "Filter",
    "Requeued",
    "bury",
    "by_sink",
    "confirm",
    "count",
    "discard",
    "discard_many",
    "expiring",
    "find",
    "forget",
    "get",
    "head",
    "newest_of",
    "of_event",
    "plan",
    "reasons",
    "refuse_websocket",
    "requeue",
    "requeue_many",
    "retire",
    "target",
]
