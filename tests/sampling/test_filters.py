"""Drawing tokens: exact distributions, HF's order of the filters, independence of a row from its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from aflow_jax.sampling.filters import _top_candidates, sample_tokens, top_k_bound

VOCABULARY = 300  # more than two blocks, and not a whole number of them
DRAWS = 100_000


def random_logits(seed: int = 0, vocabulary: int = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=2.0, size=vocabulary).astype(np.float32)


def exact_distribution(logits, temperature, top_k, top_p, min_p) -> np.ndarray:
    """Float64, by sorting: temperature, top-k, top-p of what is left, min-p, each renormalised."""
    scaled = logits.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    order = np.argsort(-probabilities, kind="stable")
    if top_k:
        probabilities[order[top_k:]] = 0.0
    probabilities /= probabilities.sum()
    above = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[above >= top_p]] = 0.0
    probabilities[probabilities < min_p * probabilities.max()] = 0.0
    return probabilities / probabilities.sum()


def draw(logits, seeds, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, allowed=None):
    """One draw of the same distribution for each seed, all settings traced; `allowed` is a boolean for each token."""
    rows = len(seeds)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    return _sample(
        jnp.broadcast_to(logits, (rows, len(logits))),
        keys,
        jnp.full(rows, temperature, jnp.float32),
        jnp.full(rows, top_k, jnp.int32),
        jnp.full(rows, top_p, jnp.float32),
        jnp.full(rows, min_p, jnp.float32),
        bound=top_k_bound(top_k, len(logits)),
        allowed=None if allowed is None else jnp.broadcast_to(packed(allowed), (rows, -(-len(allowed) // 32))),
    )


def packed(allowed) -> np.ndarray:
    """Return a boolean for each token as bits of 32-bit words, the first token lowest."""
    words = np.zeros(-(-len(allowed) // 32), np.uint32)
    for token in np.flatnonzero(allowed):
        words[token // 32] |= np.uint32(1) << np.uint32(token % 32)
    return words


_sample = jax.jit(sample_tokens, static_argnames="bound")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"top_p": 0.8},
        {"temperature": 1.5, "top_p": 0.95, "min_p": 0.01},
        {"temperature": 1.3, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 2.0, "top_k": 200, "top_p": 0.5},
    ],
    ids=str,
)
def test_draws_follow_the_exact_distribution(settings):
    logits = random_logits()
    expected = exact_distribution(logits, **({"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings))
    counts = np.zeros(VOCABULARY)
    for start in range(0, DRAWS, 20_000):
        tokens, _ = draw(logits, np.arange(start, start + 20_000), **settings)
        counts += np.bincount(tokens, minlength=VOCABULARY)

    assert counts[expected == 0].sum() == 0, "a token outside the filters was drawn"
    common = expected * DRAWS >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * DRAWS
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


ALLOWED = np.random.default_rng(8).random(VOCABULARY) < 0.3


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 1.5, "top_p": 0.8, "min_p": 0.02}, {"temperature": 1.3, "top_k": 30, "top_p": 0.9}],
    ids=str,
)
def test_draws_among_allowed_tokens_follow_the_renormalised_distribution(settings):
    logits = random_logits()
    # What is likeliest is forbidden, and all that is allowed is far below it.
    logits[~ALLOWED] += 30.0
    masked = np.where(ALLOWED, logits, -np.inf)
    expected = exact_distribution(masked, **({"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings))
    counts = np.zeros(VOCABULARY)
    for start in range(0, DRAWS, 20_000):
        tokens, _ = draw(logits, np.arange(start, start + 20_000), allowed=ALLOWED, **settings)
        counts += np.bincount(tokens, minlength=VOCABULARY)
    assert counts[expected == 0].sum() == 0, "a token that is not allowed, or outside the filters, was drawn"
    common = expected * DRAWS >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * DRAWS
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_log_probabilities_of_allowed_tokens_are_those_among_all_tokens(temperature):
    logits = random_logits()
    logits[~ALLOWED] += 5.0
    tokens, logprobs = draw(logits, np.arange(50), temperature=temperature, top_p=0.9, allowed=ALLOWED)
    if temperature == 0.0:
        assert set(np.asarray(tokens)) == {int(np.where(ALLOWED, logits, -np.inf).argmax())}
    scaled = logits.astype(np.float64) / (temperature or 1.0)
    expected = scaled - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())
    np.testing.assert_allclose(logprobs, expected[np.asarray(tokens)], atol=1e-5)


def test_a_row_of_nans_still_draws_an_allowed_token():
    allowed = np.arange(200) == 170
    tokens, logprobs = draw(np.full(200, np.nan, np.float32), np.arange(2), allowed=allowed)
    assert set(np.asarray(tokens)) == {170}
    assert np.isnan(logprobs).all()


def test_the_filters_keep_the_tokens_that_transformers_keeps():
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = random_logits(seed=3)
    for temperature, top_k, top_p, min_p in [
        (0.7, 50, 0.9, 0.0),
        (1.0, 0, 0.7, 0.0),
        (1.4, 30, 0.95, 0.1),
        (1, 0, 1, 0.2),
    ]:
        scores = torch.tensor(logits)[None] / temperature
        if top_k:
            scores = warpers.TopKLogitsWarper(top_k)(None, scores)
        if top_p < 1:
            scores = warpers.TopPLogitsWarper(top_p)(None, scores)
        if min_p > 0:
            scores = warpers.MinPLogitsWarper(min_p)(None, scores)
        theirs = torch.softmax(scores[0].double(), -1).numpy()
        np.testing.assert_allclose(exact_distribution(logits, temperature, top_k, top_p, min_p), theirs, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"top_k": 20, "top_p": 0.9}, {"top_p": 0.6, "min_p": 0.1}], ids=str)
def test_log_probabilities_are_those_before_the_filters(settings):
    logits = random_logits()
    tokens, logprobs = draw(logits, np.arange(50), temperature=0.7, **settings)
    scaled = logits.astype(np.float64) / 0.7
    expected = scaled - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())
    np.testing.assert_allclose(logprobs, expected[np.asarray(tokens)], atol=1e-5)


@pytest.mark.parametrize("top_k", [0, 5])
def test_temperature_zero_is_the_argmax_under_temperature_one(top_k):
    logits = random_logits()
    logits[7] = logits[200] = logits.max() + 1.0
    tokens, logprobs = draw(logits, np.arange(20), temperature=0.0, top_k=top_k, top_p=0.3)
    assert set(np.asarray(tokens)) == {7}
    np.testing.assert_allclose(logprobs, jax.nn.log_softmax(logits)[7], atol=1e-5)


def test_a_row_draws_the_same_token_whatever_its_company():
    """Rows differ in logits and in every setting, top-k on or off; some need more than one attempt of top-p."""
    generator = np.random.default_rng(1)
    rows = 40
    logits = generator.normal(scale=2.0, size=(rows, VOCABULARY)).astype(np.float32)
    keys = jax.vmap(jax.random.key)(jnp.arange(rows))
    temperature = generator.choice([0.0, 0.5, 1.0, 2.0], rows).astype(np.float32)
    top_p = generator.choice([0.2, 0.6, 1.0], rows).astype(np.float32)
    min_p = generator.choice([0.0, 0.05], rows).astype(np.float32)
    top_k = generator.choice([0, 0, 1, 20, 59], rows).astype(np.int32)
    arguments = (logits, keys, temperature, top_k, top_p, min_p)
    together, _ = _sample(*arguments, bound=64)
    shuffled = generator.permutation(rows)
    alone = [_sample(*(argument[row : row + 1] for argument in arguments), bound=64)[0][0] for row in range(rows)]
    reordered, _ = _sample(*(argument[shuffled] for argument in arguments), bound=128)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(np.asarray(together)[shuffled], reordered)


def test_a_very_small_nucleus_is_the_most_probable_token():
    logits = random_logits()
    tokens, _ = draw(logits, np.arange(200), temperature=3.0, top_p=1e-6)
    assert set(np.asarray(tokens)) == {int(logits.argmax())}


def test_tokens_of_equal_probability_at_the_boundary_of_top_p_stay_together():
    logits = np.full(10, -20.0, np.float32)
    logits[[2, 4, 6]] = 0.0
    tokens, _ = draw(logits, np.arange(300), top_p=0.1)
    assert set(np.asarray(tokens)) == {2, 4, 6}


def test_a_row_of_nans_ends_and_shows():
    tokens, logprobs = draw(np.full(200, np.nan, np.float32), np.arange(2), top_p=0.5)
    assert tokens.shape == (2,)
    assert np.isnan(logprobs).all()


@pytest.mark.parametrize("width", [300, 5000, 20_001])
def test_candidates_are_those_of_a_search_through_all_also_among_equals(width):
    scores = np.random.default_rng(0).integers(0, 40, (3, width)).astype(np.float32)
    scores[1] = np.random.default_rng(1).normal(size=width)
    for ours, theirs in zip(_top_candidates(scores, 64), jax.lax.top_k(scores, 64), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_few_bounds_serve_every_top_k():
    assert {top_k_bound(k, 151_936) for k in range(513)} == {64, 128, 256, 512}
    assert top_k_bound(5000, 300) == 300
