"""The journal and what is projected from it, which the engine alone writes; and alerts."""

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
    """An order as it stands after the last batch; rejected ones are remembered too.

    Price, quantity and stop price are as amended, all else as it was asked for. What only some
    orders have defaults in the database, so that the plain limit order is written without it.
    """

    class Type(models.TextChoices):
        LIMIT = "LIMIT"
        MARKET = "MARKET"
        STOP = "STOP"
        STOP_LIMIT = "STOP_LIMIT"
        STRIP = "STRIP"

    class Status(models.TextChoices):
        UNTRIGGERED = "UNTRIGGERED"
        OPEN = "OPEN"
        PARTIALLY_FILLED = "PARTIALLY_FILLED"
        FILLED = "FILLED"
        CANCELED = "CANCELED"
        EXPIRED = "EXPIRED"
        REJECTED = "REJECTED"

    id = models.BigIntegerField(primary_key=True)
    organization_id = models.BigIntegerField()
    symbol = models.CharField(max_length=40)
    """Of a strip the name of its hours: `LLAMA70B.R.20261205T14Z+24`."""
    side = models.SmallIntegerField()
    type = models.CharField(max_length=10, choices=Type, db_default=Type.LIMIT)
    price_ticks = models.BigIntegerField(null=True)
    """Null for orders without a limit; of a strip the limit on its average price."""
    stop_price_ticks = models.BigIntegerField(null=True)
    lots = models.BigIntegerField()
    """Of a strip, like what is filled of it, lots in each of its hours."""
    filled_lots = models.BigIntegerField(default=0)
    hidden_lots = models.BigIntegerField(db_default=0)
    """What is left of an iceberg and not on show."""
    display_lots = models.BigIntegerField(null=True)
    min_lots = models.BigIntegerField(null=True)
    min_share = models.SmallIntegerField(null=True)
    """Percent of its lots that a strip trades at least."""
    grade = models.CharField(max_length=16, db_default="", blank=True)
    """The grade that a strip asked for first; its symbol has the one that it traded."""
    alternatives = models.CharField(max_length=255, db_default="", blank=True)
    """Grades that a strip tries after its own, with commas between."""
    notional_ticks = models.BigIntegerField(default=0)
    """Sum of lots times price over the fills."""
    fee_micros = models.BigIntegerField(default=0)
    time_in_force = models.CharField(max_length=3)
    expires_at = models.DateTimeField(null=True)
    post_only = models.BooleanField(db_default=False)
    reduce_only = models.BooleanField(db_default=False)
    prevention = models.CharField(max_length=13, db_default="CANCEL_NEWEST")
    """What happens where it meets an order of its own group."""
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
            models.CheckConstraint(
                condition=Q(type__in=["MARKET", "STOP"], price_ticks__isnull=True)
                | Q(type__in=["LIMIT", "STOP_LIMIT", "STRIP"], price_ticks__isnull=False),
                name="order_has_the_limit_of_its_type",
            ),
            models.CheckConstraint(
                condition=Q(type__in=["STOP", "STOP_LIMIT"], stop_price_ticks__isnull=False)
                | Q(type__in=["LIMIT", "MARKET", "STRIP"], stop_price_ticks__isnull=True),
                name="order_has_the_stop_of_its_type",
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
    is_auction = models.BooleanField(default=False)
    """Whether both were matched by an uncross; `taker` is then the later of the two."""
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


class Auction(models.Model):
    """The call of an instrument that runs, or the last one, and the last that made a price.

    Nothing of it changes with an order: what an auction would trade now is counted from the orders
    by whoever asks.
    """

    symbol = models.CharField(max_length=40, primary_key=True)
    kind = models.CharField(max_length=10)
    frozen_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    last_price_ticks = models.BigIntegerField(null=True)
    last_lots = models.BigIntegerField(null=True)
    last_at = models.DateTimeField(null=True)


class BookDelta(models.Model):
    """What one batch did to a book: the very bytes that were published, for who missed them.

    Kept until a while after the instrument was settled (`exchange.deltas`).
    """

    pk = models.CompositePrimaryKey("symbol", "sequence")
    symbol = models.CharField(max_length=40)
    sequence = models.BigIntegerField()
    """The book's sequence after the batch."""
    previous_sequence = models.BigIntegerField()
    body = models.BinaryField()
    at = models.DateTimeField()


class SurveillanceAlert(models.Model):
    """A pattern in trades and orders that somebody should look at, and what they made of it.

    Written once for each hour, kind and subject; what was found first is the evidence.
    """

    class Kind(models.TextChoices):
        SELF_DEALING = "SELF_DEALING"
        WASH = "WASH"
        LAYERING = "LAYERING"
        CONCENTRATION = "CONCENTRATION"

    class State(models.TextChoices):
        OPEN = "OPEN"
        DISMISSED = "DISMISSED"
        CONFIRMED = "CONFIRMED"

    kind = models.CharField(max_length=13, choices=Kind)
    slot = models.CharField(max_length=12)
    """The clock hour it was found in: `20261205T14Z`."""
    subject = models.CharField(max_length=120)
    """What makes it one of its kind and hour: the instrument, who, and which side."""
    symbol = models.CharField(max_length=40)
    window_starts_at = models.DateTimeField()
    window_ends_at = models.DateTimeField()
    organizations = models.JSONField()
    """Ids of the organizations involved, in order."""
    evidence = models.JSONField()
    state = models.CharField(max_length=9, choices=State, default=State.OPEN)
    created_at = models.DateTimeField()
    decided_at = models.DateTimeField(null=True)
    decided_by = models.CharField(max_length=254, blank=True)
    reason = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "slot", "subject"], name="alert_is_single"),
            models.CheckConstraint(
                condition=Q(state="OPEN", decided_at__isnull=True, decided_by="")
                | (
                    Q(state__in=["DISMISSED", "CONFIRMED"], decided_at__isnull=False)
                    & ~Q(decided_by="")
                ),
                name="alert_is_decided_by_somebody",
            ),
        ]
        indexes = [
            models.Index(fields=["state", "window_ends_at"], name="alert_by_state"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


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


class BookDeltaShown(models.Model):
    """The changes of books under one key, for the admin; a view."""

    id = models.CharField(max_length=80, primary_key=True)
    symbol = models.CharField(max_length=40)
    sequence = models.BigIntegerField()
    previous_sequence = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "exchange_bookdelta_shown"
        verbose_name = "book delta"
        verbose_name_plural = "book deltas"
