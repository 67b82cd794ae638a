"""What may hold a secret of a subscription is sealed.

Not in one transaction: a piece at a time, so that nobody waits for long, and an upgrade that was
cut off goes on where it stopped. Only what still says what was read is written over, and whoever
changed a row meanwhile is found by the next look.
"""

import peewee

from evoflask import vault

atomic = False

PIECE = 500
"""Rows of one transaction."""

COLUMNS = ("secret", "settings")


def table(db):
    class Subscription(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

        id = peewee.AutoField()
        secret = peewee.TextField(null=True)
        settings = peewee.TextField()

    return Subscription


def change(db, name, is_left, to):
    """Every text of a column that `is_left` finds, until there is none."""
    rows = table(db)
    key, column = rows.id, getattr(rows, name)
    query = rows.select(key, column).where(column.is_null(False) & is_left(column)).order_by(key)
    while query.exists():
        last = 0
        while piece := list(query.where(key > last).limit(PIECE).tuples()):
            changed = [(row, text, to(text)) for row, text in piece]
            with db.atomic():
                for row, text, new in changed:
                    write = rows.update({column: new})
                    write.where((key == row) & (column == text)).execute()
            last = piece[-1][0]


def up(migrator, db):
    if isinstance(db, peewee.SqliteDatabase):
        db.execute_sql("PRAGMA secure_delete = ON")  # else the file keeps what stood there
    for name in COLUMNS:
        change(db, name, lambda text: ~text.startswith(vault.PREFIX), vault.current().seal)


def down(migrator, db):
    for name in COLUMNS:
        change(db, name, lambda text: text.startswith(vault.PREFIX), vault.current().open)
