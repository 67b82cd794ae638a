"""Numbers of rows that come for ever, past two billion: a log of a thousand attempts a second
has as many within a month. SQLite's are wide enough as they are.

PostgreSQL writes these tables anew, and locks each while it does: minutes for millions of rows.
"""

from playhouse.migrate import SqliteMigrator

TABLES = ("dead_letter", "delivery_log", "audit_log", "operation")


def up(migrator, db):
    if not isinstance(migrator, SqliteMigrator):
        _retype(db, "bigint")


def down(migrator, db):
    if not isinstance(migrator, SqliteMigrator):
        _retype(db, "integer")


def _retype(db, kind):
    for table in TABLES:
        db.execute_sql(f"ALTER TABLE {table} ALTER COLUMN id TYPE {kind}")
        db.execute_sql(f"ALTER SEQUENCE {table}_id_seq AS {kind}")
