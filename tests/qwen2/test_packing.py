"""Packed rows: completions that share a prompt's run come out, forward and backward, as whole sequences do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import SHAPES, VOCABULARY, make_model

from aflow_jax.qwen2 import TARGETS, Packing, attention, init_adapter
from aflow_jax.qwen2.block_attention import block_attention

PROMPTS, LENGTHS = (7, 3), ((4, 1, 6), (5, 0, 2))
PROMPT_WIDTH, WIDTH = 8, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(SHAPES["heads 8 over 1, untied"].config(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapter(model):
    adapter = init_adapter(model.config, 3, 6, TARGETS, jax.random.key(1))
    noise = np.random.default_rng(5)
    return adapter.replace_weights(
        jax.tree.map(lambda leaf: leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32), adapter.weights)
    )


def sequences():
    """Each sequence by itself, without padding."""
    random = np.random.default_rng(2)
    prompts = [random.integers(0, VOCABULARY, length) for length in PROMPTS]
    return [
        [np.concatenate([prompt, random.integers(0, VOCABULARY, length)]) for length in lengths]
        for prompt, lengths in zip(prompts, LENGTHS, strict=True)
    ]


def packed(padding):
    tokens = np.full((2, PROMPT_WIDTH + 3 * WIDTH), padding, np.int32)
    for group, (prompt, rows) in enumerate(zip(PROMPTS, sequences(), strict=True)):
        tokens[group, :prompt] = rows[0][:prompt]
        for sample, row in enumerate(rows):
            start = PROMPT_WIDTH + sample * WIDTH
            tokens[group, start : start + len(row) - prompt] = row[prompt:]
    return tokens


PACKING = Packing(prompt_lengths=np.array(PROMPTS), lengths=np.array(LENGTHS), prompt_width=PROMPT_WIDTH)


def predicting(hidden, prompt):
    """Of a sequence's states, those that predict its completion."""
    return hidden[prompt - 1 : -1]


@pytest.mark.parametrize(("remat", "kernel"), [("none", "blocks"), ("full", "blocks"), ("full", "cudnn")])
def test_states_and_gradients_are_those_of_whole_sequences(model, adapter, remat, kernel, monkeypatch):
    """Also where a kernel attends in whole sequences: on a CPU another one stands in its place."""
    slopes = np.random.default_rng(3).standard_normal((2, 3, WIDTH, model.config.hidden_size)).astype(np.float32)

    def whole(weights):
        total, found = 0.0, []
        for group, rows in enumerate(sequences()):
            for sample, row in enumerate(rows):
                hidden = model.hidden(row[None], None, adapter.replace_weights(weights))[0]
                states = predicting(hidden, PROMPTS[group])
                total += (states * slopes[group, sample, : len(states)]).sum()
                found.append(states)
        return total, found

    def together(weights, tokens):
        hidden = model.hidden(tokens, None, adapter.replace_weights(weights), packing=PACKING, remat=remat)
        before = PACKING.before(hidden)
        live = (jnp.arange(WIDTH) < np.array(LENGTHS)[..., None]).reshape(6, WIDTH, 1)
        states = jnp.where(live, before * slopes.reshape(before.shape), 0).sum()
        return states, [before[at, :length] for at, length in enumerate(np.ravel(LENGTHS))]

    (_, states), gradient = jax.jit(jax.value_and_grad(whole, has_aux=True))(adapter.weights)
    if kernel == "cudnn":
        monkeypatch.setattr(attention, "_implementation", lambda *_: kernel)
        monkeypatch.setattr(attention, "causal_attention", lambda *heads: block_attention(*heads[:3]))
    compiled = jax.jit(jax.value_and_grad(together, has_aux=True))
    for padding in (0, VOCABULARY - 1):
        (_, found), slope = compiled(adapter.weights, packed(padding))
        for one, other in zip(found, states, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        for one, other in zip(jax.tree.leaves(slope), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


def test_what_padding_holds_reaches_neither_direction():
    """Not even NaN: what is spread and gathered is each sequence's own, and so is each gradient."""
    values = np.random.default_rng(0).standard_normal((2, PROMPT_WIDTH + 3 * WIDTH, 2)).astype(np.float32)
    valid = np.zeros(values.shape[:2], bool)
    for group, prompt in enumerate(PROMPTS):
        valid[group, :prompt] = True
        for sample, length in enumerate(LENGTHS[group]):
            valid[group, PROMPT_WIDTH + sample * WIDTH :][:length] = True

    rows, pull = jax.vjp(PACKING.spread, jnp.where(valid[..., None], values, jnp.nan))
    inside = np.arange(PROMPT_WIDTH + WIDTH) < np.asarray(PACKING.sequence_lengths())[:, None]
    assert np.isfinite(rows[inside]).all()
    back, pull_back = jax.vjp(PACKING.gather, jnp.where(inside[..., None], rows, jnp.nan))
    np.testing.assert_array_equal(np.asarray(back)[valid], values[valid])

    (to_rows,) = pull_back(jnp.where(valid[..., None], values, jnp.nan))
    assert np.isfinite(to_rows[inside]).all()
    (to_packed,) = pull(jnp.where(inside[..., None], 1.0, jnp.nan) * jnp.ones(rows.shape))
    counts = np.concatenate([[3.0] * PROMPTS[0], [1.0] * LENGTHS[0][0]])
    np.testing.assert_array_equal(np.asarray(to_packed)[0, valid[0], 0][: len(counts)], counts)


def test_each_place_has_its_position_in_its_sequence():
    positions = PACKING.positions(PROMPT_WIDTH + 3 * WIDTH)
    assert positions[0].tolist() == [*range(8), *range(7, 13), *range(7, 13), *range(7, 13)]
    assert positions[1, PROMPT_WIDTH:].tolist() == 3 * list(range(3, 9))
