"""The ledger's rows: accounts, transfers, holds and the chains that bind them.

`ledger_post` writes them and nobody else, and no row but an account's totals and a chain's head
ever changes (migrations 0002 and 0004). The admin, which takes no composite key, reads them by
views with one key each: a table and its view have their columns from one abstract model. Part of
`settlement.models`, which has them all.
"""

from django.db import models
from django.db.models import F, Q


class Account(models.Model):
    """One unit of one owner. Written by `ledger_post` only."""

    id = models.BigIntegerField(primary_key=True)
    owner = models.BigIntegerField()
    """An organization's id; 0 is the exchange."""
    kind = models.SmallIntegerField()
    unit = models.CharField(max_length=40)
    debits = models.BigIntegerField(default=0)
    credits = models.BigIntegerField(default=0)
    held = models.BigIntegerField(default=0)
    """Reserved by open holds: what is available is credits less debits less this."""
    may_go_negative = models.BooleanField(default=False)
    opened_in = models.BigIntegerField()
    """First sequence of the batch that opened it: the batch's link hashes its identity."""
    closed_in = models.BigIntegerField(null=True)
    """Sequence of the chain's head when it was closed; nothing is posted to it afterwards."""
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["owner", "kind", "unit"], name="account_is_single"),
            models.CheckConstraint(
                condition=Q(debits__gte=0, credits__gte=0, held__gte=0),
                name="account_totals_are_positive",
            ),
            models.CheckConstraint(
                condition=Q(may_go_negative=True) | Q(credits__gte=F("debits") + F("held")),
                name="account_is_not_overdrawn",
            ),
            models.CheckConstraint(
                condition=Q(closed_in__isnull=True) | Q(credits=F("debits"), held=0),
                name="account_closed_is_empty",
            ),
        ]


class Chained(models.Model):
    """A row of a chain."""

    chain = models.CharField(max_length=16)
    """`cash` (written by the engine) or `capacity` (by the metering worker)."""
    sequence = models.BigIntegerField()

    class Meta:
        abstract = True


class HoldColumns(Chained):
    """What a transfer or hold is about: from where, where to, how much."""

    debit_account = models.BigIntegerField()
    credit_account = models.BigIntegerField()
    amount = models.BigIntegerField()
    expires_at = models.DateTimeField(null=True)
    """Of a hold: from when on it can only expire."""

    class Meta:
        abstract = True


class TransferColumns(HoldColumns):
    """What a transfer says, its own id left out."""

    code = models.SmallIntegerField()
    cause = models.CharField(max_length=80)
    at = models.DateTimeField()
    phase = models.SmallIntegerField()
    """A `ledger.Phase`: a transfer at once, a hold, or what became of a hold."""
    hold = models.CharField(max_length=80, null=True)
    """Id of the hold that this row resolves."""

    class Meta:
        abstract = True


class HoldResolutionColumns(Chained):
    """How a hold ended."""

    hold = models.CharField(max_length=80)
    phase = models.SmallIntegerField()
    """A `ledger.Phase`: posted, voided or expired."""
    amount = models.BigIntegerField()
    """What was posted; nothing when it was voided or expired."""

    class Meta:
        abstract = True


class LinkColumns(Chained):
    """A batch of a chain; `sequence` is that of its last transfer."""

    first_sequence = models.BigIntegerField()
    previous_hash = models.BinaryField(max_length=32)
    hash = models.BinaryField(max_length=32)
    at = models.DateTimeField()

    class Meta:
        abstract = True


class SealColumns(Chained):
    """A signed head of a chain."""

    hash = models.BinaryField(max_length=32)
    signature = models.BinaryField(max_length=64)
    at = models.DateTimeField()

    class Meta:
        abstract = True


class Transfer(TransferColumns):
    """An immutable double entry. Written by `ledger_post` only; partitioned by month of `at`."""

    pk = models.CompositePrimaryKey("chain", "sequence")
    id = models.CharField(max_length=80, null=True)
    """What its writer named it, unique in its chain for ever; every hold has one."""

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="transfer_is_positive"),
            models.CheckConstraint(
                condition=~Q(debit_account=F("credit_account")),
                name="transfer_has_two_accounts",
            ),
            models.CheckConstraint(
                condition=Q(phase=0, hold__isnull=True, expires_at__isnull=True)
                | Q(phase=1, id__isnull=False, hold__isnull=True)
                | Q(phase__in=[2, 3, 4], hold__isnull=False, expires_at__isnull=True),
                name="transfer_keeps_its_phase",
            ),
        ]
        indexes = [
            models.Index(fields=["debit_account", "chain", "sequence"], name="transfer_by_debit"),
            models.Index(fields=["credit_account", "chain", "sequence"], name="transfer_by_credit"),
            models.Index(fields=["cause"], name="transfer_by_cause"),
        ]


class TransferId(Chained):
    """Where the transfer of an id is; ids outlive partitions. Written by `ledger_post` only."""

    pk = models.CompositePrimaryKey("chain", "sequence")
    id = models.CharField(max_length=80)
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["chain", "id"], name="transfer_id_is_single"),
        ]


class Hold(HoldColumns):
    """An amount that a transfer reserved on its debit account. Written by `ledger_post` only."""

    pk = models.CompositePrimaryKey("chain", "sequence")
    id = models.CharField(max_length=80)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["chain", "id"], name="hold_is_single"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="hold_is_positive"),
        ]
        indexes = [models.Index(fields=["debit_account"], name="hold_by_account")]


class HoldResolution(HoldResolutionColumns):
    """How a hold ended: one row for ever, so each ends once. Written by `ledger_post` only."""

    pk = models.CompositePrimaryKey("chain", "sequence")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["chain", "hold"], name="hold_is_resolved_once"),
            models.CheckConstraint(
                condition=Q(phase=2, amount__gt=0) | Q(phase__in=[3, 4], amount=0),
                name="hold_resolution_keeps_its_phase",
            ),
        ]


class ChainHead(models.Model):
    """The end of a chain; a batch must find it where its writer left it."""

    chain = models.CharField(max_length=16, primary_key=True)
    sequence = models.BigIntegerField()
    hash = models.BinaryField(max_length=32)
    at = models.DateTimeField()


class ChainLink(LinkColumns):
    """One batch of a chain: the hash that binds it to all before; partitioned as transfers are."""

    pk = models.CompositePrimaryKey("chain", "sequence")


class SigningKey(models.Model):
    """A public key that signed, or signs, the heads of chains; it stays published."""

    id = models.CharField(max_length=32, primary_key=True)
    """First half of the SHA-256 of the key, in hexadecimal."""
    public_key = models.BinaryField(max_length=32)
    purpose = models.CharField(max_length=16)
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True)


class Seal(SealColumns):
    """A signed head: what the chain's hash was at a sequence. Append-only."""

    pk = models.CompositePrimaryKey("chain", "sequence")
    signing_key = models.ForeignKey(SigningKey, models.PROTECT)


class TransferShown(TransferColumns):
    """The transfers under one key, for the admin, which takes no composite one; a view."""

    id = models.CharField(max_length=80, primary_key=True)
    name = models.CharField(max_length=80, null=True)
    """The transfer's own id, where its writer named it."""

    class Meta:
        managed = False
        db_table = "settlement_transfer_shown"
        verbose_name = "transfer"
        verbose_name_plural = "transfers"


class ChainLinkShown(LinkColumns):
    """The chain links under one key, for the admin, which takes no composite one; a view."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        db_table = "settlement_chainlink_shown"
        verbose_name = "chain link"
        verbose_name_plural = "chain links"


class SealShown(SealColumns):
    """The seals under one key, for the admin, which takes no composite one; a view."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        db_table = "settlement_seal_shown"
        verbose_name = "seal"
        verbose_name_plural = "seals"


class TransferIdShown(Chained):
    """The ids of transfers under one key, for the admin; a view."""

    id = models.CharField(max_length=80, primary_key=True)
    name = models.CharField(max_length=80)
    at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "settlement_transferid_shown"
        verbose_name = "transfer id"
        verbose_name_plural = "transfer ids"


class HoldShown(HoldColumns):
    """The holds under one key, for the admin; a view."""

    id = models.CharField(max_length=80, primary_key=True)
    name = models.CharField(max_length=80)

    class Meta:
        managed = False
        db_table = "settlement_hold_shown"
        verbose_name = "hold"
        verbose_name_plural = "holds"


class HoldResolutionShown(HoldResolutionColumns):
    """The ends of holds under one key, for the admin; a view."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        db_table = "settlement_holdresolution_shown"
        verbose_name = "end of a hold"
        verbose_name_plural = "ends of holds"
