"""The update: microbatches accumulate sums and counts of the objective's gradient, then AdamW moves the adapter."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aflow_jax.grpo.batch import Batch, Microbatch, split_into_microbatches
from aflow_jax.grpo.gradients import (
    Gradient,
    add_policy_gradient,
    add_supervised_gradient,
    empty_gradient,
    sampler_gap,
)
from aflow_jax.grpo.objective import LossSums, combine_sums, loss_metrics
from aflow_jax.grpo.settings import LearnerSettings
from aflow_jax.qwen2 import Adapter, Qwen2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnerState:
    """All that an update changes, a pytree of arrays; `step` counts the optimizer steps made."""

    adapter_weights: dict[str, dict[str, Float[Array, "..."]]]
    optimizer_state: optax.OptState
    step: Int[Array, ""]


class Learner:
    """Moves an adapter by GRPO (`update`) or by supervised learning (`supervised_update`).

    A warm start is a learner of its own, with its own settings, whose `adapter` the next learner starts from. `state`
    may be read to save it and assigned to resume. An update donates the buffers of the state it starts from: take
    `adapter` anew after each one. The adapter given at construction is copied and stays valid.
    """

    def __init__(self, model: Qwen2, adapter: Adapter, settings: LearnerSettings) -> None:
        self.model = model
        self.settings = settings
        self._adapter = adapter
        weights = jax.tree.map(lambda weight: jnp.array(weight, jnp.float32, copy=True), adapter.weights)
        self.state = LearnerState(weights, settings.optimizer().init(weights), jnp.zeros((), jnp.int32))

    @property
    def adapter(self) -> Adapter:
        """The adapter as it is now; valid until the next update."""
        return self._adapter.replace_weights(self.state.adapter_weights)

    def update(self, batch: Batch, temperature: float, *, off_policy: bool = False) -> dict[str, float]:
        """Make `ppo_epochs` optimizer steps on a batch that was sampled at `temperature`; return metrics.

        The first step on a batch sampled by the current policy has a ratio of exactly 1. Later ones, and all of a
        batch that was sampled ahead (`off_policy`), take the sampler's log-probabilities as old ones and truncate
        the ratio's weight.

        Metrics are means over the batch and its epochs: those of `loss_metrics`, and
        `sampling/sampling_logp_difference/mean|max`, the absolute gap between the sampler's log-probabilities and
        the learner's (first epoch; with dropout measured on one microbatch, dropout off), `grad_norm` before
        clipping, `learning_rate`, `update/tokens` in the loss, `update/padding_ratio` of the positions computed, and
        `update/skipped`, the share of epochs whose gradient was not finite or had no live token: such a step leaves
        the whole state bit-unchanged. A batch without a live token has `update/skipped` 1 and no means.
        """
        parts = split_into_microbatches(
            batch, self.settings.microbatch_size, mask_truncated=self.settings.mask_truncated
        )
        if not parts:
            return self._skipped()
        settings = self.settings.gradient_settings()
        sums, steps, gaps = [], [], []
        if self._adapter.dropout:
            gaps.append(sampler_gap(self.model, self.adapter, parts[0], temperature, settings))
        for epoch in range(self.settings.ppo_epochs):
            gradient = empty_gradient(self.state.adapter_weights)
            for index, part in enumerate(parts):
                gradient, part_sums, gap = add_policy_gradient(
                    self.model,
                    self.adapter,
                    gradient,
                    part,
                    temperature,
                    self._dropout_key(index),
                    settings=settings,
                    against_sampler=off_policy or epoch > 0,
                )
                sums.append(part_sums)
                if epoch == 0 and not self._adapter.dropout:
                    gaps.append(gap)
            self.state, step = _apply(self.state, gradient, self.settings)
            steps.append(step)
        return _metrics(parts, sums, steps) | _gap_metrics(jax.device_get(gaps))

    def supervised_update(
        self, tokens: Int[Array, "B T"], lengths: Int[Array, "B"], loss_mask: Bool[Array, "B T"]
    ) -> dict[str, float]:
        """Make one optimizer step on the mean cross-entropy of the tokens in `loss_mask`, at temperature 1.

        Metrics: `loss` and `entropy` in nats a token, the others as those of `update`.
        """
        rows = np.asarray(tokens).shape[0]
        batch = Batch(
            tokens=tokens,
            lengths=lengths,
            loss_mask=loss_mask,
            logprobs=np.zeros(np.asarray(tokens).shape, np.float32),
            advantages=np.zeros(rows, np.float32),
        )
        parts = split_into_microbatches(batch, self.settings.microbatch_size)
        if not parts:
            return self._skipped()
        sums, gradient = [], empty_gradient(self.state.adapter_weights)
        settings = self.settings.gradient_settings()
        for index, part in enumerate(parts):
            gradient, part_sums = add_supervised_gradient(
                self.model, self.adapter, gradient, part, self._dropout_key(index), settings=settings
            )
            sums.append(part_sums)
        self.state, step = _apply(self.state, gradient, self.settings)
        return _metrics(parts, sums, [step])

    def _dropout_key(self, microbatch: int) -> PRNGKeyArray | None:
        """A key that the seed, the optimizer step and the microbatch determine; None without dropout."""
        if not self._adapter.dropout:
            return None
        return _fold(self.settings.seed, self.state.step, microbatch)

    def _skipped(self) -> dict[str, float]:
        rate = float(self.settings.schedule(self.state.step))
        return {"update/skipped": 1.0, "update/tokens": 0.0, "grad_norm": 0.0, "learning_rate": rate}


@jax.jit
def _fold(seed: int, step: Int[Array, ""], microbatch: int) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), microbatch)


@partial(jax.jit, static_argnames="settings", donate_argnames="state")
def _apply(
    state: LearnerState, gradient: Gradient, settings: LearnerSettings
) -> tuple[LearnerState, dict[str, Float[Array, ""]]]:
    """One optimizer step; nothing of the state changes where the gradient is not finite."""
    mean = jax.tree.map(lambda numerator: numerator / gradient.normalizer, gradient.numerator)
    norm = optax.tree.norm(mean)
    updates, optimizer_state = settings.optimizer().update(mean, state.optimizer_state, state.adapter_weights)
    weights = optax.apply_updates(state.adapter_weights, updates)
    moved = LearnerState(weights, optimizer_state, state.step + 1)
    usable = jnp.isfinite(norm)
    metrics = {"grad_norm": norm, "learning_rate": settings.schedule(state.step), "update/skipped": 1.0 - usable}
    return jax.tree.map(lambda new, old: jnp.where(usable, new, old), moved, state), metrics


def _gap_metrics(gaps: list[tuple[Array, Array, Array]]) -> dict[str, float]:
    total, largest, count = zip(*gaps, strict=True)
    name = "sampling/sampling_logp_difference"
    return {f"{name}/mean": float(sum(total) / sum(count)), f"{name}/max": float(max(largest))}


def _metrics(parts: list[Microbatch], sums: list[LossSums], steps: list[dict[str, Array]]) -> dict[str, float]:
    sums, steps = jax.device_get((sums, steps))
    metrics = {name: float(value) for name, value in loss_metrics(combine_sums(sums)).items()}
    metrics |= {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    positions = sum(part.tokens.size for part in parts)
    # Rows that only fill a microbatch have length 1 and no token in the loss.
    used = sum(int(part.lengths[part.mask.any(axis=1)].sum()) for part in parts)
    metrics["update/tokens"] = float(sum(part.mask.sum() for part in parts))
    metrics["update/padding_ratio"] = 1.0 - used / positions
    return metrics
