"""Gradients of one microbatch, compiled: the policy's objective, and the cross-entropy of a warm start.

The base model is an argument of every compiled function, never captured; with the adapter off it is the KL reference.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aflow_jax.grpo.logprobs import target_statistics
from aflow_jax.grpo.microbatches import Microbatch
from aflow_jax.grpo.objective import LossSums, policy_loss_sums, truncated_importance_weights
from aflow_jax.grpo.settings import GradientSettings
from aflow_jax.qwen2 import Adapter, Qwen2, ShardingRules
from aflow_jax.qwen2.sharding import hold_adapter


class Gradient(NamedTuple):
    """Gradient of the loss's numerator, and its denominator, over the microbatches so far."""

    numerator: dict[str, dict[str, Float[Array, "..."]]]
    normalizer: Float[Array, ""]


class SamplerGap(NamedTuple):
    """How far the learner's log-probabilities and probabilities are from the sampler's: absolute differences."""

    logprob_sum: Float[Array, ""]
    logprob_max: Float[Array, ""]
    probability_sum: Float[Array, ""]
    probability_max: Float[Array, ""]
    tokens: Float[Array, ""]


@partial(jax.jit, static_argnames="rules")
def empty_gradient(weights: dict[str, dict[str, Float[Array, "..."]]], rules: ShardingRules | None = None) -> Gradient:
    """The gradient of no microbatch."""
    return hold_adapter(rules, Gradient(jax.tree.map(jnp.zeros_like, weights), jnp.zeros(())))


@partial(jax.jit, static_argnames=("settings", "against_sampler"), donate_argnames="gradient")
def add_policy_gradient(
    model: Qwen2,
    adapter: Adapter,
    gradient: Gradient,
    part: Microbatch,
    temperature: Float[Array, ""],
    dropout_key: PRNGKeyArray | None,
    settings: GradientSettings,
    against_sampler: bool,
) -> tuple[Gradient, LossSums, SamplerGap]:
    """Add one microbatch's gradient; also return its sums and its gap to the sampler.

    The same `dropout_key` for all microbatches of a step: each row folds in its place in the batch.
    """
    reference = None
    if settings.kl_coef:
        reference, _ = _completion_statistics(model, None, part, temperature, settings)

    def loss(weights: dict) -> tuple[Array, tuple[LossSums, Array]]:
        logprobs, entropies = _completion_statistics(
            model, adapter.replace_weights(weights), part, temperature, settings, dropout_key
        )
        importance = None
        # cispo's own clip bounds the weights.
        if against_sampler and settings.importance_sampling != "none" and settings.loss_type != "cispo":
            importance = truncated_importance_weights(
                logprobs,
                part.logprobs,
                part.mask,
                cap=settings.importance_cap,
                level="geometric" if settings.loss_type == "gspo" else settings.importance_sampling,
                ratio_included=True,
            )
        sums = policy_loss_sums(
            logprobs,
            part.logprobs if against_sampler else None,
            reference,
            part.advantages,
            part.mask,
            loss_type=settings.loss_type,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            kl_coef=settings.kl_coef,
            kl_estimator=settings.kl_estimator,
            kl_bias_correction=settings.kl_bias_correction,
            dual_clip=settings.dual_clip,
            importance_weights=importance,
            entropies=entropies,
            entropy_coef=settings.entropy_coef,
            max_completion_length=settings.max_completion_length,
        )
        return sums.loss, (sums, logprobs)

    slopes, (sums, logprobs) = jax.grad(loss, has_aux=True)(adapter.weights)
    return _add(model.rules, gradient, slopes, sums), sums, _gap(logprobs, part)


@partial(jax.jit, static_argnames="settings", donate_argnames="gradient")
def add_supervised_gradient(
    model: Qwen2,
    adapter: Adapter,
    gradient: Gradient,
    part: Microbatch,
    dropout_key: PRNGKeyArray | None,
    settings: GradientSettings,
) -> tuple[Gradient, LossSums]:
    def loss(weights: dict) -> tuple[Array, LossSums]:
        logprobs, entropies = _completion_statistics(
            model, adapter.replace_weights(weights), part, 1.0, settings, dropout_key
        )
        total = -jnp.where(part.mask, logprobs, 0.0).sum()
        tokens = part.mask.sum().astype(jnp.float32)
        totals = {"tokens": tokens, "entropy": jnp.where(part.mask, entropies, 0.0).sum()}
        return total, LossSums(total, tokens, totals, {})

    slopes, sums = jax.grad(loss, has_aux=True)(adapter.weights)
    return _add(model.rules, gradient, slopes, sums), sums


@partial(jax.jit, static_argnames="settings")
def sampler_gap(model, adapter, part, temperature, settings) -> SamplerGap:
    logprobs, _ = _completion_statistics(model, adapter, part, temperature, settings)
    return _gap(logprobs, part)


def _completion_statistics(
    model: Qwen2,
    adapter: Adapter | None,
    part: Microbatch,
    temperature: Float[Array, ""] | float,
    settings: GradientSettings,
    dropout_key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "GS C"], Float[Array, "GS C"]]:
    """Log-probabilities and entropies of the completions only: prompts never meet the vocabulary."""
    keys = None if dropout_key is None else _keys(dropout_key, part.rows)
    hidden = model.hidden(part.tokens, None, adapter, packing=part.packing, dropout_keys=keys, remat=settings.remat)
    return target_statistics(
        model,
        part.packing.before(hidden),
        part.packing.completions(part.tokens),
        temperature,
        chunk=settings.logprob_chunk,
        entropy_gradient=settings.entropy_coef != 0,
    )


def _keys(key: PRNGKeyArray, rows: Int[Array, "G 1+S"]) -> PRNGKeyArray:
    """The key of each row of the batch, one for it as a completion and one for its prompt."""
    numbers = 2 * rows + (jnp.arange(rows.shape[1]) == 0)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers.reshape(-1)).reshape(numbers.shape)


def _add(rules: ShardingRules | None, gradient: Gradient, slopes: dict, sums: LossSums) -> Gradient:
    total = jax.tree.map(jnp.add, gradient.numerator, slopes)
    return hold_adapter(rules, Gradient(total, gradient.normalizer + sums.normalizer))


def _gap(logprobs: Float[Array, "GS C"], part: Microbatch) -> SamplerGap:
    logprobs, sampled = (jnp.where(part.mask, values, 0.0) for values in (logprobs, part.logprobs))
    gap, probability_gap = jnp.abs(logprobs - sampled), jnp.abs(jnp.exp(logprobs) - jnp.exp(sampled))
    return SamplerGap(gap.sum(), gap.max(), probability_gap.sum(), probability_gap.max(), part.mask.sum())
