"""The forward pass: equal to transformers', causal, blind to padding, the same with every remat policy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import GOLDEN_FILE, LENGTHS, SHAPES, VOCABULARY, make_model, tokens, write_model

from aflow_jax.qwen2 import REMAT_POLICIES, Qwen2, Qwen2Config, init_adapter, init_random, load_pretrained

# Compiled without optimisation, which takes XLA far longer than the run.
QUICK = {"xla_backend_optimization_level": 0}
FORWARD = jax.jit(lambda model, rows, lengths, adapter: model.logits(rows, lengths, adapter))


def valid_logits(model: Qwen2, rows: np.ndarray = tokens(), lengths: np.ndarray = LENGTHS) -> np.ndarray:  # noqa: B008
    logits = np.asarray(FORWARD(model, rows, lengths, None))
    return np.concatenate([row[:length] for row, length in zip(logits, lengths, strict=True)])


@pytest.fixture(scope="module")
def model() -> Qwen2:
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )
    return init_random(config, jax.random.key(0))


@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_a_padded_batch_equal_transformers_row_by_row(name, tmp_path):
    expected = np.load(GOLDEN_FILE)[name]
    assert np.abs(expected).max() > 1, "the golden logits should be large enough to tell models apart"
    found = valid_logits(make_model(SHAPES[name].config(), tmp_path))
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["heads 14 over 2, tied (0.5B)", "heads 4 over 4, untied"])
def test_logits_equal_the_installed_transformers(name, tmp_path):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch; golden outputs are compared anyway")
    from transformers import Qwen2ForCausalLM

    write_model(SHAPES[name].config(), tmp_path)
    rows = np.random.default_rng(3).integers(0, VOCABULARY, (2, 40)).astype(np.int32)
    lengths = np.array([40, 17], np.int32)
    peer = Qwen2ForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32)
    with torch.no_grad():
        expected = [peer(torch.tensor(row[None, :length])).logits[0] for row, length in zip(rows, lengths, strict=True)]
    found = valid_logits(load_pretrained(tmp_path, dtype="float32"), rows, lengths)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-4, rtol=0)


def test_padding_does_not_change_valid_logits(model):
    rows = tokens()
    other = np.where(np.arange(rows.shape[1]) < LENGTHS[:, None], rows, (rows + 13) % VOCABULARY)
    np.testing.assert_array_equal(valid_logits(model, rows), valid_logits(model, other))


def test_lengths_left_out_mean_that_all_tokens_are_valid(model):
    rows = tokens()
    full = np.full(len(rows), rows.shape[1], np.int32)
    np.testing.assert_array_equal(FORWARD(model, rows, None, None), FORWARD(model, rows, full, None))


def test_a_token_changes_no_logits_before_it(model):
    rows = tokens()
    changed = rows.copy()
    changed[0, 12] = (changed[0, 12] + 1) % VOCABULARY
    before, after = (np.asarray(FORWARD(model, batch, LENGTHS, None))[0] for batch in (rows, changed))
    np.testing.assert_array_equal(before[:12], after[:12])
    assert np.abs(before[12:] - after[12:]).max(axis=-1).min() > 0


def test_padded_positions_are_finite_and_send_no_gradient(model):
    rows = jnp.asarray(tokens())
    valid = np.arange(rows.shape[1]) < LENGTHS[:, None]

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.grad
    def gradient(model: Qwen2, padding: int) -> jax.Array:
        hidden = model.hidden(jnp.where(valid, rows, padding), jnp.asarray(LENGTHS))
        return jnp.sum(jnp.where(valid[..., None], hidden, 0) ** 3)

    gradients = [jax.tree.leaves(gradient(model, padding)) for padding in (0, VOCABULARY - 1)]
    assert all(np.isfinite(leaf).all() for leaf in gradients[0])
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_are_arguments_of_the_jitted_program_not_constants_in_it(model):
    text = FORWARD.lower(model, tokens(), LENGTHS, None).as_text()
    assert f"tensor<{VOCABULARY}x32xf32>" in text.split("{", 1)[1].split(") ->")[0], "the embedding is an argument"
    assert not [line for line in text.splitlines() if "constant dense" in line and f"{VOCABULARY}x" in line]


def test_rematerialisation_changes_no_gradient(model):
    adapter = init_adapter(model.config, 2, 4, "q_proj,down_proj", jax.random.key(1))
    adapter = adapter.replace_weights(jax.tree.map(lambda leaf: leaf + 0.1, adapter.weights))

    def loss(weights: dict, policy: str) -> jax.Array:
        hidden = model.hidden(tokens(), LENGTHS, adapter.replace_weights(weights), remat=policy)
        return jnp.mean(model.unembed(hidden) ** 2)

    def gradients(weights: dict) -> dict[str, dict]:
        return {policy: jax.grad(loss)(weights, policy) for policy in REMAT_POLICIES}

    found = jax.jit(gradients, compiler_options=QUICK)(adapter.weights)
    for policy in REMAT_POLICIES:
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7),
            found[policy],
            found["none"],
        )


def test_no_product_is_done_twice_where_their_results_are_kept(model):
    adapter = init_adapter(model.config, 2, 4, "q_proj,down_proj", jax.random.key(1))

    def products(policy: str) -> int:
        def loss(weights: dict) -> jax.Array:
            return model.hidden(tokens(), LENGTHS, adapter.replace_weights(weights), remat=policy).sum()

        lowered = jax.jit(jax.grad(loss)).lower(adapter.weights).as_text()
        return lowered.count("stablehlo.dot_general")

    assert products("dots") == products("none") < products("attention") < products("full")


def test_sixteen_bit_weights_give_float32_logits_near_the_float32_model(model):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    logits = FORWARD(half, tokens(), LENGTHS, None)
    valid = np.arange(logits.shape[1]) < np.asarray(LENGTHS)[:, None]
    exact = np.asarray(FORWARD(model, tokens(), LENGTHS, None))[valid]
    assert half.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    assert np.linalg.norm(np.asarray(logits)[valid] - exact) < 0.03 * np.linalg.norm(exact)
