"""Weights held stacked or cut: the same model, and never two copies of it."""

import gc

import jax
import numpy as np
import pytest
from golden_models import SHAPES, VOCABULARY

from aflow_jax.qwen2 import Qwen2, init_adapter, init_random
from aflow_jax.qwen2.layers import traced_once

ROWS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 6)).astype(np.int32)
LENGTHS = np.array([6, 4], np.int32)


def make(quantization=None):
    config = SHAPES["heads 4 over 4, tied"].config()
    return init_random(config, jax.random.key(0), quantization=quantization)


def held_bytes():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


@jax.jit
def everything(model: Qwen2, adapter) -> tuple:
    hidden, cache = model.prefill(ROWS, LENGTHS, adapter, cache_length=8)
    after, cache = model.decode_step(ROWS[:, 0], LENGTHS, cache, adapter)
    return model.logits(ROWS, LENGTHS, adapter), hidden, after, cache


def test_every_function_takes_the_weights_either_way():
    model = make()
    adapter = init_adapter(model.config, 2, 4, "q_proj,down_proj", jax.random.key(1))
    adapter = adapter.replace_weights(jax.tree.map(lambda leaf: leaf + 0.05, adapter.weights))
    stacked = everything(model, adapter)
    model.cut()
    assert model.is_cut
    for one, other in zip(jax.tree.leaves(stacked), jax.tree.leaves(everything(model, adapter)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_moving_holds_no_second_copy_and_brings_every_weight_back(quantization):
    model = make(quantization)
    before, weights = held_bytes(), jax.tree.map(np.array, model.layer_weights())
    model.cut()
    assert held_bytes() == before
    assert len(model.cut_weights()) == model.config.num_hidden_layers
    model.stack()
    assert held_bytes() == before
    assert not model.is_cut
    jax.tree.map(np.testing.assert_array_equal, model.layer_weights(), weights)


def test_a_layer_is_traced_once_for_a_program_of_many_with_the_same_operations():
    traces = []

    def layer(residual, at):
        traces.append(at)
        return residual * at[0] + scale, at[0]

    def program(make):
        def run(residual, weights):
            step = make(layer, residual)
            for index in range(4):
                residual, _ = step(residual, (weights[index],))
            return residual

        return str(jax.make_jaxpr(run)(np.ones(3, np.float32), np.ones((4, 3), np.float32)))

    scale = np.float32(2)
    once, count = program(traced_once), len(traces)
    assert count == 1
    assert program(lambda layer, residual: layer) == once
    # Outside a program nothing is traced, nor compiled.
    assert traced_once(layer, np.ones(3)) is layer
