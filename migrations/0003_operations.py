"""Long actions by hand."""

import peewee


def up(migrator, db):
    class Operation(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

        kind = peewee.CharField(max_length=20)
        scope_instance_id = peewee.IntegerField(null=True)
        wanted = peewee.TextField()
        onto = peewee.TextField(null=True)
        rate = peewee.DoubleField(null=True)
        by = peewee.CharField(max_length=120)
        state = peewee.CharField(max_length=10)
        total = peewee.IntegerField()
        done = peewee.IntegerField()
        failed = peewee.IntegerField()
        cursor = peewee.TextField(null=True)
        error = peewee.TextField(null=True)
        created_at = peewee.DoubleField()
        updated_at = peewee.DoubleField()
        ended_at = peewee.DoubleField(null=True)

    Operation.add_index(
        Operation.index(
            Operation.updated_at, where=Operation.state == "running", name="operation_running"
        )
    )
    Operation.add_index(
        Operation.index(Operation.scope_instance_id, Operation.id, name="operation_scope")
    )
    db.create_tables([Operation], safe=False)


def down(migrator, db):
    db.execute_sql("DROP TABLE operation")
