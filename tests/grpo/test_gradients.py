"""Gradients of microbatches: they add up to the whole batch's, whatever the objective and however rows are divided."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aflow_jax.grpo import Batch
from aflow_jax.grpo.batch import split_into_microbatches
from aflow_jax.grpo.gradients import add_policy_gradient, empty_gradient
from aflow_jax.grpo.settings import GradientSettings

LENGTHS = ((3, 6), (40, 2), (1, 9), (5, 1), (2, 12), (4, 4))  # prompt and completion of each row


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return Batch.from_rollouts(
        prompts=[random.integers(0, 97, prompt) for prompt, _ in LENGTHS],
        completions=[random.integers(0, 97, completion) for _, completion in LENGTHS],
        logprobs=[random.normal(-4, 0.5, completion) for _, completion in LENGTHS],
        advantages=[1.0, -0.5, 0.7, -1.2, 0.4, -0.4],
    )


@pytest.fixture
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo"])
def test_microbatches_give_the_gradient_of_the_whole_batch(model, adapter, batch, loss_type, quick_compilation):
    """With dropout too: what a row drops does not depend on which rows, and how much padding, it runs beside."""
    dropped = dataclasses.replace(adapter, dropout=0.2)
    settings = GradientSettings(
        loss_type=loss_type, kl_coef=0.0, max_completion_length=9, importance_sampling="sequence", remat="none"
    )

    def gradient_of(rows):
        gradient = empty_gradient(dropped.weights)
        parts = split_into_microbatches(batch, rows, multiple=6 if rows == 6 else 1)
        for part in parts:
            gradient, _, _ = add_policy_gradient(
                model, dropped, gradient, part, 0.8, jax.random.key(7), settings=settings, against_sampler=True
            )
        assert len({part.tokens.shape for part in parts}) == (1 if rows == 6 else 2)
        return jax.tree.map(lambda numerator: numerator / gradient.normalizer, gradient.numerator)

    whole, divided = gradient_of(6), gradient_of(2)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, divided, whole))
    assert float(difference / optax.tree.norm(whole)) < 1e-6
