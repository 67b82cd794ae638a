"""An instance's token, sealed, where it may be shown again."""

import peewee


def up(migrator, db):
    migrator.migrate(migrator.add_column("instance", "token", peewee.TextField(null=True)))


def down(migrator, db):
    migrator.migrate(migrator.drop_column("instance", "token"))
