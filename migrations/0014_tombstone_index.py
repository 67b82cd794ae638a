"""Tombstones, found without a look at the tenants that live: the clock asks each second."""

import peewee


def up(migrator, db):
    class Instance(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

        deleted_at = peewee.DoubleField(null=True)

    dead = Instance.deleted_at.is_null(False)
    db.execute(Instance.index(Instance.deleted_at, where=dead, name="instance_tombstone"))


def down(migrator, db):
    db.execute_sql("DROP INDEX instance_tombstone")
