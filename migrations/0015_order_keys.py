"""Add `order_rule` beside the path that older releases read; lengthen `dead_letter.entry`.

A null `order_by` once meant that all events keep their order, one at a time. A null rule means no
order, so such rows get `concurrency` 1 and keep their behaviour.

The member of an event with an order key is longer than 40 characters from 1 MB on. SQLite stores
it; PostgreSQL refused the dead letter.
"""

import peewee
from playhouse.migrate import SqliteMigrator


def up(migrator, db):
    migrator.migrate(migrator.add_column("subscription", "order_rule", peewee.TextField(null=True)))
    db.execute_sql("UPDATE subscription SET concurrency = 1 WHERE order_by IS NULL")
    if not isinstance(migrator, SqliteMigrator):
        # A longer limit rewrites neither the table nor its indexes.
        db.execute_sql("ALTER TABLE dead_letter ALTER COLUMN entry TYPE varchar(60)")


def down(migrator, db):
    # The limit stays: rows may need it, and the release before works with it.
    migrator.migrate(migrator.drop_column("subscription", "order_rule"))
