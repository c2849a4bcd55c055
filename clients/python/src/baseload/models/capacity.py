"""Clusters, certifications and offers of a provider."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from baseload.models.base import Model


class Cluster(Model, frozen=True, kw_only=True):
    """A cluster that serves one grade; `pool` is the name that is public."""

    id: str
    name: str
    grade: str
    pool: str
    accelerator: str
    tensor_parallel: int
    replicas: int
    is_modelled: bool
    endpoint: str
    state: str
    certified_lots: int
    certified_until: datetime | None = None
    created_at: datetime


class Certification(Model, frozen=True, kw_only=True):
    """A search for the rate that a cluster may sell; `progress` is in percent."""

    id: str
    cluster: str
    state: str
    progress: int
    lots: int | None = None
    report: dict[str, Any] = {}
    created_at: datetime
    finished_at: datetime | None = None


class Offer(Model, frozen=True, kw_only=True):
    """A listing: lots of a cluster that are offered, and the order that offers them."""

    id: str
    cluster: str
    instrument: str
    price: Decimal
    quantity: int
    filled_quantity: int
    state: str
    order_id: str | None = None
    created_at: datetime
