"""What a gateway has to know to decide: grades, clusters, who is entitled to what, prices.

It is read whole, about once a second and after every jump of the clock, and never changed: a
decision sees one state of the market or the next, not a mixture. Nothing on the path of a request
asks the database.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from admission import cluster as physics
from admission import simulator
from admission.decisions import FIRST_TOKEN_US, ClusterTerms, ServiceClass
from admission.levels import Window
from marketplace import contract

Hours = Mapping[ServiceClass, tuple[Window, ...]]
"""When a holder has which rate, class by class."""
LIVE_KV_TOKENS = 1 << 40
"""A live upstream keeps its own books of memory; the scheduler does not limit it by KV tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A grade's terms, as far as requests are concerned."""

    code: str
    context_tokens_max: int
    output_tokens_max: int
    weights: contract.WeightSchedule
    usage_price_ticks: int
    """What P3 pays in this hour, per million NTU (RULEBOOK 6.10)."""
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that can be called; `seller` owns it."""

    id: int
    public_id: str
    grade: str
    seller: int
    endpoint: str
    is_modelled: bool
    is_certified: bool
    terms: ClusterTerms
    group: int = 0
    """The seller's beneficial-owner group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A standing offer of cover: what a cluster takes over from others' clusters, at what price.

    Its scheduler knows the offer as a holder of so many lots, under a number of its own.
    """

    id: int
    cluster: int
    price_ticks: int

    @property
    def holder(self) -> int:
        """The number of its flow: below zero, where no organization is."""
        return -self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One state of the market."""

    at: int
    grades: Mapping[str, Grade] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names of models, the grades' own codes among them, to grades."""
    clusters: Mapping[int, Cluster] = field(default_factory=dict)
    windows: Mapping[tuple[int, int], Hours] = field(default_factory=dict)
    """Hours by (cluster, holder), of each class that the holder has there."""
    failed: Mapping[tuple[str, int], tuple[Window, ...]] = field(default_factory=dict)
    """Hours by (grade, holder) of lots that no cluster is behind."""
    idle_slots: Mapping[str, Mapping[int, tuple[Window, ...]]] = field(default_factory=dict)
    """Hours by grade and holder of slots that go with no lot; they order its requests at P3."""

    covers: Mapping[str, tuple[Offer, ...]] = field(default_factory=dict)
    """Standing offers by grade, the cheapest first, then the oldest (RULEBOOK 6.6)."""
    groups: Mapping[int, int] = field(default_factory=dict)
    """Beneficial-owner groups of the organizations that share one."""

    def group(self, organization: int) -> int:
        """Return the group that an organization belongs to; by itself, it is one."""
        return self.groups.get(organization, organization)

    def grade(self, model: str) -> Grade | None:
        """Return the grade a model's name stands for."""
        code = self.aliases.get(model)
        return None if code is None else self.grades[code]


def cluster_terms(
    *,
    accelerator: str,
    model_shape: str,
    precision: str,
    tensor_parallel: int,
    replicas: int,
    certified_lots: int,
    is_modelled: bool,
    weights: contract.WeightSchedule,
    context_tokens_max: int = 0,
    first_token_us: tuple[int, int, int, int] = FIRST_TOKEN_US,
) -> ClusterTerms:
    """Return what a cluster can take, by the model of its hardware."""
    hardware = physics.Cluster(
        accelerator=accelerator,
        model=model_shape,
        precision=precision,
        tensor_parallel=tensor_parallel,
        replicas=replicas,
    )
    is_known = physics.problem(hardware) is None
    iteration_us = 0
    if is_known:
        iteration_us = simulator.longest_iteration_us(
            hardware,
            sequences=hardware.sequences_max,
            context_tokens_max=context_tokens_max or hardware.kv_tokens,
        )
    return ClusterTerms(
        replicas=replicas,
        chunk_tokens=hardware.chunk_tokens,
        sequences_max=hardware.sequences_max,
        kv_tokens=hardware.kv_tokens if is_known and is_modelled else LIVE_KV_TOKENS,
        certified_lots=certified_lots,
        weights=weights,
        iteration_us=iteration_us,
        reorders_prefills=is_modelled,
        context_tokens_max=context_tokens_max,
        first_token_us=first_token_us,
    )
