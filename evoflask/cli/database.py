"""The database's schema and identity."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from evoflask.cli.speech import spoken
from evoflask.plurals import counted

db = AppGroup("db", help="The database's schema and identity.")


@db.command("upgrade")
def upgrade() -> None:
    """Run the migrations that this database does not have yet."""
    from evoflask.db import upgrade

    for name in upgrade():
        click.echo(name)


@db.command("downgrade")
@click.argument("migration")
@spoken
def downgrade(migration: str) -> None:
    """Take migrations back, the newest first, as far as MIGRATION, which goes too: with all
    that only they have a place for."""
    from evoflask.db import downgrade

    for name in downgrade(migration):
        click.echo(name)


@db.command("adopt")
@spoken
def adopt() -> None:
    """Give a restored database a new epoch, and bring Redis in line with it."""
    from evoflask import configuration
    from evoflask.web import parts

    click.echo(f"The database's epoch is {configuration.adopt()} now.")
    pushed = configuration.push_all(parts().outbox)
    click.echo(f"{counted(pushed, 'instance was', 'instances were')} pushed to Redis.")
