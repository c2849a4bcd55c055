"""The journal, and what is projected from it. The engine is the only writer of all of it."""

from django.db import models
from django.db.models import Q


class Head(models.Model):
    """The end of a clearing group's journal; a batch must find it as it left it."""

    group = models.CharField(max_length=32, primary_key=True)
    epoch = models.BigIntegerField()
    sequence = models.BigIntegerField()
    hash = models.BinaryField(max_length=32)
    at = models.DateTimeField()
    stream_entry = models.CharField(max_length=40, default="0-0")
    """The last entry of the epoch's command stream that the journal holds."""
    released_sequence = models.BigIntegerField(default=0)


class JournalBatch(models.Model):
    """One batch of commands in order, its events, and the hash that chains it."""

    pk = models.CompositePrimaryKey("group", "sequence")
    group = models.CharField(max_length=32)
    sequence = models.BigIntegerField()
    """Sequence of the last command in the batch."""
    first_sequence = models.BigIntegerField()
    epoch = models.BigIntegerField()
    at = models.DateTimeField()
    format = models.SmallIntegerField()
    rules = models.SmallIntegerField()
    commands = models.BinaryField()
    events = models.BinaryField()
    previous_hash = models.BinaryField(max_length=32)
    hash = models.BinaryField(max_length=32)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(first_sequence__lte=models.F("sequence")),
                name="journal_batch_is_not_empty",
            ),
        ]


class Snapshot(models.Model):
    """The full state at a sequence, from which a replay starts."""

    group = models.CharField(max_length=32)
    sequence = models.BigIntegerField()
    format = models.SmallIntegerField()
    rules = models.SmallIntegerField()
    journal_hash = models.BinaryField(max_length=32)
    state_digest = models.BinaryField(max_length=32)
    body = models.BinaryField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["group", "sequence"], name="snapshot_is_single"),
        ]


class Order(models.Model):
    """An order as it stands after the last batch; rejected ones are remembered too."""

    class Status(models.TextChoices):
        OPEN = "OPEN"
        PARTIALLY_FILLED = "PARTIALLY_FILLED"
        FILLED = "FILLED"
        CANCELED = "CANCELED"
        EXPIRED = "EXPIRED"
        REJECTED = "REJECTED"

    id = models.BigIntegerField(primary_key=True)
    organization_id = models.BigIntegerField()
    symbol = models.CharField(max_length=40)
    side = models.SmallIntegerField()
    price_ticks = models.BigIntegerField()
    lots = models.BigIntegerField()
    filled_lots = models.BigIntegerField(default=0)
    notional_ticks = models.BigIntegerField(default=0)
    """Sum of lots times price over the fills."""
    fee_micros = models.BigIntegerField(default=0)
    time_in_force = models.CharField(max_length=3)
    status = models.CharField(max_length=16, choices=Status)
    reason = models.CharField(max_length=40, blank=True)
    client_order_id = models.CharField(max_length=255)
    fingerprint = models.BinaryField(max_length=32)
    sequence = models.BigIntegerField()
    """Sequence of the command that last changed it."""
    placed_sequence = models.BigIntegerField()
    """Sequence of the command that entered it: where the journal holds its first answer."""
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "client_order_id"], name="client_order_id_is_single"
            ),
            models.CheckConstraint(
                condition=Q(filled_lots__gte=0, filled_lots__lte=models.F("lots")),
                name="order_is_not_overfilled",
            ),
        ]
        indexes = [
            models.Index(
                fields=["symbol", "side", "price_ticks"],
                name="order_resting",
                condition=Q(status__in=["OPEN", "PARTIALLY_FILLED"]),
            ),
            models.Index(fields=["organization_id", "id"], name="order_by_organization"),
        ]


class Trade(models.Model):
    """One match of two orders."""

    id = models.BigIntegerField(primary_key=True)
    symbol = models.CharField(max_length=40)
    price_ticks = models.BigIntegerField()
    lots = models.BigIntegerField()
    maker_order = models.BigIntegerField()
    taker_order = models.BigIntegerField()
    maker = models.BigIntegerField()
    taker = models.BigIntegerField()
    taker_side = models.SmallIntegerField()
    maker_fee_micros = models.BigIntegerField()
    taker_fee_micros = models.BigIntegerField()
    sequence = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["symbol", "at", "id"], name="trade_by_symbol"),
            models.Index(fields=["maker", "id"], name="trade_by_maker"),
            models.Index(fields=["taker", "id"], name="trade_by_taker"),
            models.Index(fields=["maker_order"], name="trade_by_maker_order"),
            models.Index(fields=["taker_order"], name="trade_by_taker_order"),
        ]


class JournalBatchShown(models.Model):
    """The journal batches under one key, for the admin, which takes no composite one; a view."""

    id = models.CharField(max_length=80, primary_key=True)
    group = models.CharField(max_length=32)
    sequence = models.BigIntegerField()
    first_sequence = models.BigIntegerField()
    epoch = models.BigIntegerField()
    at = models.DateTimeField()
    format = models.SmallIntegerField()
    rules = models.SmallIntegerField()
    previous_hash = models.BinaryField()
    hash = models.BinaryField()

    class Meta:
        managed = False
        db_table = "exchange_journalbatch_shown"
        verbose_name = "journal batch"
        verbose_name_plural = "journal batches"
