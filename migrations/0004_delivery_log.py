"""Every attempt: the delivery log."""

import peewee


def up(migrator, db):
    class DeliveryLog(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

        instance_id = peewee.IntegerField()
        instance_name = peewee.CharField(max_length=100)
        subscription_name = peewee.CharField(max_length=100)
        sink = peewee.CharField(max_length=20)
        lane = peewee.CharField(max_length=16)
        entry = peewee.CharField(max_length=40)
        event_id = peewee.CharField(max_length=128)
        event = peewee.CharField(max_length=40)
        number = peewee.IntegerField()
        at = peewee.DoubleField()
        seconds = peewee.DoubleField()
        outcome = peewee.CharField(max_length=20)
        code = peewee.TextField()
        detail = peewee.TextField()
        host = peewee.TextField()
        answer = peewee.TextField()

    index = DeliveryLog.index
    DeliveryLog.add_index(index(DeliveryLog.event_id, name="delivery_log_event"))
    DeliveryLog.add_index(
        index(
            DeliveryLog.instance_id,
            DeliveryLog.subscription_name,
            DeliveryLog.id,
            name="delivery_log_lane",
        )
    )
    DeliveryLog.add_index(index(DeliveryLog.at, name="delivery_log_at"))
    db.create_tables([DeliveryLog], safe=False)


def down(migrator, db):
    db.execute_sql("DROP TABLE delivery_log")
    # Which batches it has.
    db.execute_sql("DELETE FROM meta WHERE substr(key, 1, 9) = 'attempts:'")
