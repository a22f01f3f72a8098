"""Training over a float16 base: it follows float32, needs no loss scaling, and steps over what overflows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aflow_jax.grpo import Batch, Learner, LearnerSettings
from aflow_jax.grpo.gradients import add_policy_gradient, empty_gradient
from aflow_jax.grpo.microbatches import split_into_microbatches

LENGTHS = ((3, 6), (7, 2), (1, 9), (5, 1), (2, 12), (4, 4))  # prompt and completion of each row
SETTINGS = LearnerSettings(
    learning_rate=5e-3, warmup_steps=5, max_steps=50, microbatch_size=6, kl_coef=0.05, loss_type="dapo", remat="none"
)


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return Batch.from_rollouts(
        prompts=[random.integers(0, 97, prompt) for prompt, _ in LENGTHS],
        completions=[random.integers(0, 97, completion) for _, completion in LENGTHS],
        logprobs=[random.normal(-4.5, 0.1, completion) for _, completion in LENGTHS],
        advantages=[1.0, -0.5, 0.7, -1.2, 0.4, -0.8],
    )


@pytest.fixture(scope="module")
def half(model):
    return jax.tree.map(lambda weight: weight.astype(jnp.float16), model)


@pytest.fixture(autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_fifty_steps_of_the_policy_follow_float32_within_two_percent(model, half, adapter, batch):
    reference, learner = Learner(model, adapter, SETTINGS), Learner(half, adapter, SETTINGS)
    expected, losses = (
        [taught.update(batch, 0.8, off_policy=True)["loss"] for _ in range(50)] for taught in (reference, learner)
    )
    assert expected[0] - expected[-1] > 0.05  # it learns
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves(learner.state.adapter_weights)} == {jnp.dtype(jnp.float32)}
    moments = [leaf for leaf in jax.tree.leaves(learner.state.optimizer_state) if leaf.ndim]
    assert {leaf.dtype for leaf in moments} == {jnp.dtype(jnp.float32)}


def test_fifty_supervised_steps_follow_float32_within_two_percent(model, half, adapter, batch):
    rows = batch.tokens, batch.lengths, batch.loss_mask
    expected, losses = (
        [taught.supervised_update(*rows)["loss"] for _ in range(50)]
        for taught in (Learner(model, adapter, SETTINGS), Learner(half, adapter, SETTINGS))
    )
    assert expected[0] - expected[-1] > 0.5
    np.testing.assert_allclose(losses, expected, rtol=0.02)


@pytest.mark.parametrize("exponent", [-30, 30])
def test_scaling_the_loss_by_a_power_of_two_scales_the_gradient_to_the_last_bit(half, adapter, batch, exponent):
    """Each row enters a float16 product with a scale of its own: nothing vanishes or overflows, at any loss scale."""
    settings = dataclasses.replace(SETTINGS, kl_coef=0.0).gradient_settings()

    def gradient_of(scale):
        scaled = dataclasses.replace(batch, advantages=np.float32(scale * batch.advantages))
        (part,) = split_into_microbatches(scaled, 6)
        gradient, _, _ = add_policy_gradient(
            half, adapter, empty_gradient(adapter.weights), part, 0.8, None, settings=settings, against_sampler=False
        )
        return jax.tree.leaves(gradient.numerator)

    for plain, scaled in zip(gradient_of(1.0), gradient_of(2.0**exponent), strict=True):
        assert plain.dtype == jnp.float32
        assert np.all(np.isfinite(plain))
        assert np.any(plain != 0)
        np.testing.assert_array_equal(np.ldexp(plain, exponent), scaled)


def test_a_step_that_overflows_is_skipped_and_counted_and_the_next_one_is_made(half, adapter, batch):
    learner = Learner(half, adapter, SETTINGS)
    before = jax.tree.map(np.array, learner.state)
    huge = dataclasses.replace(batch, advantages=np.float32(1e38 * batch.advantages))
    assert learner.update(huge, 0.8, off_policy=True)["update/skipped"] == 1.0
    jax.tree.map(np.testing.assert_array_equal, learner.state, before)
    assert learner.update(batch, 0.8, off_policy=True)["update/skipped"] == 0.0
    assert int(learner.state.step) == 1
