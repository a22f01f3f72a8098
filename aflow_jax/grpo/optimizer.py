"""AdamW over the adapter, with global-norm clipping and a schedule over optimizer steps."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """Linear warm-up, then a half cosine to 0 at `total_steps`; the argument counts optimizer steps from 0.

    Step s < warmup_steps has the rate `peak · (s + 1) / (warmup_steps + 1)`, not 0 at s = 0: a step's rollouts are
    too dear to learn nothing from. Later ones have `peak · (1 + cos(π · (s − warmup_steps) / (total_steps −
    warmup_steps))) / 2`, and 0 from total_steps on.
    """

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        rising = (step + 1) / (warmup_steps + 1)
        progress = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
        return peak * jnp.where(step < warmup_steps, rising, 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))

    return rate


def make_optimizer(
    schedule: Callable[[Int[Array, ""]], Float[Array, ""]], *, weight_decay: float, max_grad_norm: float
) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101; b1 0.9, b2 0.999, eps 1e-8, as torch) after clipping to a global norm, 0 for none."""
    clip = optax.clip_by_global_norm(max_grad_norm) if max_grad_norm > 0 else optax.identity()
    return optax.chain(clip, optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay))
