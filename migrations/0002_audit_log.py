"""Who did what: the audit log."""

import peewee


def up(migrator, db):
    class AuditLog(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

        at = peewee.DoubleField()
        by = peewee.CharField(max_length=120)
        action = peewee.CharField(max_length=40)
        instance_id = peewee.IntegerField(null=True)
        instance_name = peewee.CharField(max_length=100, null=True)
        subscription_name = peewee.CharField(max_length=100, null=True)
        facts = peewee.TextField()

    AuditLog.add_index(AuditLog.index(AuditLog.instance_id, AuditLog.id, name="audit_log_instance"))
    db.create_tables([AuditLog], safe=False)


def down(migrator, db):
    db.execute_sql("DROP TABLE audit_log")
