"""Indexes for a million letters."""

import peewee


def up(migrator, db):
    class DeadLetter(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

        instance_id = peewee.IntegerField()
        subscription_name = peewee.CharField(max_length=100)
        lane = peewee.CharField(max_length=16)
        sink = peewee.CharField(max_length=20)
        entry = peewee.CharField(max_length=40)
        event = peewee.CharField(max_length=40)
        size = peewee.IntegerField()
        reason = peewee.CharField(max_length=40)
        code = peewee.CharField(max_length=40)
        detail = peewee.TextField()
        created_at = peewee.DoubleField()
        requeued_at = peewee.DoubleField(null=True)
        requeued_run = peewee.CharField(max_length=60, null=True)
        discarded_at = peewee.DoubleField(null=True)

    letter = DeadLetter
    is_open = letter.requeued_at.is_null() & letter.discarded_at.is_null()
    state = (letter.requeued_at, letter.discarded_at)
    named = (letter.reason, letter.sink, letter.subscription_name, letter.event, letter.code)
    once = letter.requeued_at.is_null(False)
    marked = letter.requeued_run.is_null(False)
    gone = letter.discarded_at.is_null(False)
    of_one = (letter.instance_id, letter.lane, *named, letter.created_at, letter.size, *state)
    of_all = (*named, letter.created_at, letter.instance_id, letter.lane, letter.size)
    db.execute_sql("DROP INDEX dead_letter_open")
    for name, columns, where in (
        ("open", of_one, is_open),
        ("reason", (*of_all, letter.detail, *state), is_open),
        ("order", (letter.lane, letter.entry), is_open),
        ("age", (letter.created_at, *state), is_open),
        ("marked", (letter.requeued_run, letter.requeued_at), marked),
        ("requeued", (letter.requeued_at, letter.requeued_run), once),
        ("discarded", (letter.discarded_at,), gone),
    ):
        db.execute(letter.index(*columns, where=where, name=f"dead_letter_{name}"))


def down(migrator, db):
    for name in ("open", "reason", "order", "age", "marked", "requeued", "discarded"):
        db.execute_sql(f"DROP INDEX dead_letter_{name}")
    db.execute_sql(
        "CREATE INDEX dead_letter_open ON dead_letter (instance_id, sink, reason, requeued_at,"
        " discarded_at) WHERE requeued_at IS NULL AND discarded_at IS NULL"
    )
