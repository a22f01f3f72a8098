"""The schedule in closed form, and AdamW with clipping against a float64 reference."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aflow_jax.grpo.optimizer import make_optimizer, warmup_cosine


def closed_form(step, peak, warmup, total):
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if step >= total:
        return 0.0
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (4, 10), (100, 500), (100, 3), (1, 1)])
def test_warmup_then_cosine(warmup, total):
    schedule = warmup_cosine(2e-5, warmup, total)
    steps = range(min(total, 30))
    expected = [closed_form(step, 2e-5, warmup, total) for step in steps]
    np.testing.assert_allclose([float(schedule(jnp.int32(step))) for step in steps], expected, rtol=1e-5)
    assert all(rate > 0 for rate in expected)


def adamw_reference(weights, gradients, *, rates, decay, largest):
    """Loshchilov and Hutter's Algorithm 2 in float64, after clipping to a global norm."""
    first = {name: np.zeros_like(weight) for name, weight in weights.items()}
    second = {name: np.zeros_like(weight) for name, weight in weights.items()}
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        norm = math.sqrt(sum((part**2).sum() for part in gradient.values()))
        scale = min(1.0, largest / norm)
        for name, part in gradient.items():
            part = part * scale
            first[name] = 0.9 * first[name] + 0.1 * part
            second[name] = 0.999 * second[name] + 0.001 * part**2
            direction = (first[name] / (1 - 0.9**step)) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            weights[name] = weights[name] - rate * (direction + decay * weights[name])
    return weights


def test_adamw_equals_its_algorithm_in_float64():
    random = np.random.default_rng(0)
    weights = {"a": random.normal(size=(3, 4)), "b": random.normal(size=(5,))}
    # Norms from far below the clip to far above it.
    gradients = [
        {name: size * random.normal(size=weight.shape) for name, weight in weights.items()}
        for size in (0.01, 3.0, 0.1, 50.0, 0.3)
    ]
    schedule = warmup_cosine(0.05, 2, 6)
    optimizer = make_optimizer(schedule, weight_decay=0.01, max_grad_norm=1.0)
    current = jax.tree.map(lambda weight: jnp.asarray(weight, jnp.float32), weights)
    state = optimizer.init(current)
    for gradient in gradients:
        gradient = jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), gradient)
        updates, state = optimizer.update(gradient, state, current)
        current = optax.apply_updates(current, updates)
    rates = [closed_form(step, 0.05, 2, 6) for step in range(5)]
    expected = adamw_reference(weights, gradients, rates=rates, decay=0.01, largest=1.0)
    for name, weight in expected.items():
        np.testing.assert_allclose(current[name], weight, rtol=2e-5, atol=1e-6)
