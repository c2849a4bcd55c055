"""Tables of the receipts: what was issued, and the keys that gateways have issued it with."""

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
