"""What operators' decisions come to, and how pools are seen by everybody."""

from datetime import datetime
from decimal import Decimal

from baseload.models.base import Model
from baseload.models.market import Pool


class InstrumentState(Model, frozen=True, kw_only=True):
    """Where an instrument is now."""

    instrument: str
    state: str


class GradeState(Model, frozen=True, kw_only=True):
    """Whether trading of a grade was stopped."""

    grade: str
    halted: bool


class MarketState(Model, frozen=True, kw_only=True):
    """Whether trading of everything was stopped."""

    halted: bool


class Killed(Model, frozen=True, kw_only=True):
    """Whether an organization is stopped."""

    id: str
    killed: bool


class IndexOverride(Model, frozen=True, kw_only=True):
    """A correction of the index: `pending` until a second operator has named the same price."""

    grade: str
    hour: str
    version: int
    price: Decimal
    reason: str
    state: str
    proposed_at: datetime
    confirmed_at: datetime | None = None


class Layer(Model, frozen=True, kw_only=True):
    """The limit of the exchange's layer: `pending` until a second operator agrees."""

    limit: Decimal
    reason: str
    state: str
    proposed_at: datetime
    confirmed_at: datetime | None = None


class JobsMoved(Model, frozen=True, kw_only=True):
    """A job, and those that were moved along because they wait for it."""

    jobs: tuple[str, ...]


class Fault(Model, frozen=True, kw_only=True):
    """The share of a modelled cluster's rate that it serves."""

    cluster: str
    available: float


class SigningKey(Model, frozen=True, kw_only=True):
    """An Ed25519 public key of the exchange, in base64, and when it signs."""

    id: str
    algorithm: str
    public_key: str
    purpose: str
    valid_from: datetime
    valid_until: datetime | None = None


class Receipt(Model, frozen=True, kw_only=True):
    """What a request came to, signed by the gateway; every number in it is a string."""

    version: str
    issuer: str
    public: dict[str, str]
    private: dict[str, str]
    salt: str
    signature: str


class LogHead(Model, frozen=True, kw_only=True):
    """A signed head of the log of receipts; the root is hexadecimal, the signature base64."""

    at: str
    size: int
    root: str
    signing_key: str
    signature: str


class ReceiptIssuer(Model, frozen=True, kw_only=True):
    """A gateway's key as the root has certified it; key and certificate are base64."""

    id: str
    gateway: str
    public_key: str
    certificate: str
    valid_from: str
    valid_until: str | None = None


class InclusionProof(Model, frozen=True, kw_only=True):
    """That a leaf is in the log of a head; keep it beside the receipt."""

    hash: str
    leaf: str
    index: int
    path: tuple[str, ...]
    head: LogHead
    issuer: ReceiptIssuer | None = None


class ConsistencyProof(Model, frozen=True, kw_only=True):
    """That the log of one head begins with that of another."""

    old: LogHead
    new: LogHead
    path: tuple[str, ...]


class LogLeaf(Model, frozen=True, kw_only=True):
    """A leaf of the log of receipts: the text whose hash it is."""

    index: int
    hash: str
    leaf: str


class PoolClass(Model, frozen=True, kw_only=True):
    """One class of a pool now."""

    queue_length: int
    running: int
    wait_ms_p50: int
    wait_ms_p95: int
    wait_ms_p99: int
    admitted: int
    queued: int
    shed: int
    spilled: int
    jain: float | None = None
    bound_ms: int | None = None
    is_bound_void: bool = False
    lag_ms: int | None = None


class PoolNow(Model, frozen=True, kw_only=True):
    """A pool as its gateway sees it now."""

    at: datetime
    is_reachable: bool
    utilization: float | None = None
    classes: dict[str, PoolClass] = {}


class PoolInterval(Model, frozen=True, kw_only=True):
    """One class of a pool in one five-minute interval."""

    starts_at: datetime
    service_class: str
    admitted: int
    queued: int
    shed: int
    spilled: int
    queue_ms_p50: int | None = None
    queue_ms_p95: int | None = None
    queue_ms_p99: int | None = None
    first_token_ms_p50: int | None = None
    first_token_ms_p99: int | None = None
    per_token_ms_p50: float | None = None
    guaranteed_ntu: Decimal
    delivered_ntu: Decimal
    jain: float | None = None
    utilization: float | None = None


class Transparency(Model, frozen=True, kw_only=True):
    """How a pool serves, and has served."""

    pool: Pool
    live: PoolNow | None = None
    history: tuple[PoolInterval, ...] = ()
