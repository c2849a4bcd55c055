"""How long one iteration of an inference server takes, and how much it can remember.

A server with continuous batching runs iterations: each reads the next chunk of some prompts and
adds one token to every sequence that is decoding. The model says what that takes on given hardware:

    iteration = compute / efficiency + memory / efficiency + layers * overhead
                + sequences * overhead + link / efficiency

`compute` is floating-point work over the peak of the precision, `memory` the bytes of weights and
KV cache over the bandwidth, `link` the bytes of the all-reduces under tensor parallelism over the
interconnect. It is the *sum* of compute and memory time and not the larger of the two: real kernels
overlap little, and the sum fits measured servers a little better. Five constants per serving stack,
accelerator and model are fitted to measured servers (`admission.calibration`); what is left
is arithmetic on public data sheets and model cards. `docs/cluster-model.md` has the errors.

This is physics and uses floats; its results are whole microseconds and the same on every machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from admission.calibration import Calibration, default_stack, find

BYTES_PER_PARAMETER = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625, "int4": 0.5625}
"""fp4 and int4 carry a scale of 8 bits per 16 weights, or its like."""
KV_BYTES = 2
"""Keys and values are kept in 16 bits, the servers' default."""
MEMORY_SHARE = 0.9
"""What a server takes of the memory (vLLM's `gpu_memory_utilization`)."""
REPLICAS_MAX = 64
CHUNK_TOKENS_MAX = 65_536
SEQUENCES_MAX = 4_096
MEMORY_RESERVED_BYTES = 1 << 30
"""Per accelerator, for activations and communication buffers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One accelerator; bytes, bytes per second and floating-point operations per second.

    Source: NVIDIA aiconfigurator, `{h100,h200,b200}_sxm.yaml` at 095f58a (Apache-2.0), which cites
    the data sheets. An accelerator without a format runs it at the next wider one's speed.
    """

    name: str
    memory_bytes: int
    memory_bytes_per_second: float
    link_bytes_per_second: float
    flops: Mapping[str, float]


ACCELERATORS = {
    each.name: each
    for each in (
        Accelerator(
            name="H100",
            memory_bytes=80 << 30,
            memory_bytes_per_second=3.35e12,
            link_bytes_per_second=450e9,
            flops={"bf16": 989e12, "fp8": 1978e12, "fp4": 1978e12, "int4": 989e12},
        ),
        Accelerator(
            name="H200",
            memory_bytes=141 << 30,
            memory_bytes_per_second=4.8e12,
            link_bytes_per_second=450e9,
            flops={"bf16": 989e12, "fp8": 1978e12, "fp4": 1978e12, "int4": 989e12},
        ),
        Accelerator(
            name="B200",
            memory_bytes=180 << 30,
            memory_bytes_per_second=7.7e12,
            link_bytes_per_second=900e9,
            flops={"bf16": 2250e12, "fp8": 4500e12, "fp4": 9000e12, "int4": 2250e12},
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder's sizes, from its public configuration file.

    `feed_forward` is the width of one expert; a dense model has one, always active.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    experts: int = 1
    experts_active: int = 1

    @property
    def attention_parameters(self) -> int:
        """Weights of the four attention projections of all layers."""
        return self.layers * 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert over all layers."""
        return self.layers * 3 * self.hidden * self.feed_forward

    @property
    def parameters(self) -> int:
        """All weights, embedding and output matrix included."""
        embedding = 2 * self.vocabulary * self.hidden
        return self.attention_parameters + self.experts * self.expert_parameters + embedding

    @property
    def active_parameters(self) -> int:
        """Weights of the layers that one token passes through."""
        return self.attention_parameters + self.experts_active * self.expert_parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * KV_BYTES

    @property
    def kind(self) -> str:
        """Whether calibrations of dense or of mixture-of-experts models apply."""
        return "dense" if self.experts == 1 else "moe"


MODELS = {
    each.name: each
    for each in (
        ModelShape(
            name="LLAMA8B",
            layers=32,
            hidden=4096,
            heads=32,
            kv_heads=8,
            head_dim=128,
            feed_forward=14336,
            vocabulary=128256,
        ),
        ModelShape(
            name="LLAMA70B",
            layers=80,
            hidden=8192,
            heads=64,
            kv_heads=8,
            head_dim=128,
            feed_forward=28672,
            vocabulary=128256,
        ),
        ModelShape(
            name="QWEN32B",
            layers=64,
            hidden=5120,
            heads=64,
            kv_heads=8,
            head_dim=128,
            feed_forward=25600,
            vocabulary=151936,
        ),
        ModelShape(
            name="QWEN235B",
            layers=94,
            hidden=4096,
            heads=64,
            kv_heads=4,
            head_dim=128,
            feed_forward=1536,
            vocabulary=151936,
            experts=128,
            experts_active=8,
        ),
        ModelShape(
            name="GPTOSS120B",
            layers=36,
            hidden=2880,
            heads=64,
            kv_heads=8,
            head_dim=64,
            feed_forward=2880,
            vocabulary=201088,
            experts=128,
            experts_active=4,
        ),
        ModelShape(
            name="MINIMAXM2",
            layers=62,
            hidden=3072,
            heads=48,
            kv_heads=8,
            head_dim=128,
            feed_forward=1536,
            vocabulary=200064,
            experts=256,
            experts_active=8,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Hardware, model and the server's limits: everything that decides how fast tokens come.

    `stack` is the serving software whose measurements calibrate it. `chunk_tokens` is the server's
    token budget per iteration (vLLM's `max_num_batched_tokens`), `sequences_max` its batch.
    A larger chunk reads prompts hardly faster and makes everybody's next token wait for it: 8,192
    tokens take an H100 with a 70B model longer than the targets of any class allow for one token.
    """

    accelerator: str
    """A key of `ACCELERATORS`: H100, H200 or B200."""
    model: str
    """A key of `MODELS`, such as LLAMA70B."""
    precision: str
    """A key of `BYTES_PER_PARAMETER`: bf16, fp8, fp4 or int4."""
    tensor_parallel: int
    replicas: int
    chunk_tokens: int = 2_048
    sequences_max: int = 256
    stack: str = ""
    """Whose measurements calibrate it; empty for the first that has some."""

    @cached_property
    def shape(self) -> ModelShape:
        """The model's sizes."""
        return MODELS[self.model]

    @cached_property
    def hardware(self) -> Accelerator:
        """One of the accelerators of a replica."""
        return ACCELERATORS[self.accelerator]

    @cached_property
    def calibration(self) -> Calibration:
        """The fitted constants of this stack, accelerator and model.

        :raises KeyError: when it was not measured; `problem` says so before.
        """
        stack = self.stack or default_stack(self.accelerator, self.shape.kind) or ""
        found = find(stack, self.accelerator, model=self.model, kind=self.shape.kind)
        if found is None:
            raise KeyError(stack, self.accelerator, self.model)
        return found

    @cached_property
    def kv_tokens(self) -> int:
        """Tokens of KV cache that one replica holds beside the weights; 0 when they do not fit."""
        shape, hardware = self.shape, self.hardware
        share = hardware.memory_bytes * MEMORY_SHARE - MEMORY_RESERVED_BYTES
        free = share * self.tensor_parallel - weight_bytes(shape, self.precision)
        return max(0, int(free // shape.kv_bytes_per_token))

    @cached_property
    def terms(self) -> "Terms":
        """What an iteration of one replica has to do."""
        return Terms(self)

    @cached_property
    def timing(self) -> "Timing":
        """How long an iteration of one replica takes."""
        return Timing(self.terms, self.calibration)


def problem(cluster: Cluster) -> str | None:
    """Return a stable code for why such a cluster cannot be modelled, or None when it can."""
    if cluster.accelerator not in ACCELERATORS:
        return "unknown_accelerator"
    if cluster.model not in MODELS:
        return "unknown_model"
    if cluster.precision not in BYTES_PER_PARAMETER:
        return "unknown_precision"
    if cluster.tensor_parallel not in (1, 2, 4, 8):
        return "unsupported_tensor_parallel"
    if not 1 <= cluster.replicas <= REPLICAS_MAX:
        return "replicas_out_of_range"
    if not 256 <= cluster.chunk_tokens <= CHUNK_TOKENS_MAX:
        return "chunk_tokens_out_of_range"
    if not 1 <= cluster.sequences_max <= min(SEQUENCES_MAX, cluster.chunk_tokens):
        return "sequences_max_out_of_range"
    stack = cluster.stack or default_stack(cluster.accelerator, cluster.shape.kind) or ""
    kind = cluster.shape.kind
    if find(stack, cluster.accelerator, model=cluster.model, kind=kind) is None:
        return "not_calibrated"
    if cluster.kv_tokens < cluster.chunk_tokens:
        return "model_does_not_fit"
    return None


def weight_bytes(shape: ModelShape, precision: str) -> float:
    """Return the size of a model's weights; embedding and output matrix stay in 16 bits."""
    embedding = 2 * shape.vocabulary * shape.hidden
    body = shape.parameters - embedding
    return body * BYTES_PER_PARAMETER[precision] + embedding * 2


class Terms:
    """What one iteration of one replica has to do, before any constant is fitted; in seconds."""

    def __init__(self, cluster: Cluster) -> None:
        shape, hardware = cluster.shape, cluster.hardware
        parallel, precision = cluster.tensor_parallel, cluster.precision
        peak = hardware.flops[precision] * parallel
        peak_attention = hardware.flops["bf16"] * parallel
        bandwidth = hardware.memory_bytes_per_second * parallel
        self.layers = shape.layers
        self.compute_per_token = 2 * shape.active_parameters / peak
        self.compute_per_output = 2 * shape.vocabulary * shape.hidden / peak
        self.compute_per_pair = 4 * shape.layers * shape.heads * shape.head_dim / peak_attention
        per_parameter = BYTES_PER_PARAMETER[precision]
        fixed = shape.attention_parameters * per_parameter + shape.vocabulary * shape.hidden * 2
        experts = shape.experts * shape.expert_parameters * per_parameter
        self.memory_fixed = fixed / bandwidth
        self.memory_experts = experts / bandwidth
        self.idle_share = 1 - shape.experts_active / shape.experts
        """How likely an expert is not chosen by a token."""
        self.memory_per_context = shape.kv_bytes_per_token / bandwidth
        reduced = 2 * shape.layers * shape.hidden * 2 / hardware.link_bytes_per_second
        self.link_per_token = reduced if parallel > 1 else 0.0

    def features(
        self,
        *,
        prefill_tokens: float,
        pairs: float,
        sequences: float,
        context_tokens: float,
        prefill_share: float,
    ) -> tuple[float, float, float, float, float]:
        """Return compute, memory, layers, sequences and link: what calibration weighs.

        Averaged over many iterations, of which `prefill_share` read a prompt: those touch every
        expert, the others as many as the decoding sequences choose.
        """
        touched = 1 - (1 - prefill_share) * self.idle_share**sequences
        tokens = prefill_tokens + sequences
        compute = (
            tokens * self.compute_per_token
            + sequences * self.compute_per_output
            + (pairs + context_tokens) * self.compute_per_pair
        )
        memory = (
            self.memory_fixed
            + self.memory_experts * touched
            + context_tokens * self.memory_per_context
        )
        link = tokens * self.link_per_token
        return compute, memory, self.layers * 1e-6, sequences * 1e-6, link


class Timing:
    """The iteration time of one replica: its terms weighed, with constant products worked out."""

    __slots__ = ("_base", "_context", "_experts", "_idle_share", "_pair", "_sequence", "_token")

    def __init__(self, terms: Terms, by: Calibration) -> None:
        self._base = 1e6 * by.memory * terms.memory_fixed + by.layer_us * terms.layers
        self._experts = 1e6 * by.memory * terms.memory_experts
        self._idle_share = terms.idle_share
        token = by.compute * terms.compute_per_token + by.link * terms.link_per_token
        self._token = 1e6 * token
        self._sequence = self._token + 1e6 * by.compute * terms.compute_per_output + by.sequence_us
        self._pair = 1e6 * by.compute * terms.compute_per_pair
        self._context = self._pair + 1e6 * by.memory * terms.memory_per_context

    def iteration_us(
        self, prefill_tokens: int, pairs: float, sequences: int, context_tokens: int
    ) -> int:
        """Return how long an iteration takes.

        It reads `prefill_tokens` of prompts, which look at `pairs` token pairs, and decodes
        `sequences`, which together have `context_tokens` behind them.
        """
        touched = 1 - self._idle_share ** (prefill_tokens + sequences)
        return round(
            self._base
            + self._experts * touched
            + self._token * prefill_tokens
            + self._pair * pairs
            + self._sequence * sequences
            + self._context * context_tokens
        )
