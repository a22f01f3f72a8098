"""Gradients of microbatches: they add up to the same, whatever the objective, the division, and the prompts shared."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aflow_jax.grpo import Batch
from aflow_jax.grpo.gradients import add_policy_gradient, empty_gradient
from aflow_jax.grpo.microbatches import split_into_microbatches
from aflow_jax.grpo.settings import GradientSettings

LENGTHS = ((3, 6), (40, 2), (1, 9), (5, 1), (2, 12), (4, 4))  # prompt and completion of each row
GROUPS = {"each its own prompt": (0, 1, 2, 3, 4, 5), "three prompts": (1, 0, 1, 1, 0, 3), "one prompt": 6 * (4,)}


def new_batch(groups):
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 97, prompt) for prompt, _ in LENGTHS]
    return Batch.from_rollouts(
        prompts=[prompts[place] for place in GROUPS[groups]],
        completions=[random.integers(0, 97, completion) for _, completion in LENGTHS],
        logprobs=[random.normal(-4, 0.5, completion) for _, completion in LENGTHS],
        advantages=[1.0, -0.5, 0.7, -1.2, 0.4, -0.4],
    )


@pytest.fixture
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(
    ("groups", "loss_type", "rows"),
    [("three prompts", loss_type, 6) for loss_type in ("grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo")]
    + [("each its own prompt", "gspo", 2), ("one prompt", "dapo", 2)],
)
def test_microbatches_give_the_gradient_of_each_sequence_alone(
    model, adapter, groups, loss_type, rows, quick_compilation
):
    """With dropout too: what is dropped does not depend on which rows, and how much padding, a row runs beside."""
    batch = new_batch(groups)
    dropped = dataclasses.replace(adapter, dropout=0.2)
    settings = GradientSettings(
        loss_type=loss_type, kl_coef=0.0, max_completion_length=9, importance_sampling="sequence", remat="none"
    )

    def gradient_of(rows):
        gradient = empty_gradient(dropped.weights)
        for part in split_into_microbatches(batch, rows):
            gradient, _, _ = add_policy_gradient(
                model, dropped, gradient, part, 0.8, jax.random.key(7), settings=settings, against_sampler=True
            )
        return jax.tree.map(lambda numerator: numerator / gradient.normalizer, gradient.numerator)

    alone, together = gradient_of(1), gradient_of(rows)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, together, alone))
    assert float(difference / optax.tree.norm(alone)) < 1e-6
