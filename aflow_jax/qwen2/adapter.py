"""LoRA adapters: a plain pytree of float32 matrices that is given to the model as an argument.

LoRA (Hu et al., 2021, arXiv:2106.09685, eq. 3): y = W x + (alpha / r) B A x, with B = 0 at the start, so that a new
adapter changes nothing. Rank-stabilised LoRA (Kalajdzievski, 2023, arXiv:2312.03732): alpha / sqrt(r) instead.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from aflow_jax.errors import UserError
from aflow_jax.qwen2.config import Qwen2Config
from aflow_jax.qwen2.dropout import Dropout
from aflow_jax.qwen2.precision import matmul_precision

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """Low-rank updates of some of the model's matrices.

    Attributes:
      weights: {target: {"a": float32[L, in, r], "b": float32[L, r, out]}}: what training changes.
      scale: What the product of both matrices is multiplied by: `lora_scale`.
      dropout: Share of the inputs dropped before `a`, only where a dropout key is given.
      rslora: Whether the scale is alpha / sqrt(r): how PEFT is told the scale.
    """

    weights: dict[str, dict[str, Array]]
    scale: float = dataclasses.field(metadata={"static": True})
    dropout: float = dataclasses.field(default=0.0, metadata={"static": True})
    rslora: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def rank(self) -> int:
        return next(iter(self.weights.values()))["a"].shape[-1]

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(target for target in TARGETS if target in self.weights)

    def replace_weights(self, weights: dict[str, dict[str, Array]]) -> "Adapter":
        """Return the same adapter with other matrices: how a gradient is taken with respect to them alone."""
        return dataclasses.replace(self, weights=weights)


def init_adapter(
    config: Qwen2Config,
    rank: int,
    alpha: float,
    targets: str | Sequence[str],
    key: PRNGKeyArray,
    dropout: float = 0.0,
    rslora: bool = False,
) -> Adapter:
    """Make a new adapter: `a` uniform in ±1/sqrt(in) as in PEFT, `b` zero.

    Args:
      config: Shape of the model that it is for.
      rank: Rank r of the updates.
      alpha: Numerator of the scale.
      targets: Names of the matrices, as a sequence or with commas between them.
      key: Seed of `a`.
      dropout: Share of inputs dropped in training.
      rslora: Scale by alpha / sqrt(r) rather than alpha / r.

    Raises:
      UserError: an unknown target, a rank below 1, a dropout outside [0, 1).
    """
    names = parse_targets(targets)
    if rank < 1:
        raise UserError(f"lora_rank must be at least 1, found {rank}")
    if not 0 <= dropout < 1:
        raise UserError(f"lora_dropout must be in [0, 1), found {dropout}")
    weights = _initial_weights(config, rank, names, key)
    return Adapter(weights=weights, scale=lora_scale(rank, alpha, rslora), dropout=dropout, rslora=rslora)


def lora_scale(rank: int, alpha: float, rslora: bool) -> float:
    """Return what the product of both matrices is multiplied by."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def parse_targets(targets: str | Sequence[str]) -> tuple[str, ...]:
    """Return the target names in the model's order; raise UserError for an unknown name or none at all."""
    names = [name.strip() for name in targets.split(",")] if isinstance(targets, str) else list(targets)
    for name in names:
        if name not in TARGETS:
            raise UserError(f"lora_target_modules: unknown module {name!r}, expected some of {', '.join(TARGETS)}")
    if not names:
        raise UserError(f"lora_target_modules is empty: name some of {', '.join(TARGETS)}")
    return tuple(name for name in TARGETS if name in names)


def target_sizes(config: Qwen2Config) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of every matrix that an adapter can be on."""
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def parameter_count(tree: Any) -> int:
    """Return the number of numbers in a pytree of arrays or of their shapes (`jax.eval_shape`)."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.partial(jax.jit, static_argnames=("config", "rank", "names"))
def _initial_weights(
    config: Qwen2Config, rank: int, names: tuple[str, ...], key: PRNGKeyArray
) -> dict[str, dict[str, Array]]:
    sizes = target_sizes(config)
    shapes = {name: (config.num_hidden_layers, sizes[name][0], rank) for name in names}
    # One draw for all: each random draw of another shape costs XLA a second of compilation.
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = jnp.split(jax.random.uniform(key, (int(ends[-1]),), jnp.float32, -1, 1), ends[:-1])
    return {
        name: {
            "a": part.reshape(shape) * sizes[name][0] ** -0.5,
            "b": jnp.zeros((config.num_hidden_layers, rank, sizes[name][1]), jnp.float32),
        }
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def low_rank_delta(
    inputs: Float[Array, "... I"],
    matrices: dict[str, Array] | None,
    scale: float,
    share: float,
    dropout: Dropout | None,
) -> Float[Array, "... O"] | None:
    """Return scale · dropout(inputs) · a · b in float32 for one layer, or None where the target has no adapter.

    Of the inputs `share` is dropped, as `dropout` draws; None drops nothing.
    """
    if matrices is None:
        return None
    precision = matmul_precision(inputs.dtype)
    inputs = inputs.astype(jnp.float32)
    if dropout is not None and share > 0:
        inputs = jnp.where(dropout.kept(1 - share, inputs.shape), inputs / (1 - share), 0)
    narrow = jnp.matmul(inputs, matrices["a"], precision=precision)
    return jnp.matmul(narrow, matrices["b"], precision=precision) * scale
