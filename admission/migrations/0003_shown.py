"""Views with one key each over tables that have two, for the admin to read.

The admin takes no model with a composite key. A view runs with its reader's own rights, so nobody
writes through it what the table would refuse.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("admission", "0002_law")]

    operations = [
        migrations.RunSQL(
            """
            CREATE VIEW admission_usageevent_shown WITH (security_invoker = true) AS
            SELECT request_id || ':' || sequence AS id, "request_id", "sequence", "prompt_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "mntu", "state", "is_estimated", "is_bounded", "at"
            FROM admission_usageevent
            """,
            "DROP VIEW admission_usageevent_shown",
        ),
        migrations.CreateModel(
            name="UsageEventShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("request_id", models.UUIDField()),
                ("sequence", models.IntegerField()),
                ("prompt_tokens", models.BigIntegerField()),
                ("cached_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("reasoning_tokens", models.BigIntegerField()),
                ("mntu", models.BigIntegerField()),
                ("state", models.CharField(max_length=9)),
                ("is_estimated", models.BooleanField()),
                ("is_bounded", models.BooleanField()),
                ("at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "usage event",
                "verbose_name_plural": "usage events",
                "db_table": "admission_usageevent_shown",
                "managed": False,
            },
        ),
    ]
