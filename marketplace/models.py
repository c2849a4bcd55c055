"""The catalog: who takes part, what is traded, which clusters deliver it.

Enumerations are stored upper case. Instants are timestamptz. The rules stand in named constraints;
their violation is mapped to a refusal by that name.
"""

import uuid
from typing import ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.db import models


class UserManager(BaseUserManager["User"]):
    """Makes users who log in with their e-mail address."""

    def create_user(self, email: str, password: str | None = None, **extra: object) -> "User":
        """Store a user; the address is kept in lower case, the password hashed."""
        user = self.model(email=self.normalize_email(email).lower(), **extra)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **extra: object) -> "User":
        """Store a user of the staff who may do everything in the admin."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **extra)


class User(AbstractBaseUser, PermissionsMixin):
    """A person who logs in; acts only as a member of an organization."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=120, blank=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField()

    objects = UserManager()
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []


class Deployment(models.Model):
    """Whether this database is a demo's or production's: one row, written once, never changed."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    kind = models.CharField(max_length=10)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(id=1), name="deployment_is_single"),
            models.CheckConstraint(
                condition=models.Q(kind__in=["demo", "production"]), name="deployment_is_known"
            ),
        ]

    def __str__(self) -> str:
        return "the whole market"


class Organization(models.Model):
    """A legal participant. Its id is the machine's account."""

    class Role(models.TextChoices):
        BUYER = "BUYER"
        PROVIDER = "PROVIDER"
        OPERATOR = "OPERATOR"

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=120)
    skeleton = models.CharField(max_length=240)
    """The name as the eye sees it (case and look-alikes folded); no two may be equal."""
    role = models.CharField(max_length=10, choices=Role)
    group = models.BigIntegerField(null=True)
    """Beneficial-owner group; its own id when it stands alone."""
    is_verified = models.BooleanField(default=False)
    is_killed = models.BooleanField(default=False)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["skeleton"], name="organization_name_is_unique"),
        ]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """A user's part in an organization."""

    class Role(models.TextChoices):
        OWNER = "OWNER"
        TRADER = "TRADER"
        VIEWER = "VIEWER"

    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    organization = models.ForeignKey(Organization, models.PROTECT, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "organization"], name="membership_is_single"),
        ]


class ApiKey(models.Model):
    """A bearer key: `bl_<live|demo>_<id>_<secret>`; only a keyed digest of the secret is stored."""

    id = models.CharField(max_length=24, primary_key=True)
    organization = models.ForeignKey(Organization, models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=80, blank=True)
    digest = models.BinaryField(max_length=32)
    scopes = ArrayField(models.CharField(max_length=10))
    default_class = models.CharField(max_length=2, default="P2")
    overflow = models.CharField(max_length=6, default="SPILL")
    public_key = models.BinaryField(max_length=32, null=True)
    addresses = ArrayField(models.CharField(max_length=43), default=list)
    version = models.BigIntegerField()
    """Rises with every change of any key: what a snapshot has seen."""
    created_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["version"], name="api_key_by_version")]


class Grade(models.Model):
    """What is delivered: a model, a region, a context limit and a frozen weight schedule."""

    code = models.CharField(max_length=16, primary_key=True)
    name = models.CharField(max_length=120)
    aliases = ArrayField(models.CharField(max_length=120), default=list)
    """Names of models that the gateway takes for this grade."""
    region = models.CharField(max_length=24)
    precision = models.CharField(max_length=8)
    model_shape = models.CharField(max_length=40)
    """Key of the shape in `admission.cluster`."""
    context_tokens_max = models.IntegerField()
    output_tokens_max = models.IntegerField()
    schedule_version = models.IntegerField(default=1)
    weight_cached = models.IntegerField(default=100)
    weight_output = models.IntegerField(default=4000)
    reference_price_ticks = models.BigIntegerField()
    list_price = models.CharField(max_length=200, blank=True)
    """Where the reference price comes from, for the reader."""
    mix_prompt_tokens = models.IntegerField(default=1024)
    mix_output_tokens = models.IntegerField(default=256)
    first_token_ms = ArrayField(models.IntegerField(), default=list)
    """Targets of P0 to P3 (RULEBOOK 7.5)."""
    per_token_ms = ArrayField(models.IntegerField(), default=list)
    maker_fee_bp = models.IntegerField(default=2)
    taker_fee_bp = models.IntegerField(default=20)
    resale_fee_bp = models.IntegerField(default=50)
    """Of a slice of a package that is sold on; at most 1 % (RULEBOOK 4.7)."""
    is_listed = models.BooleanField(default=False)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.code


class Instrument(models.Model):
    """A tradable contract, as the machine has listed it; written by the engine only."""

    class State(models.TextChoices):
        SCHEDULED = "SCHEDULED"
        CALL = "CALL"
        CONTINUOUS = "CONTINUOUS"
        HALTED = "HALTED"
        CLOSED = "CLOSED"
        SETTLED = "SETTLED"

    id = models.BigIntegerField(primary_key=True)
    symbol = models.CharField(max_length=40, unique=True)
    grade = models.ForeignKey(Grade, models.PROTECT)
    product = models.CharField(max_length=6)
    service_class = models.CharField(max_length=2, blank=True)
    strike_ticks = models.BigIntegerField(null=True)
    pay_ticks = models.BigIntegerField(null=True)
    """What shortage cover pays for a missed token (RULEBOOK 6.9)."""
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    trading_ends_at = models.DateTimeField()
    state = models.CharField(max_length=10, choices=State)
    reference_price_ticks = models.BigIntegerField()
    band_low_ticks = models.BigIntegerField()
    band_high_ticks = models.BigIntegerField()
    last_price_ticks = models.BigIntegerField(null=True)
    mark_price_ticks = models.BigIntegerField(null=True)
    volume_lots = models.BigIntegerField(default=0)
    open_interest_lots = models.BigIntegerField(default=0)
    book_sequence = models.BigIntegerField(default=0)
    trades_sequence = models.BigIntegerField(default=0)
    """How many messages its topics have had; its book has a sequence of changes."""
    ticker_sequence = models.BigIntegerField(default=0)
    auction_sequence = models.BigIntegerField(default=0)
    settled_at = models.DateTimeField(null=True)
    listed_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["grade", "starts_at"], name="instrument_by_grade_start"),
            models.Index(fields=["state", "starts_at"], name="instrument_by_state_start"),
        ]

    def __str__(self) -> str:
        return self.symbol


class Cluster(models.Model):
    """Accelerators that serve one grade, with an OpenAI-compatible endpoint in front."""

    class State(models.TextChoices):
        REGISTERED = "REGISTERED"
        CERTIFIED = "CERTIFIED"
        DOWN = "DOWN"
        DEREGISTERED = "DEREGISTERED"

    id = models.BigAutoField(primary_key=True)
    public_id = models.UUIDField(default=uuid.uuid4, unique=True)
    organization = models.ForeignKey(Organization, models.PROTECT, related_name="clusters")
    grade = models.ForeignKey(Grade, models.PROTECT)
    name = models.CharField(max_length=80)
    is_modelled = models.BooleanField(default=True)
    accelerator = models.CharField(max_length=16)
    tensor_parallel = models.IntegerField(default=1)
    replicas = models.IntegerField(default=1)
    endpoint = models.CharField(max_length=500)
    """Base URL up to and with `/v1`; allowed by `UPSTREAM_ALLOW`."""
    state = models.CharField(max_length=12, choices=State)
    certified_lots = models.BigIntegerField(default=0)
    certified_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(replicas__gte=1, tensor_parallel__gte=1),
                name="cluster_has_accelerators",
            ),
        ]


class Listing(models.Model):
    """A provider's verified offer of capacity for an instrument: a resting sell order."""

    class State(models.TextChoices):
        OPEN = "OPEN"
        WITHDRAWN = "WITHDRAWN"
        CLOSED = "CLOSED"

    id = models.BigAutoField(primary_key=True)
    organization = models.ForeignKey(Organization, models.PROTECT)
    cluster = models.ForeignKey(Cluster, models.PROTECT)
    symbol = models.CharField(max_length=40)
    price_ticks = models.BigIntegerField()
    lots = models.BigIntegerField()
    order = models.BigIntegerField(null=True)
    state = models.CharField(max_length=10, choices=State)
    created_at = models.DateTimeField()


class ResaleInstruction(models.Model):
    """A standing wish to sell again what a holder will not use, never below a floor price."""

    class Forecast(models.TextChoices):
        LAST_WEEK_SAME_HOUR = "LAST_WEEK_SAME_HOUR"
        NONE = "NONE"

    class State(models.TextChoices):
        ACTIVE = "ACTIVE"
        STOPPED = "STOPPED"

    id = models.BigAutoField(primary_key=True)
    organization = models.ForeignKey(Organization, models.PROTECT)
    grade = models.ForeignKey(Grade, models.PROTECT)
    floor_price_ticks = models.BigIntegerField()
    forecast = models.CharField(max_length=20, choices=Forecast)
    kept_lots = models.BigIntegerField(default=0)
    """Lots of every hour that are never offered, whatever the forecast says."""
    state = models.CharField(max_length=7, choices=State)
    created_at = models.DateTimeField()
    stopped_at = models.DateTimeField(null=True)
    looked_at = models.DateTimeField(null=True)
    offered_lots = models.BigIntegerField(default=0)
    """What was on offer after the last look, over all hours."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "grade"],
                condition=models.Q(state="ACTIVE"),
                name="resale_instruction_is_single",
            ),
            models.CheckConstraint(
                condition=models.Q(floor_price_ticks__gt=0, kept_lots__gte=0),
                name="resale_instruction_has_a_floor",
            ),
        ]


class PurchaseCommitment(models.Model):
    """What an organization will buy with others at a deadline; ended by the engine alone."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        COMMITTED = "COMMITTED"
        WITHDRAWN = "WITHDRAWN"
        FILLED = "FILLED"
        UNFILLED = "UNFILLED"
        REFUSED = "REFUSED"

    id = models.BigAutoField(primary_key=True)
    organization = models.ForeignKey(Organization, models.PROTECT)
    symbol = models.CharField(max_length=40)
    deadline = models.DateTimeField()
    lots = models.BigIntegerField()
    price_ticks = models.BigIntegerField()
    state = models.CharField(max_length=9, choices=State)
    filled_lots = models.BigIntegerField(default=0)
    average_price_ticks = models.BigIntegerField(null=True)
    """What each member paid, rounded up to the tick."""
    evened_micros = models.BigIntegerField(default=0)
    """Paid beyond, or below zero returned of, what its own order paid."""
    order = models.BigIntegerField(null=True)
    reason = models.CharField(max_length=40, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(
                    lots__gt=0,
                    price_ticks__gt=0,
                    filled_lots__gte=0,
                    filled_lots__lte=models.F("lots"),
                ),
                name="commitment_is_not_overfilled",
            ),
        ]
        indexes = [
            models.Index(
                fields=["deadline", "symbol"],
                name="commitment_open",
                condition=models.Q(state="COMMITTED"),
            ),
        ]

    @property
    def instruction(self) -> str:
        """Id of the instruction that commits it."""
        return f"purchase:{self.pk}"


class PackageListing(models.Model):
    """A provider's offer of hourly lots over a span of days, bought by terms inside it.

    What is free of it on a day is what was offered less what was bought of that day.
    """

    class State(models.TextChoices):
        OPEN = "OPEN"
        WITHDRAWN = "WITHDRAWN"

    id = models.BigAutoField(primary_key=True)
    organization = models.ForeignKey(Organization, models.PROTECT)
    grade = models.ForeignKey(Grade, models.PROTECT)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    lots = models.JSONField()
    """Of one unit: one number, 24 by the hour of the day or 168 by that of the week, UTC."""
    p1_lots = models.JSONField(default=list)
    """Of these, those that are served as P1; empty stands for none."""
    list_price_ticks = models.BigIntegerField()
    discounts = models.JSONField(default=list)
    """[at least so many days, percent], both rising."""
    units = models.BigIntegerField()
    state = models.CharField(max_length=9, choices=State)
    reason = models.CharField(max_length=40, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(
                    list_price_ticks__gt=0, units__gt=0, ends_at__gt=models.F("starts_at")
                ),
                name="package_listing_offers_something",
            ),
        ]
        indexes = [
            models.Index(
                fields=["grade", "ends_at"],
                name="package_listing_open",
                condition=models.Q(state="OPEN"),
            ),
        ]


class PackagePurchase(models.Model):
    """What was asked for of a package listing, and whether the machine has sold it."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        BOUGHT = "BOUGHT"
        REFUSED = "REFUSED"

    id = models.BigAutoField(primary_key=True)
    listing = models.ForeignKey(PackageListing, models.PROTECT)
    organization = models.ForeignKey(Organization, models.PROTECT)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    units = models.BigIntegerField()
    percent = models.IntegerField()
    price_ticks = models.BigIntegerField()
    total_micros = models.BigIntegerField()
    state = models.CharField(max_length=7, choices=State)
    reason = models.CharField(max_length=40, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(units__gt=0, price_ticks__gt=0),
                name="package_purchase_buys_something",
            ),
        ]

    @property
    def instruction(self) -> str:
        """Id of the instruction that buys it."""
        return f"package:{self.pk}"


class PackageSlice(models.Model):
    """A slice of a package that its holder offers, to everybody or to one organization."""

    class State(models.TextChoices):
        OFFERED = "OFFERED"
        PENDING = "PENDING"
        SOLD = "SOLD"
        WITHDRAWN = "WITHDRAWN"

    id = models.BigAutoField(primary_key=True)
    organization = models.ForeignKey(Organization, models.PROTECT, related_name="slices_offered")
    package = models.BigIntegerField()
    grade = models.ForeignKey(Grade, models.PROTECT)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    lots = models.JSONField()
    p1_lots = models.JSONField(default=list)
    price_ticks = models.BigIntegerField()
    fee_bp = models.IntegerField()
    buyer = models.ForeignKey(
        Organization, models.PROTECT, null=True, related_name="slices_for_it_alone"
    )
    """Who alone may buy it; null: anybody."""
    taken_by = models.ForeignKey(
        Organization, models.PROTECT, null=True, related_name="slices_taken"
    )
    takings = models.IntegerField(default=0)
    """How often somebody has tried to buy it; each try is an instruction of its own."""
    state = models.CharField(max_length=9, choices=State)
    reason = models.CharField(max_length=40, blank=True)
    """Why the last try was refused."""
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(price_ticks__gt=0, fee_bp__gte=0, fee_bp__lte=100),
                name="package_slice_fee_is_at_most_one_percent",
            ),
        ]
        indexes = [models.Index(fields=["package"], name="package_slice_by_package")]

    @property
    def instruction(self) -> str:
        """Id of the instruction of the last try."""
        return f"slice:{self.pk}:{self.takings}"


class Deposit(models.Model):
    """Money that an organization says it has sent; posted when it is confirmed."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        POSTED = "POSTED"
        REFUSED = "REFUSED"

    id = models.BigAutoField(primary_key=True)
    organization = models.ForeignKey(Organization, models.PROTECT)
    amount_micros = models.BigIntegerField()
    state = models.CharField(max_length=8, choices=State)
    instruction = models.CharField(max_length=320)
    """Id of the instruction that credits it."""
    created_at = models.DateTimeField()
    confirmed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(amount_micros__gt=0), name="deposit_is_positive"
            ),
        ]

    def __str__(self) -> str:
        return f"deposit {self.pk} of {self.organization}"


class Withdrawal(models.Model):
    """Money that an organization wants paid out; in production it is held until staff have seen it.

    Pending until the machine has taken it, then posted (a demo), refused, or held; what is held is
    posted when it was paid, or voided.
    """

    class State(models.TextChoices):
        PENDING = "PENDING"
        HELD = "HELD"
        POSTED = "POSTED"
        VOIDED = "VOIDED"
        REFUSED = "REFUSED"

    id = models.BigAutoField(primary_key=True)
    organization = models.ForeignKey(Organization, models.PROTECT)
    amount_micros = models.BigIntegerField()
    state = models.CharField(max_length=8, choices=State)
    created_at = models.DateTimeField()
    decided_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(amount_micros__gt=0), name="withdrawal_is_positive"
            ),
        ]

    @property
    def instruction(self) -> str:
        """Id of the instruction that pays it out or holds it, and of the hold."""
        return f"withdrawal:{self.pk}"

    def __str__(self) -> str:
        return f"withdrawal {self.pk} of {self.organization}"


class IdempotencyRecord(models.Model):
    """The first answer to a request that moves money or capacity, kept for ever."""

    organization = models.ForeignKey(Organization, models.PROTECT)
    key = models.CharField(max_length=255)
    fingerprint = models.BinaryField(max_length=32)
    reference = models.CharField(max_length=320, blank=True)
    """What the request made, written with it: the answer can be formed again from it."""
    status = models.IntegerField(null=True)
    body = models.BinaryField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "key"], name="idempotency_key_is_single"
            ),
        ]


class AuditEntry(models.Model):
    """What a member of staff or an operator did, to what, and why; append-only."""

    actor = models.CharField(max_length=254)
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=120)
    reason = models.TextField(blank=True)
    details = models.JSONField(default=dict)
    at = models.DateTimeField()
