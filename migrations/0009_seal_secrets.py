"""What may hold a secret of a subscription is sealed."""

import peewee

from evoflask import vault

PIECE = 500


def table(db):
    class Subscription(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

        id = peewee.AutoField()
        secret = peewee.TextField(null=True)
        settings = peewee.TextField()

    return Subscription


def change(db, to):
    """Every row, in pieces. What is changed already stays as it is."""
    rows, last = table(db), 0
    while piece := list(rows.select().where(rows.id > last).order_by(rows.id).limit(PIECE)):
        for row in piece:
            secret = row.secret and to(row.secret)
            rows.update(secret=secret, settings=to(row.settings)).where(rows.id == row.id).execute()
        last = piece[-1].id


def up(migrator, db):
    keys = vault.current()
    if isinstance(db, peewee.SqliteDatabase):
        db.execute_sql("PRAGMA secure_delete = ON")  # else the file keeps what stood there
    change(db, lambda text: text if text.startswith(vault.PREFIX) else keys.seal(text))


def down(migrator, db):
    keys = vault.current()
    change(db, lambda text: keys.open(text) if text.startswith(vault.PREFIX) else text)
