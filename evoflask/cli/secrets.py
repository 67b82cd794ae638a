"""What is sealed in the database, and by which key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from flask.cli import AppGroup

from evoflask.cli.speech import spoken
from evoflask.plurals import counted

if TYPE_CHECKING:
    from evoflask.rotation import Sealing

secrets = AppGroup("secrets", help="What is sealed in the database, and by which key.")


@secrets.command("check")
@spoken
def check() -> None:
    """Count what is sealed, by key. Exit status 1 where something is not under the newest."""
    from evoflask import rotation

    sys.exit(_say(rotation.count()))


@secrets.command("rotate")
@spoken
def rotate() -> None:
    """Seal everything with the newest key, the first in ENCRYPTION_KEY. Everything may go on
    running; stopped half way, it is begun again."""
    from evoflask import rotation

    sys.exit(_say(rotation.rotate(lambda done: click.echo(f"{done} sealed anew ...", err=True))))


def _say(found: Sealing) -> int:
    click.echo(f"{found.current} under the newest key, {found.stale} under an older one.")
    if found.closed:
        closed = counted(found.closed, "secret opens", "secrets open")
        click.echo(f"{closed} with none of the keys in ENCRYPTION_KEY.")
    if found.plain:
        plain = counted(found.plain, "secret is", "secrets are")
        click.echo(f"{plain} not sealed: written by a version without keys.")
    return 1 if found.stale or found.closed or found.plain else 0
