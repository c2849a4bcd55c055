"""Views with one key each over tables that have two, for the admin to read.

The admin takes no model with a composite key. A view runs with its reader's own rights, so nobody
writes through it what the table would refuse.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("exchange", "0002_law")]

    operations = [
        migrations.RunSQL(
            """
            CREATE VIEW exchange_journalbatch_shown WITH (security_invoker = true) AS
            SELECT "group" || ':' || sequence AS id, "group", "sequence", "first_sequence", "epoch", "at", "format", "rules", "previous_hash", "hash"
            FROM exchange_journalbatch
            """,
            "DROP VIEW exchange_journalbatch_shown",
        ),
        migrations.RunSQL(
            """
            CREATE VIEW exchange_bookdelta_shown WITH (security_invoker = true) AS
            SELECT "symbol" || ':' || sequence AS id, "symbol", "sequence", "previous_sequence", "at"
            FROM exchange_bookdelta
            """,
            "DROP VIEW exchange_bookdelta_shown",
        ),
        migrations.CreateModel(
            name="BookDeltaShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("symbol", models.CharField(max_length=40)),
                ("sequence", models.BigIntegerField()),
                ("previous_sequence", models.BigIntegerField()),
                ("at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "book delta",
                "verbose_name_plural": "book deltas",
                "db_table": "exchange_bookdelta_shown",
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="JournalBatchShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("group", models.CharField(max_length=32)),
                ("sequence", models.BigIntegerField()),
                ("first_sequence", models.BigIntegerField()),
                ("epoch", models.BigIntegerField()),
                ("at", models.DateTimeField()),
                ("format", models.SmallIntegerField()),
                ("rules", models.SmallIntegerField()),
                ("previous_hash", models.BinaryField()),
                ("hash", models.BinaryField()),
            ],
            options={
                "verbose_name": "journal batch",
                "verbose_name_plural": "journal batches",
                "db_table": "exchange_journalbatch_shown",
                "managed": False,
            },
        ),
    ]
