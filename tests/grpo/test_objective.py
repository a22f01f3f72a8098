"""The objective against a float64 closed form written out token by token, for value and gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aflow_jax.grpo.objective import (
    combine_sums,
    kl_penalty,
    loss_metrics,
    policy_loss,
    policy_loss_sums,
    truncated_importance_weights,
)

LOSS_TYPES = ["grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo"]
DUAL_CLIPPED = ["grpo", "dapo", "bnpo", "dr_grpo", "gspo"]
LENGTHS = (9, 1, 4, 0, 6, 9)


def example(seed=0):
    """Six sequences of unequal lengths, one of them masked out; ratios on both sides of every clip."""
    random = np.random.default_rng(seed)
    shape = (len(LENGTHS), max(LENGTHS))
    logprobs = -random.exponential(1.0, shape)
    old = logprobs + random.normal(0, 0.4, shape)
    ref = logprobs + random.normal(0, 0.5, shape)
    advantages = np.array([1.3, -0.7, -1.1, 0.9, 0.4, -0.2])
    mask = np.arange(shape[1]) < np.array(LENGTHS)[:, None]
    return logprobs, old, ref, advantages, mask


def kl_closed_form(difference, estimator):
    """Value and derivative with respect to the policy's log-probability."""
    if estimator == "k1":
        return difference, 1.0
    if estimator == "k2":
        return difference**2 / 2, difference
    return math.exp(-difference) - 1 + difference, 1 - math.exp(-difference)


def token_share(mask, b, loss_type, constant):
    """What one live token of sequence b counts in the batch's loss."""
    lengths = mask.sum(1)
    sequences = int((lengths > 0).sum())
    if loss_type in ("grpo", "gspo"):
        return 1 / lengths[b] / sequences
    return 1 / sequences / constant if loss_type == "dr_grpo" else 1 / lengths.sum()


def closed_form(
    logprobs, old, ref, advantages, mask, loss_type, *, low=0.2, high=0.2, beta=0.005, estimator="k3", dual=None,
    weights=None, entropies=None, entropy_coef=0.0, constant=None,
):  # fmt: skip
    """Loss and gradient in float64, each token by hand."""
    gradient = np.zeros_like(logprobs)
    loss, lengths = 0.0, mask.sum(1)
    for b in np.flatnonzero(lengths):
        a, n = advantages[b], lengths[b]
        share = token_share(mask, b, loss_type, constant or mask.shape[1])
        live = np.flatnonzero(mask[b])
        log_ratio = logprobs[b] - old[b]
        for t in live:
            ratio = math.exp(log_ratio[live].mean() if loss_type == "gspo" else log_ratio[t])
            clipped = min(max(ratio, 1 - low), 1 + high)
            weight = 1.0 if weights is None else weights[b, t]
            if loss_type == "cispo":
                value, slope = -clipped * a * logprobs[b, t], -clipped * a
            else:
                unclipped_wins = ratio * a <= clipped * a
                value, slope = -min(ratio * a, clipped * a), -ratio * a if unclipped_wins else 0.0
                if dual is not None and a < 0 and -value < dual * a:
                    value, slope = -dual * a, 0.0
            loss += share * weight * value
            # Under gspo the sequence's ratio depends on each of its tokens alike.
            for s, part in [(s, 1 / n) for s in live] if loss_type == "gspo" else [(t, 1.0)]:
                gradient[b, s] += share * weight * slope * part
            kl, kl_slope = kl_closed_form(logprobs[b, t] - ref[b, t], estimator)
            loss += share * beta * kl
            gradient[b, t] += share * beta * kl_slope
            loss -= share * entropy_coef * (0.0 if entropies is None else entropies[b, t])
    return loss, gradient


def value_and_gradient(logprobs, old, ref, advantages, mask, **options):
    def loss(new):
        return policy_loss(new, old, ref, advantages, mask, **options)[0]

    return jax.value_and_grad(loss)(jnp.asarray(logprobs, jnp.float32))


def as_float32(*arrays):
    return [np.asarray(array, np.float32) if array.dtype != bool else array for array in arrays]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_value_and_gradient_equal_the_closed_form(loss_type, estimator):
    arrays = example()
    options = {"clip_low": 0.1, "clip_high": 0.3, "kl_coef": 0.05, "kl_estimator": estimator}
    value, gradient = value_and_gradient(*as_float32(*arrays), loss_type=loss_type, **options)
    expected, expected_gradient = closed_form(*arrays, loss_type, low=0.1, high=0.3, beta=0.05, estimator=estimator)
    assert float(value) == pytest.approx(expected, rel=2e-6, abs=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def assert_equals_closed_form(arrays, loss_type, options, **reference):
    """The float32 loss with `options` is the closed form with `reference`, in value and gradient."""
    value, gradient = value_and_gradient(*as_float32(*arrays), loss_type=loss_type, **options)
    expected, expected_gradient = closed_form(*arrays, loss_type, **reference)
    assert float(value) == pytest.approx(expected, rel=5e-6, abs=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("loss_type", DUAL_CLIPPED)
def test_dual_clip_bounds_the_cost_of_a_bad_sequence(loss_type):
    logprobs, old, ref, advantages, mask = example(1)
    arrays = logprobs, old - 1.0, ref, advantages, mask  # ratios around e, beyond the dual clip of 1.5
    assert_equals_closed_form(arrays, loss_type, {"dual_clip": 1.5, "kl_coef": 0.0}, dual=1.5, beta=0.0)
    assert closed_form(*arrays, loss_type, dual=1.5)[0] < closed_form(*arrays, loss_type)[0]


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_truncated_importance_sampling_weighs_the_policy_term(loss_type, level):
    arrays = example(2)
    old, mask = arrays[1], arrays[4]
    sampler = old + np.random.default_rng(3).normal(0, 0.8, old.shape) - (level == "geometric")
    ratios = ratios_to_the_sampler(old, sampler, mask, level)
    weights = truncated_importance_weights(*as_float32(old, sampler, mask), cap=2.0, level=level)
    assert np.max(weights) == 2.0
    assert np.min(ratios[mask]) < 2.0
    assert_equals_closed_form(arrays, loss_type, {"importance_weights": weights}, weights=np.minimum(ratios, 2.0))


@pytest.mark.parametrize(
    ("loss_type", "level"),
    [("gspo", "geometric")] + [(name, level) for name in DUAL_CLIPPED[:-1] for level in ("token", "sequence")],
)
def test_a_ratio_that_is_to_the_sampler_already_is_truncated_and_not_counted_twice(loss_type, level):
    logprobs, old, ref, advantages, mask = example(2)
    sampler = old + np.array([[0.6], [-0.5], [-0.5], [0.0], [-0.5], [0.6]])
    arrays = logprobs, sampler, ref, advantages, mask
    ratios = ratios_to_the_sampler(logprobs, sampler, mask, level)
    cap = 1.3
    assert np.max(ratios[mask]) > cap > np.min(ratios[mask])
    weights = truncated_importance_weights(
        *as_float32(logprobs, sampler, mask), cap=cap, level=level, ratio_included=True
    )
    reference = {"weights": np.minimum(1.0, cap / ratios)}
    assert_equals_closed_form(arrays, loss_type, {"importance_weights": weights}, **reference)
    if level != "sequence":  # there the cap is on the product of the ratios
        np.testing.assert_allclose((ratios * np.asarray(weights))[mask], np.minimum(ratios, cap)[mask], rtol=1e-5)


def ratios_to_the_sampler(logprobs, sampler, mask, level):
    """p / p_sampler of each token; under the other levels the product or the geometric mean of its sequence's."""
    log_ratio = np.where(mask, logprobs - sampler, 0.0)
    if level == "token":
        return np.exp(log_ratio)
    count = 1 if level == "sequence" else np.maximum(mask.sum(1, keepdims=True), 1)
    return np.exp(log_ratio.sum(1, keepdims=True) / count) * np.ones_like(log_ratio)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_all_options_together_equal_the_closed_form(loss_type):
    """Clips apart, dual clip, weights, entropy bonus, k2, and sequences cut by the length limit masked out."""
    arrays = list(example(11))
    truncated = np.array([False, False, True, False, True, False])
    arrays[4] = arrays[4] & ~truncated[:, None]
    random = np.random.default_rng(12)
    weights, entropies = random.uniform(0.5, 2.0, arrays[0].shape), random.exponential(1.0, arrays[0].shape)
    options = {
        "clip_low": 0.1, "clip_high": 0.3, "kl_coef": 0.05, "kl_estimator": "k2", "entropy_coef": 0.02,
        "importance_weights": np.float32(weights), "entropies": np.float32(entropies), "max_completion_length": 20,
    }  # fmt: skip
    reference = {
        "low": 0.1, "high": 0.3, "beta": 0.05, "estimator": "k2", "entropy_coef": 0.02,
        "weights": weights, "entropies": entropies, "constant": 20,
    }  # fmt: skip
    if loss_type != "cispo":
        options["dual_clip"] = reference["dual"] = 1.4
    assert_equals_closed_form(arrays, loss_type, options, **reference)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_parts_add_up_to_the_whole_batch(loss_type):
    logprobs, old, ref, advantages, mask = as_float32(*example(4))
    options = {"loss_type": loss_type, "max_completion_length": mask.shape[1]}
    whole, whole_gradient = value_and_gradient(logprobs, old, ref, advantages, mask, **options)

    def part_sums(new, rows, width):
        cut = [array[rows, :width] for array in (new, old, ref)]
        return policy_loss_sums(*cut, advantages[rows], mask[rows, :width], **options)

    gradient, parts = np.zeros_like(logprobs), []
    for rows, width in [([1, 2, 3], 4), ([4], 6), ([5, 0], 9)]:  # each as wide as its longest sequence
        rows = np.array(rows)
        parts.append(part_sums(logprobs, rows, width))
        gradient += jax.grad(lambda new, r=rows, w=width: part_sums(new, r, w).loss)(jnp.asarray(logprobs))
    total = combine_sums(parts)
    np.testing.assert_allclose(total.loss / total.normalizer, whole, rtol=1e-6)
    np.testing.assert_allclose(gradient / total.normalizer, whole_gradient, rtol=1e-6, atol=1e-9)
    metrics = policy_loss(logprobs, old, ref, advantages, mask, **options)[1]
    for name, value in loss_metrics(total).items():
        np.testing.assert_allclose(value, metrics[name], rtol=2e-6, err_msg=name)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_garbage_at_padding_changes_nothing(loss_type, garbage):
    logprobs, old, ref, advantages, mask = as_float32(*example(5))
    entropies = np.abs(ref)
    weights = np.ones_like(old)

    def run(spoil):
        spoiled = [np.where(mask, array, spoil) for array in (logprobs, old, ref, entropies, weights)]
        worth = np.where(mask.any(1), advantages, spoil).astype(np.float32)
        options = {"entropies": spoiled[3], "entropy_coef": 0.01, "importance_weights": spoiled[4]}
        return value_and_gradient(*spoiled[:3], worth, mask, loss_type=loss_type, **options)

    value, gradient = run(0.0)
    spoiled_value, spoiled_gradient = run(np.float32(garbage))
    assert np.isfinite(value)
    assert value == spoiled_value
    np.testing.assert_array_equal(gradient, spoiled_gradient)
    assert np.all(np.asarray(gradient)[~mask] == 0)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_first_update_has_a_ratio_of_exactly_one(loss_type):
    logprobs, _, ref, advantages, mask = as_float32(*example(6))
    _, metrics = policy_loss(logprobs, None, ref, advantages, mask, loss_type=loss_type)
    assert metrics["ratio/mean"] == metrics["ratio/max"] == 1.0
    assert metrics["clip_ratio/low_mean"] == metrics["clip_ratio/high_mean"] == 0.0
    same_value, same_gradient = value_and_gradient(logprobs, logprobs, ref, advantages, mask, loss_type=loss_type)
    value, gradient = value_and_gradient(logprobs, None, ref, advantages, mask, loss_type=loss_type)
    assert value == same_value
    np.testing.assert_array_equal(gradient, same_gradient)


def test_metrics_count_clips_and_divergence():
    logprobs, old, ref, advantages, mask = example(7)
    _, metrics = policy_loss(*as_float32(logprobs, old, ref, advantages, mask), clip_low=0.1, clip_high=0.3)
    ratio = np.exp(logprobs - old)
    sign = np.sign(advantages)[:, None]
    difference = logprobs - ref
    expected = {
        "clip_ratio/low_mean": np.mean(((ratio < 0.9) & (sign < 0))[mask]),
        "clip_ratio/high_mean": np.mean(((ratio > 1.3) & (sign > 0))[mask]),
        "ratio/mean": np.mean(ratio[mask]),
        "ratio/max": np.max(ratio[mask]),
        "kl": np.mean((np.exp(-difference) - 1 + difference)[mask]),
    }
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name


def test_no_live_token_costs_nothing():
    logprobs, old, ref, advantages, mask = as_float32(*example(8))
    value, gradient = value_and_gradient(logprobs, old, ref, advantages, np.zeros_like(mask))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(logprobs))


def test_the_k3_penalty_is_exact_near_zero_and_pulls_a_wild_token_nowhere():
    difference = np.array([[3e-4, -3e-4, 1e-2, -5.0, 40.0]])
    got = kl_penalty(jnp.float32(difference), jnp.zeros_like(difference, jnp.float32), "k3")
    np.testing.assert_allclose(got, np.expm1(-difference) + difference, rtol=3e-3)
    assert np.min(got) > 0
    slope = jax.grad(lambda x: kl_penalty(x, 0.0, "k3"))
    assert slope(-25.0) == 0.0
    assert slope(-10.0) == pytest.approx(1 - math.exp(10), rel=1e-6)


def test_a_wild_ratio_stays_finite():
    mask = np.ones((1, 2), bool)
    for advantage in (1.0, -1.0):
        value, gradient = value_and_gradient(
            np.zeros((1, 2)), np.array([[-500.0, 500.0]]), np.array([[300.0, -300.0]]), np.array([advantage]), mask
        )
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_entropy_bonus_rewards_entropy(loss_type):
    logprobs, old, ref, advantages, mask = as_float32(*example(9))
    entropies = jnp.abs(ref)

    def loss(entropies):
        options = {"loss_type": loss_type, "entropies": entropies, "entropy_coef": 0.1}
        return policy_loss(logprobs, old, ref, advantages, mask, **options)

    (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(entropies)
    shares = [token_share(mask, b, loss_type, mask.shape[1]) if mask[b].any() else 0.0 for b in range(len(mask))]
    np.testing.assert_allclose(gradient, np.where(mask, -0.1 * np.array(shares)[:, None], 0), rtol=1e-6)
    assert float(metrics["entropy"]) == pytest.approx(float(np.abs(ref)[mask].mean()), rel=1e-6)


def test_expected_gradients_of_the_kl_estimators_are_those_the_docstring_names():
    """Summed over a whole vocabulary in float64: k1 pulls nowhere, k2 down KL(p‖q), k3 down KL(q‖p)."""
    random = np.random.default_rng(10)
    logits, reference = random.normal(size=12), random.normal(size=12)
    with jax.enable_x64(True):
        log_q = jax.nn.log_softmax(jnp.asarray(reference))
        p = jax.nn.softmax(jnp.asarray(logits))

        def expected_gradient(estimator, corrected=False):
            def surrogate(x):
                log_p = jax.nn.log_softmax(x)
                weight = jnp.exp(log_p) if corrected else p
                return (weight * kl_penalty(log_p, log_q, estimator)).sum()

            return jax.grad(surrogate)(jnp.asarray(logits))

        def divergence(x, forward):
            log_p = jax.nn.log_softmax(x)
            return (jnp.exp(log_q) * (log_q - log_p)).sum() if forward else (jnp.exp(log_p) * (log_p - log_q)).sum()

        reverse = jax.grad(divergence)(jnp.asarray(logits), False)
        forward = jax.grad(divergence)(jnp.asarray(logits), True)
        np.testing.assert_allclose(expected_gradient("k1"), 0, atol=1e-12)
        np.testing.assert_allclose(expected_gradient("k2"), reverse, atol=1e-12)
        np.testing.assert_allclose(expected_gradient("k3"), forward, atol=1e-12)
        np.testing.assert_allclose(expected_gradient("k1", corrected=True), reverse, atol=1e-12)
        np.testing.assert_allclose(expected_gradient("k3", corrected=True), reverse, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type must be grpo"),
        ({"kl_estimator": "k4"}, "kl_estimator must be k1"),
        ({"dual_clip": 1.1}, r"dual_clip 1.1 must be above 1 \+ clip_high"),
        ({"dual_clip": 3.0, "loss_type": "cispo"}, "has no meaning in cispo"),
        ({"entropy_coef": 0.1}, "there are no entropies"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        policy_loss(*as_float32(*example()), **options)
