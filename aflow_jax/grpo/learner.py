"""The update: microbatches accumulate sums and counts of the objective's gradient, then AdamW moves the adapter."""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aflow_jax.errors import UserError
from aflow_jax.grpo.batch import Batch
from aflow_jax.grpo.gradients import (
    Gradient,
    SamplerGap,
    add_policy_gradient,
    add_supervised_gradient,
    empty_gradient,
    sampler_gap,
)
from aflow_jax.grpo.microbatches import Microbatch, split_into_microbatches
from aflow_jax.grpo.objective import LossSums, combine_sums, loss_metrics
from aflow_jax.grpo.settings import LearnerSettings
from aflow_jax.qwen2 import Adapter, Qwen2, ShardingRules, data_parts, place
from aflow_jax.qwen2.sharding import hold_adapter

logger = logging.getLogger(__name__)

# How the runtime's allocator says it, and how CUDA does where it allocates by itself (graphs, workspaces).
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "CUDA_ERROR_OUT_OF_MEMORY")


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
    `adapter` anew after each one. The adapter given at construction is copied and stays valid. `microbatch_size` is
    the settings' until the device's memory demands a smaller one.
    """

    def __init__(
        self,
        model: Qwen2,
        adapter: Adapter,
        settings: LearnerSettings,
        *,
        agree: Callable[[bool], bool] | None = None,
    ) -> None:
        """Make a learner.

        Args:
          model: The frozen base.
          adapter: Where training starts.
          settings: What an update does.
          agree: Of a learner that several processes run together: whether a flag is set in any of them.
        """
        self.model = model
        self._agree = agree
        self._fitting: set[tuple] = set()
        self.settings = settings
        self.microbatch_size = settings.microbatch_size
        self._longest = settings.longest_sequence
        self._adapter = adapter
        self.state = new_state(adapter.weights, settings, model.rules)

    @property
    def adapter(self) -> Adapter:
        """The adapter as it is now; valid until the next update."""
        return self._adapter.replace_weights(self.state.adapter_weights)

    def update(self, batch: Batch, temperature: float, *, off_policy: bool = False) -> dict[str, float]:
        """Make `ppo_epochs` optimizer steps on a batch that was sampled at `temperature`; return metrics.

        The first step on a batch sampled by the current policy has a ratio of exactly 1. Later ones, and all of a
        batch that was sampled ahead (`off_policy`), take the sampler's log-probabilities as old ones and truncate
        the ratio's weight.

        Metrics are means over the batch and its epochs: those of `loss_metrics`, `sampling/sampling_logp_difference`
        and `sampling/probability_difference`, each with `/mean` and `/max`, the absolute gap between the sampler and
        the learner (first epoch; with dropout measured on one microbatch, dropout off), `grad_norm` before clipping,
        `learning_rate`, `update/tokens` in the loss, `update/padding_ratio` of the positions computed,
        `update/microbatch_size` in sequences, and `update/skipped`, the share of epochs whose gradient was not finite
        or had no live token: such a step leaves the whole state bit-unchanged. A batch without a live token has
        `update/skipped` 1 and no means.

        Where the device has too little memory the microbatch is halved, then and for later calls; nothing else
        changes. Raises UserError where one sequence is too much; the state is then as it was after the last epoch.
        """
        sums, steps, gaps = [], [], []
        for epoch in range(self.settings.ppo_epochs):
            parts, accumulated = self._within_memory(
                batch,
                partial(
                    self._policy_gradient,
                    temperature=temperature,
                    against_sampler=off_policy or epoch > 0,
                    measure_gap=epoch == 0,
                ),
            )
            if not parts:
                return self._skipped()
            gradient, epoch_sums, epoch_gaps = accumulated
            self.state, step = apply_gradient(self.state, gradient, self.settings, self.model.rules)
            sums.extend(epoch_sums)
            gaps.extend(epoch_gaps)
            steps.append(step)
        return _metrics(parts, sums, steps) | _gap_metrics(gaps)

    def supervised_update(
        self, tokens: Int[Array, "B T"], lengths: Int[Array, "B"], loss_mask: Bool[Array, "B T"]
    ) -> dict[str, float]:
        """Make one optimizer step on the mean cross-entropy of the tokens in `loss_mask`, at temperature 1.

        Metrics: `loss` and `entropy` in nats a token, the others as those of `update`, and so are its errors.
        """
        rows = np.asarray(tokens).shape[0]
        batch = Batch(
            tokens=tokens,
            lengths=lengths,
            loss_mask=loss_mask,
            logprobs=np.zeros(np.asarray(tokens).shape, np.float32),
            advantages=np.zeros(rows, np.float32),
        )
        parts, accumulated = self._within_memory(batch, self._supervised_gradient, share_prompts=False)
        if not parts:
            return self._skipped()
        gradient, sums = accumulated
        self.state, step = apply_gradient(self.state, gradient, self.settings, self.model.rules)
        return _metrics(parts, sums, [step])

    def _within_memory(
        self, batch: Batch, accumulate: Callable[[list[Microbatch]], Any], *, share_prompts: bool = True
    ) -> tuple[list[Microbatch], Any]:
        """Run `accumulate` on the batch's microbatches, halved as often as the device's memory demands."""
        while True:
            parts = split_into_microbatches(
                batch,
                self.microbatch_size,
                longest=self._longest,
                mask_truncated=self.settings.mask_truncated,
                share_prompts=share_prompts,
                multiple=data_parts(self.model.rules),
            )
            failed, result = _unless_out_of_memory(lambda parts=parts: self._attempt(parts, accumulate))
            if not (failed if self._agree is None else self._agree(failed)):
                return parts, result
            # Here and not in the handler, where the traceback still holds the failed attempt's buffers.
            result = None
            self._halve(parts)

    def _attempt(self, parts: list[Microbatch], accumulate: Callable[[list[Microbatch]], Any]) -> Any:
        # Waits: no failure may come to light after `apply_gradient` was given the state's buffers.
        return jax.block_until_ready(accumulate(parts)) if parts else None

    def _halve(self, parts: list[Microbatch]) -> None:
        if self._longest > (longest := max(part.longest for part in parts)):
            # More sequences than `microbatch_size` of them, since they are short.
            taken = -(-max(part.tokens.size for part in parts) // self.microbatch_size)
            self._longest = max(longest, min(self._longest, taken) // 2)
            logger.warning(
                "out of device memory: the step is made with as many tokens at a time as %d sequences of %d have, and "
                "so are later ones; the gradient is the same",
                self.microbatch_size,
                self._longest,
            )
            return
        rows = max(part.whole_sequences for part in parts)
        if rows == data_parts(self.model.rules):
            raise UserError(
                "out of device memory with one sequence at a time: lower response_max_length or prompt_max_length, set "
                "gradient_checkpointing: true, lower lora_rank, or set quantization to nf4"
            )
        self.microbatch_size = rows // 2
        logger.warning(
            "out of device memory with %d sequences at a time: the step is made with %d, and so are later ones; the "
            "gradient is the same (a higher gradient_accumulation_steps starts there)",
            rows,
            self.microbatch_size,
        )

    def _policy_gradient(
        self, parts: list[Microbatch], *, temperature: float, against_sampler: bool, measure_gap: bool
    ) -> tuple[Gradient, list[LossSums], list[SamplerGap]]:
        gradient, sums, gaps = self._accumulated(
            parts, add_policy_gradient, temperature, against_sampler=against_sampler
        )
        if not measure_gap:
            return gradient, sums, []
        if self._adapter.dropout:
            first, settings = self._placed(parts[0]), self.settings.gradient_settings()
            gaps = [sampler_gap(self.model, self.adapter, first, temperature, settings)]
        return gradient, sums, gaps

    def _supervised_gradient(self, parts: list[Microbatch]) -> tuple[Gradient, list[LossSums]]:
        return self._accumulated(parts, add_supervised_gradient)

    def _accumulated(
        self, parts: list[Microbatch], program: Callable[..., Any], *traced: float, **static: Any
    ) -> tuple[Any, ...]:
        """Return the gradient that a program adds up over the microbatches, and lists of what else it says of each."""
        self.model.stack()
        key, gradient, found = self._dropout_key(), empty_gradient(self.state.adapter_weights, self.model.rules), []
        static = {"settings": self.settings.gradient_settings(), **static}

        def arguments(part: Microbatch) -> tuple:
            return self.model, self.adapter, gradient, self._placed(part), *traced, key

        self._make_sure_of_room(parts, program, arguments, static)
        for part in parts:
            gradient, *said = program(*arguments(part), **static)
            found.append(said)
        return gradient, *map(list, zip(*found, strict=True))

    def _make_sure_of_room(
        self,
        parts: list[Microbatch],
        program: Callable[..., Any],
        arguments: Callable[[Microbatch], tuple],
        static: dict[str, Any],
    ) -> None:
        """Of several processes: find out whether every one has the memory, before any waits in a program for another.

        What the compiled program needs is allocated, and let go again, once for each shape.
        """
        if self._agree is None:
            return
        for part in parts:
            shape = (program, part.tokens.shape, part.mask.shape, *static.values())
            if shape in self._fitting:
                continue
            analysis = program.lower(*arguments(part), **static).compile().memory_analysis()
            size = analysis.temp_size_in_bytes
            failed, _ = _unless_out_of_memory(lambda size=size: _allocate(size))
            if self._agree(failed):
                raise jax.errors.JaxRuntimeError(f"{_OUT_OF_MEMORY[0]}: a process has no room for {size} bytes")
            self._fitting.add(shape)

    def _placed(self, part: Microbatch) -> Microbatch:
        """A microbatch with each device's rows on it."""
        rules = self.model.rules
        return part if rules is None else place(part, jax.tree.map(lambda array: rules.rows(array.shape), part))

    def _dropout_key(self) -> PRNGKeyArray | None:
        """A key that the seed and the optimizer step determine; None without dropout."""
        return _fold(self.settings.seed, self.state.step) if self._adapter.dropout else None

    def _skipped(self) -> dict[str, float]:
        rate = float(self.settings.schedule(self.state.step))
        return {"update/skipped": 1.0, "update/tokens": 0.0, "grad_norm": 0.0, "learning_rate": rate}


def _unless_out_of_memory(attempt: Callable[[], Any]) -> tuple[bool, Any]:
    """Return whether an attempt failed for want of device memory, and what came of it otherwise."""
    try:
        return False, attempt()
    except jax.errors.JaxRuntimeError as error:
        if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
    return True, None


def _allocate(size: int) -> None:
    """Take so many bytes of each of this process's devices, and let them go."""
    for device in jax.local_devices():
        jax.block_until_ready(jnp.zeros(size, jnp.uint8, device=device)).delete()


@jax.jit
def _fold(seed: int, step: Int[Array, ""]) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.key(seed), step)


@partial(jax.jit, static_argnames=("settings", "rules"))
def new_state(weights: dict, settings: LearnerSettings, rules: ShardingRules | None = None) -> LearnerState:
    """The state before the first step, with a copy of the weights."""
    weights = jax.tree.map(lambda weight: jnp.array(weight, jnp.float32, copy=True), weights)
    return hold_adapter(rules, LearnerState(weights, settings.optimizer().init(weights), jnp.zeros((), jnp.int32)))


@partial(jax.jit, static_argnames=("settings", "rules"), donate_argnames="state")
def apply_gradient(
    state: LearnerState, gradient: Gradient, settings: LearnerSettings, rules: ShardingRules | None = None
) -> tuple[LearnerState, dict[str, Float[Array, ""]]]:
    """One optimizer step; nothing of the state changes where the gradient is not finite."""
    mean = jax.tree.map(lambda numerator: numerator / gradient.normalizer, gradient.numerator)
    norm = optax.tree.norm(mean)
    updates, optimizer_state = settings.optimizer().update(mean, state.optimizer_state, state.adapter_weights)
    weights = optax.apply_updates(state.adapter_weights, updates)
    moved = LearnerState(weights, optimizer_state, state.step + 1)
    usable = jnp.isfinite(norm)
    metrics = {"grad_norm": norm, "learning_rate": settings.schedule(state.step), "update/skipped": 1.0 - usable}
    state = jax.tree.map(lambda new, old: jnp.where(usable, new, old), moved, state)
    return hold_adapter(rules, state), metrics


def _gap_metrics(gaps: list[SamplerGap]) -> dict[str, float]:
    whole = SamplerGap(*(np.array(values) for values in zip(*jax.device_get(gaps), strict=True)))
    tokens = whole.tokens.sum()
    return {
        "sampling/sampling_logp_difference/mean": float(whole.logprob_sum.sum() / tokens),
        "sampling/sampling_logp_difference/max": float(whole.logprob_max.max()),
        "sampling/probability_difference/mean": float(whole.probability_sum.sum() / tokens),
        "sampling/probability_difference/max": float(whole.probability_max.max()),
    }


def _metrics(parts: list[Microbatch], sums: list[LossSums], steps: list[dict[str, Array]]) -> dict[str, float]:
    sums, steps = jax.device_get((sums, steps))
    metrics = {name: float(value) for name, value in loss_metrics(combine_sums(sums)).items()}
    metrics |= {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    positions = sum(part.tokens.size for part in parts)
    metrics["update/microbatch_size"] = float(max(len(part.mask) for part in parts))
    metrics["update/tokens"] = float(sum(part.mask.sum() for part in parts))
    metrics["update/padding_ratio"] = 1.0 - sum(part.packed_tokens for part in parts) / positions
    return metrics
