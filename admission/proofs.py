"""Tables of the receipts: what was issued, with which keys, and the log that all of it is in."""

from django.db import models


class GatewayKey(models.Model):
    """The public key of one gateway process, certified by the deployment's root; never removed."""

    id = models.CharField(max_length=32, primary_key=True)
    gateway = models.CharField(max_length=40)
    public_key = models.BinaryField(max_length=32)
    certificate = models.BinaryField(max_length=64)
    """The root's signature over key, gateway and `valid_from`."""
    valid_from = models.DateTimeField()


class Receipt(models.Model):
    """A signed receipt in full; the row has the id of the request that it is about."""

    id = models.UUIDField(primary_key=True)
    hash = models.BinaryField(max_length=32, unique=True)
    issuer = models.CharField(max_length=32)
    """The gateway's key."""
    organization_id = models.BigIntegerField()
    grade = models.CharField(max_length=16)
    cluster = models.BigIntegerField()
    class_requested = models.CharField(max_length=2)
    sequence = models.BigIntegerField()
    """From 1 within its flow (organization, grade, cluster, class), without gaps."""
    interval_starts_at = models.DateTimeField()
    public = models.TextField()
    private = models.TextField()
    """Both parts as canonical JSON."""
    salt = models.BinaryField(max_length=32)
    signature = models.BinaryField(max_length=64)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "grade", "cluster", "class_requested", "sequence"],
                name="receipt_is_next_of_its_flow",
            ),
        ]
        indexes = [models.Index(fields=["interval_starts_at"], name="receipt_by_interval")]


class ReceiptWaiting(models.Model):
    """A receipt that is not in the log yet; written with it, and removed when the log has it."""

    id = models.UUIDField(primary_key=True)
    organization_id = models.BigIntegerField()
    cluster = models.BigIntegerField()
    interval_starts_at = models.DateTimeField()


class LogLeaf(models.Model):
    """One leaf of the log: the public side of a receipt, or what became of a key."""

    id = models.BigIntegerField(primary_key=True)
    """Its place in the log, from 0 without gaps."""
    hash = models.BinaryField(max_length=32, unique=True)
    name = models.CharField(max_length=48, unique=True)
    """`receipt:`, `key:` or `end:` and the id; never published."""
    leaf = models.TextField()
    """Its content, whose hash it is."""
    cluster = models.BigIntegerField(default=0)
    interval_starts_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["cluster", "interval_starts_at", "id"], name="leaf_by_interval")
        ]


class LogNode(models.Model):
    """The hash of a complete subtree above the leaves; it never changes once it is there."""

    id = models.BigIntegerField(primary_key=True)
    """Its number in its level, times 64, plus the level (`transparency_log`)."""
    hash = models.BinaryField(max_length=32)


class LogHead(models.Model):
    """What the log was at an instant, signed with the root key."""

    at = models.DateTimeField(primary_key=True)
    size = models.BigIntegerField()
    root = models.BinaryField(max_length=32)
    signing_key = models.CharField(max_length=32)
    signature = models.BinaryField(max_length=64)

    class Meta:
        indexes = [models.Index(fields=["size"], name="head_by_size")]
