"""The first tables, and the epoch of a new database."""

import secrets

import peewee


def up(migrator, db):
    class Row(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Meta(Row):
        key = peewee.CharField(primary_key=True, max_length=40)
        value = peewee.TextField()

    class Instance(Row):
        name = peewee.CharField(max_length=100)
        outbox = peewee.CharField(max_length=16, unique=True)
        partition = peewee.IntegerField()
        token_sha256 = peewee.CharField(max_length=64, index=True)
        integration = peewee.CharField(max_length=40)
        number = peewee.CharField(max_length=100, null=True)
        revision = peewee.IntegerField()
        pushed = peewee.IntegerField()
        deleted_at = peewee.DoubleField(null=True)
        created_at = peewee.DoubleField()
        updated_at = peewee.DoubleField()

    Instance.add_index(
        Instance.index(
            Instance.name,
            unique=True,
            where=Instance.deleted_at.is_null(),
            name="instance_live_name",
        )
    )
    Instance.add_index(
        Instance.index(
            Instance.id, where=Instance.pushed != Instance.revision, name="instance_not_pushed"
        )
    )

    class Subscription(Row):
        instance = peewee.ForeignKeyField(Instance, on_delete="CASCADE")
        name = peewee.CharField(max_length=100)
        sink = peewee.CharField(max_length=20)
        lane = peewee.CharField(max_length=16, unique=True)
        enabled = peewee.BooleanField()
        stopped = peewee.BooleanField()
        events = peewee.TextField()
        format = peewee.CharField(max_length=20)
        concurrency = peewee.IntegerField()
        order_by = peewee.CharField(max_length=200, null=True)
        on_failure = peewee.CharField(max_length=10)
        retry = peewee.TextField(null=True)
        timeout = peewee.DoubleField()
        secret = peewee.TextField(null=True)
        settings = peewee.TextField()
        version = peewee.IntegerField()
        created_at = peewee.DoubleField()
        updated_at = peewee.DoubleField()

        class Meta:
            indexes = ((("instance", "name"), True),)

    class DeadLetter(Row):
        instance_id = peewee.IntegerField()
        instance_name = peewee.CharField(max_length=100)
        subscription_id = peewee.IntegerField()
        subscription_name = peewee.CharField(max_length=100)
        lane = peewee.CharField(max_length=16)
        sink = peewee.CharField(max_length=20)
        entry = peewee.CharField(max_length=40)
        event_id = peewee.CharField(max_length=128)
        event = peewee.CharField(max_length=40)
        order_keys = peewee.TextField(null=True)
        at = peewee.DoubleField()
        size = peewee.IntegerField()
        reason = peewee.CharField(max_length=40)
        code = peewee.CharField(max_length=40)
        detail = peewee.TextField()
        tries = peewee.IntegerField()
        meta = peewee.TextField()
        created_at = peewee.DoubleField()
        requeued_at = peewee.DoubleField(null=True)
        requeued_run = peewee.CharField(max_length=60, null=True)
        discarded_at = peewee.DoubleField(null=True)
        data = peewee.BlobField(null=True)

        class Meta:
            indexes = (
                (("lane", "entry"), True),
                (("instance_id", "id"), False),
            )

    DeadLetter.add_index(
        DeadLetter.index(
            DeadLetter.instance_id,
            DeadLetter.sink,
            DeadLetter.reason,
            DeadLetter.requeued_at,
            DeadLetter.discarded_at,
            where=DeadLetter.requeued_at.is_null() & DeadLetter.discarded_at.is_null(),
            name="dead_letter_open",
        )
    )

    db.create_tables([Meta, Instance, Subscription, DeadLetter], safe=False)
    Meta.create(key="epoch", value=secrets.token_hex(8))


def down(migrator, db):
    for table in ("dead_letter", "subscription", "instance", "meta"):
        db.execute_sql(f"DROP TABLE {table}")
