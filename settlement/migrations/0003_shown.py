"""Views with one key each over tables that have two, for the admin to read.

The admin takes no model with a composite key. A view runs with its reader's own rights, so nobody
writes through it what the table would refuse.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("settlement", "0002_law")]

    operations = [
        migrations.RunSQL(
            """
            CREATE VIEW settlement_transfer_shown WITH (security_invoker = true) AS
            SELECT chain || ':' || sequence AS id, "chain", "sequence", "debit_account", "credit_account", "amount", "code", "cause", "at",
                "phase", transfer.id AS name, "hold", "expires_at"
            FROM settlement_transfer transfer
            """,
            "DROP VIEW settlement_transfer_shown",
        ),
        migrations.CreateModel(
            name="TransferShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=16)),
                ("sequence", models.BigIntegerField()),
                ("debit_account", models.BigIntegerField()),
                ("credit_account", models.BigIntegerField()),
                ("amount", models.BigIntegerField()),
                ("code", models.SmallIntegerField()),
                ("cause", models.CharField(max_length=80)),
                ("at", models.DateTimeField()),
                ("phase", models.SmallIntegerField()),
                ("name", models.CharField(max_length=80, null=True)),
                ("hold", models.CharField(max_length=80, null=True)),
                ("expires_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "transfer",
                "verbose_name_plural": "transfers",
                "db_table": "settlement_transfer_shown",
                "managed": False,
            },
        ),
        migrations.RunSQL(
            """
            CREATE VIEW settlement_chainlink_shown WITH (security_invoker = true) AS
            SELECT chain || ':' || sequence AS id, "chain", "sequence", "first_sequence", "previous_hash", "hash", "at"
            FROM settlement_chainlink
            """,
            "DROP VIEW settlement_chainlink_shown",
        ),
        migrations.CreateModel(
            name="ChainLinkShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=16)),
                ("sequence", models.BigIntegerField()),
                ("first_sequence", models.BigIntegerField()),
                ("previous_hash", models.BinaryField()),
                ("hash", models.BinaryField()),
                ("at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "chain link",
                "verbose_name_plural": "chain links",
                "db_table": "settlement_chainlink_shown",
                "managed": False,
            },
        ),
        migrations.RunSQL(
            """
            CREATE VIEW settlement_seal_shown WITH (security_invoker = true) AS
            SELECT chain || ':' || sequence AS id, "chain", "sequence", "hash", "signature", "at"
            FROM settlement_seal
            """,
            "DROP VIEW settlement_seal_shown",
        ),
        migrations.CreateModel(
            name="SealShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=16)),
                ("sequence", models.BigIntegerField()),
                ("hash", models.BinaryField()),
                ("signature", models.BinaryField()),
                ("at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "seal",
                "verbose_name_plural": "seals",
                "db_table": "settlement_seal_shown",
                "managed": False,
            },
        ),
        migrations.RunSQL(
            """
            CREATE VIEW settlement_transferid_shown WITH (security_invoker = true) AS
            SELECT chain || ':' || sequence AS id, "chain", "sequence", transferid.id AS name, "at"
            FROM settlement_transferid transferid
            """,
            "DROP VIEW settlement_transferid_shown",
        ),
        migrations.CreateModel(
            name="TransferIdShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=16)),
                ("sequence", models.BigIntegerField()),
                ("name", models.CharField(max_length=80)),
                ("at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "transfer id",
                "verbose_name_plural": "transfer ids",
                "db_table": "settlement_transferid_shown",
                "managed": False,
            },
        ),
        migrations.RunSQL(
            """
            CREATE VIEW settlement_hold_shown WITH (security_invoker = true) AS
            SELECT chain || ':' || sequence AS id, "chain", "sequence", hold.id AS name, "debit_account", "credit_account", "amount", "expires_at"
            FROM settlement_hold hold
            """,
            "DROP VIEW settlement_hold_shown",
        ),
        migrations.CreateModel(
            name="HoldShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=16)),
                ("sequence", models.BigIntegerField()),
                ("name", models.CharField(max_length=80)),
                ("debit_account", models.BigIntegerField()),
                ("credit_account", models.BigIntegerField()),
                ("amount", models.BigIntegerField()),
                ("expires_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "hold",
                "verbose_name_plural": "holds",
                "db_table": "settlement_hold_shown",
                "managed": False,
            },
        ),
        migrations.RunSQL(
            """
            CREATE VIEW settlement_holdresolution_shown WITH (security_invoker = true) AS
            SELECT chain || ':' || sequence AS id, "chain", "sequence", "hold", "phase", "amount"
            FROM settlement_holdresolution ended
            """,
            "DROP VIEW settlement_holdresolution_shown",
        ),
        migrations.CreateModel(
            name="HoldResolutionShown",
            fields=[
                ("id", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("chain", models.CharField(max_length=16)),
                ("sequence", models.BigIntegerField()),
                ("hold", models.CharField(max_length=80)),
                ("phase", models.SmallIntegerField()),
                ("amount", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "end of a hold",
                "verbose_name_plural": "ends of holds",
                "db_table": "settlement_holdresolution_shown",
                "managed": False,
            },
        ),
    ]
