"""The cluster model (stub: signatures first, physics follows)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Accelerator, model, precision, tensor parallelism and replicas of one cluster."""

    accelerator: str
    """H100, H200 or B200."""
    model: str
    """A key of `MODELS`, such as LLAMA70B."""
    precision: str
    """bf16, fp8, fp4 or int4."""
    tensor_parallel: int
    replicas: int
    chunk_tokens: int = 8_192
    sequences_max: int = 256

    def iteration_us(
        self, *, prefill_tokens: int, prefill_context: int, sequences: int, context_tokens: int
    ) -> int:
        """Return how long one iteration of one replica takes, in microseconds."""
        raise NotImplementedError

    @property
    def kv_tokens(self) -> int:
        """Return how many tokens of KV cache one replica holds."""
        raise NotImplementedError
