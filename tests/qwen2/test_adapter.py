"""LoRA adapters: sizes, what a new one changes (nothing), what a trained one means, where dropout acts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import SHAPES, VOCABULARY, make_model

from aflow_jax.errors import UserError
from aflow_jax.qwen2 import TARGETS, Adapter, Qwen2, Qwen2Config, init_adapter, parameter_count
from aflow_jax.qwen2.adapter import low_rank_delta
from aflow_jax.qwen2.dropout import Dropout

SEVEN_B = Qwen2Config(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    head_dim=128,
    vocab_size=152064,
)
ROWS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 11)).astype(np.int32)
FORWARD = jax.jit(lambda model, adapter, keys: model.hidden(ROWS, None, adapter, dropout_keys=keys))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Qwen2:
    return make_model(SHAPES["heads 4 over 4, tied"].config(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model) -> Adapter:
    adapter = init_adapter(model.config, 3, 6, TARGETS, jax.random.key(1), dropout=0.3)
    noise = np.random.default_rng(5)
    return adapter.replace_weights(
        jax.tree.map(lambda leaf: leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32), adapter.weights)
    )


def test_rank_64_on_attention_of_7b_has_40370176_parameters():
    adapter = jax.eval_shape(
        lambda key: init_adapter(SEVEN_B, 64, 64, "q_proj,k_proj,v_proj,o_proj", key), jax.random.key(0)
    )
    assert parameter_count(adapter) == 40_370_176
    assert {leaf.dtype for leaf in jax.tree.leaves(adapter)} == {jnp.dtype(jnp.float32)}


@jax.jit
def logits_prefilled_and_decoded(model: Qwen2, adapter: Adapter | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return logits of whole rows, and of the same rows prefilled but for one token, which is then decoded."""
    lengths = jnp.full(len(ROWS), ROWS.shape[1] - 1)
    prefilled, cache = model.prefill(ROWS[:, :-1], lengths, adapter, cache_length=ROWS.shape[1])
    decoded, _ = model.decode_step(ROWS[:, -1], lengths, cache, adapter)
    return model.logits(ROWS, None, adapter), model.unembed(prefilled), model.unembed(decoded)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_new_adapter_leaves_logits_bit_identical(model, dtype):
    """But for a decoded token in float32, whose attention AVX-512 CPUs round by the program that it is part of."""
    adapter = init_adapter(model.config, 3, 6, TARGETS, jax.random.key(1), dropout=0.3)
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype), model)
    new, base = logits_prefilled_and_decoded(cast, adapter), logits_prefilled_and_decoded(cast, None)
    for found, expected in zip(new[:2], base[:2], strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(new[2], base[2], rtol=0, atol=2e-6 if dtype == "float32" else 0)


def test_rank_stabilised_scaling_divides_by_the_root_of_the_rank(model):
    adapters = [
        init_adapter(model.config, 4, 6, "q_proj", jax.random.key(0), rslora=rslora) for rslora in (False, True)
    ]
    assert [adapter.scale for adapter in adapters] == [6 / 4, 6 / 2]


def test_an_adapter_is_the_model_with_scaled_low_rank_products_added_to_its_matrices(model, trained):
    assert trained.scale == 2
    merged = dict(model.layer_weights())
    for target, pair in trained.weights.items():
        product = np.einsum("lir,lro->loi", np.float64(pair["a"]), np.float64(pair["b"]))
        merged[target] = jnp.asarray(merged[target] + trained.scale * product, jnp.float32)
    expected = Qwen2(
        model.config,
        embedding=model.embedding.get_value(),
        layers=merged,
        final_norm=model.final_norm.get_value(),
        lm_head=None,
    )
    found = FORWARD(model, trained, None)
    np.testing.assert_allclose(found, FORWARD(expected, None, None), atol=1e-4, rtol=1e-4)
    assert np.abs(found - FORWARD(model, None, None)).max() > 0.1


def test_dropout_acts_only_where_a_key_is_given(model, trained):
    first, same, second = (FORWARD(model, trained, jax.random.split(jax.random.key(seed))) for seed in (0, 0, 1))
    plain = FORWARD(model, trained, None)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - plain).max() > 1e-3


def test_what_a_row_drops_depends_on_its_key_alone():
    inputs, matrices = jnp.ones((3, 7, 8)), {"a": jnp.ones((8, 1)), "b": jnp.ones((1, 1))}
    keys = jax.random.split(jax.random.key(0), 3)
    together = low_rank_delta(inputs, matrices, 1.0, 0.5, Dropout(keys=keys))
    alone = low_rank_delta(inputs[1:2, :4], matrices, 1.0, 0.5, Dropout(keys=keys[1:2]))
    np.testing.assert_array_equal(alone[0], together[1, :4])
    assert np.any(together[0] != together[1])


def test_dropout_leaves_the_expected_update_unchanged():
    inputs, a, b = jnp.full((2, 10_000, 8), 1.0), jnp.ones((8, 1)) / 8, jnp.ones((1, 1))
    dropout = Dropout(keys=jax.random.split(jax.random.key(0)))
    updates = low_rank_delta(inputs, {"a": a, "b": b}, 3.0, 0.25, dropout)
    assert updates.mean() == pytest.approx(3.0, rel=0.01)
    # The mean of 8 inputs, each 1/.75 with probability .75, else 0.
    assert updates.std() == pytest.approx(3.0 * np.sqrt(0.25 / 0.75 / 8), rel=0.03)


def test_targets_come_as_text_or_sequence_in_any_order(model):
    key = jax.random.key(0)
    one = init_adapter(model.config, 2, 2, " v_proj, q_proj", key)
    other = init_adapter(model.config, 2, 2, ("q_proj", "v_proj"), key)
    assert one.targets == ("q_proj", "v_proj")
    jax.tree.map(np.testing.assert_array_equal, one.weights, other.weights)


@pytest.mark.parametrize(
    ("rank", "targets", "dropout", "message"),
    [
        (4, "q_proj,lm_head", 0.0, "unknown module 'lm_head', expected some of q_proj"),
        (4, (), 0.0, "lora_target_modules is empty"),
        (0, "q_proj", 0.0, "lora_rank must be at least 1, found 0"),
        (4, "q_proj", 1.0, r"lora_dropout must be in \[0, 1\), found 1.0"),
    ],
)
def test_impossible_adapters_are_refused(rank, targets, dropout, message):
    with pytest.raises(UserError, match=message):
        init_adapter(SEVEN_B, rank, 1, targets, jax.random.key(0), dropout=dropout)
