"""The newest open letters, found without a look at the others: what rq-dashboard shows."""

import peewee


def up(migrator, db):
    class DeadLetter(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

        sink = peewee.CharField(max_length=20)
        reason = peewee.CharField(max_length=40)
        requeued_at = peewee.DoubleField(null=True)
        discarded_at = peewee.DoubleField(null=True)

    shown = (
        DeadLetter.requeued_at.is_null()
        & DeadLetter.discarded_at.is_null()
        & (DeadLetter.reason != peewee.SQL("'expired'"))
    )
    index = DeadLetter.index(
        DeadLetter.id,
        DeadLetter.sink,
        DeadLetter.reason,
        DeadLetter.requeued_at,
        DeadLetter.discarded_at,
        where=shown,
        name="dead_letter_mirrored",
    )
    db.execute(index)


def down(migrator, db):
    db.execute_sql("DROP INDEX dead_letter_mirrored")
