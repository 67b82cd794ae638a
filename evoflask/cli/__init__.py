"""`flask --app app ...`: each command calls one function.

Exit status: 0 as it should be, 1 something was found or failed, 2 it could not be looked at or
done. Commands import what they need when they run, so that the web process, which registers
them, does not load it.
"""

from __future__ import annotations

from flask import Flask

from evoflask.cli import books, database, events, lanes, letters, secrets


def register(app: Flask) -> None:
    """Gives the application its commands."""
    for command in (
        database.db,
        secrets.secrets,
        letters.deadletters,
        letters.operations,
        lanes.lane,
        lanes.lanes,
        books.audit,
        books.audit_log,
        books.doctor,
        events.attempts,
        events.emit,
        events.explain,
        events.receive,
        events.replay,
        events.test_subscription,
    ):
        app.cli.add_command(command)
