"""Keys that webhooks are signed with, beside the secret."""

import peewee


def up(migrator, db):
    migrator.migrate(migrator.add_column("subscription", "signing", peewee.TextField(null=True)))


def down(migrator, db):
    migrator.migrate(migrator.drop_column("subscription", "signing"))
