"""Logits → tokens: temperature, top-k, top-p and min-p, drawn exactly and without sorting the vocabulary.

The filters act in the order of transformers' logits warpers: temperature; the tokens that a constraint allows, where
there is one; top-k; top-p over the distribution renormalised after top-k; min-p. All of them are traced, one value for
each row, so changing them compiles nothing.

There are two ways to draw, and both use one kind of noise, an exponential race: with ``E_i`` independent Exp(1), the
index that minimises ``E_i / w_i`` is ``i`` with probability ``w_i / Σw`` (Efraimidis & Spirakis 2006, the Gumbel-max
trick without its logarithms).

* **top-k on**: ``lax.top_k`` gives the candidates in order, the filters cut that list, one race decides.
* **top-k off**: a race among blocks of the vocabulary, then a race inside the block: 1.3k random numbers for a
  vocabulary of 152k, where one number for each token would cost more than the layers of a small model. Top-p is by
  rejection: a token belongs to the nucleus if and only if the probability strictly above it is less than top_p, which
  one sum decides. A token outside is dropped with all those below it, and the draw is repeated. An accepted token is
  distributed as the nucleus is, exactly (Xing et al., "Sorting-Free GPU Kernels for LLM Sampling", 2025).

Exactness: sums are float32, so a boundary that top_p meets within about 1e-6 may fall to either side. Tokens with equal
logits at the boundary of top-p are kept together when top-k is off, and cut in the vocabulary's order when it is on.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

BLOCK = 128
SMALLEST_TOP_K_BOUND = 64


def top_k_bound(top_k: int, vocab_size: int) -> int:
    """The static number of candidates to look at where no row's top-k is above ``top_k``: a power of two.

    A few bounds serve every top_k, off among them, so that a new value seldom compiles a new program.
    """
    bound = SMALLEST_TOP_K_BOUND
    while bound < top_k:
        bound *= 2
    return min(bound, vocab_size)


def sample_tokens(
    logits: Float[Array, "B V"],
    keys: Key[Array, "B"],
    temperature: Float[Array, "B"],
    top_k: Int[Array, "B"],
    top_p: Float[Array, "B"],
    min_p: Float[Array, "B"],
    *,
    bound: int,
    allowed: UInt32[Array, "B M"] | None = None,
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """One token for each row, and its log-probability before the filters.

    Args:
        logits: float32.
        keys: the row's noise for this position and no other.
        temperature: 0 takes the most probable token, the first on a tie, whatever the filters say.
        top_k: at most ``bound``; 0 is off.
        top_p: in (0, 1]; 1 is off.
        min_p: in [0, 1); tokens below ``min_p`` times the highest probability are left out; 0 is off.
        bound: ``top_k_bound`` of the largest top_k.
        allowed: which tokens may be drawn, at least one in each row: bit ``t % 32`` of word ``t // 32`` stands for
            token ``t``. A filter before the others: they act on what it leaves, renormalised.

    Returns:
        tokens, and ``log_softmax(logits / temperature)`` at them in nats (at temperature 0 that of temperature 1).
    """
    greedy = temperature == 0.0
    scaled = logits / jnp.where(greedy, 1.0, temperature)[:, None]
    if allowed is not None:
        return _sample_allowed(scaled, keys, temperature, top_k, top_p, min_p, bound, allowed)
    peak = scaled.max(axis=-1, keepdims=True)
    blocks = _weights_in_blocks(scaled - peak)
    block_mass = blocks.sum(axis=-1)
    total = block_mass.sum(axis=-1)

    # Each row is drawn in the way of its own settings, whatever its company; a way that no row takes is left out.
    limited = top_k > 0
    among = partial(_draw_among_candidates, scaled, keys, top_k, top_p, min_p, bound)
    anywhere_top_p = jnp.where(greedy | limited, 1.0, top_p)
    anywhere = partial(_draw_by_rejection, blocks, block_mass, total, keys, anywhere_top_p, min_p)
    nothing = partial(jnp.zeros, top_k.shape, jnp.int32)
    drawn = jnp.where(
        limited,
        jax.lax.cond((limited & ~greedy).any(), among, nothing),
        jax.lax.cond((~limited & ~greedy).any(), anywhere, nothing),
    )
    # An argmax reduces value and index together, which XLA does not vectorise on CPU: only where it is asked for.
    tokens = jax.lax.cond(
        greedy.any(),
        lambda: jnp.where(greedy, jnp.argmax(logits, axis=-1).astype(jnp.int32), drawn),
        lambda: drawn,
    )
    chosen = jnp.take_along_axis(scaled - peak, tokens[:, None], axis=-1)[:, 0]
    return tokens, chosen - jnp.log(total)


def _sample_allowed(
    scaled: Float[Array, "B V"],
    keys: Key[Array, "B"],
    temperature: Float[Array, "B"],
    top_k: Int[Array, "B"],
    top_p: Float[Array, "B"],
    min_p: Float[Array, "B"],
    bound: int,
    allowed: UInt32[Array, "B M"],
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """Draw from the allowed tokens; the log-probability is still that among all of them."""
    vocab_size = scaled.shape[-1]
    bits = (allowed[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    kept = bits.reshape(len(allowed), -1)[:, :vocab_size] == 1
    # Scaled already: temperature 1, or 0 where the most probable token is to be taken.
    rest = jnp.where(temperature == 0.0, 0.0, 1.0)
    tokens, _ = sample_tokens(jnp.where(kept, scaled, -jnp.inf), keys, rest, top_k, top_p, min_p, bound=bound)
    # A row of NaNs draws anything; even then it is an allowed token, and its log-probability shows the NaN.
    fits = jnp.take_along_axis(kept, tokens[:, None], axis=-1)[:, 0]
    tokens = jnp.where(fits, tokens, jnp.argmax(kept, axis=-1).astype(jnp.int32))
    return tokens, jnp.take_along_axis(jax.nn.log_softmax(scaled), tokens[:, None], axis=-1)[:, 0]


def _weights_in_blocks(shifted: Float[Array, "B V"]) -> Float[Array, "B N W"]:
    """Probabilities up to a factor, each row's highest being 1; the vocabulary padded with zeros to whole blocks."""
    batch, vocab_size = shifted.shape
    padding = -vocab_size % BLOCK
    weights = jnp.pad(jnp.exp(shifted), ((0, 0), (0, padding)))
    return weights.reshape(batch, -1, BLOCK)


def _draw_among_candidates(
    scaled: Float[Array, "B V"],
    keys: Key[Array, "B"],
    top_k: Int[Array, "B"],
    top_p: Float[Array, "B"],
    min_p: Float[Array, "B"],
    bound: int,
) -> Int[Array, "B"]:
    values, indices = _top_candidates(scaled, bound)
    weights = jnp.exp(values - values[:, :1])
    weights = jnp.where(jnp.arange(bound) < top_k[:, None], weights, 0.0)
    # A running sum, as a product with a triangle: XLA's cumsum on CPU works its operand out anew in every window.
    mass_above = jnp.matmul(weights, jnp.triu(jnp.ones((bound, bound)), k=1), precision=jax.lax.Precision.HIGHEST)
    kept = (mass_above < top_p[:, None] * weights.sum(axis=-1, keepdims=True)) & (weights >= min_p[:, None])
    # The first candidate always stays: rounding in the sums must never leave a row empty.
    kept = kept.at[:, 0].set(True)
    # Noise belongs to the token and not to its rank, so that rounding which swaps two neighbours changes nothing.
    bits = jax.vmap(jax.vmap(_bits_of_token, in_axes=(None, 0)))(keys, indices)
    winner = _race(jnp.where(kept, weights, 0.0), bits)
    return jnp.take_along_axis(indices, winner[:, None], axis=-1)[:, 0]


def _top_candidates(scores: Float[Array, "B V"], count: int) -> tuple[Float[Array, "B C"], Int[Array, "B C"]]:
    """`jax.lax.top_k`, whose time grows with what it looks through, after most scores were left out.

    The `count` largest scores lie in the `count` blocks of the largest maxima: of any other block, each score has
    `count` before it. With the blocks in their own order equal scores stay in the vocabulary's.
    """
    batch, width = scores.shape
    size = next((size for size in (BLOCK, BLOCK // 8) if width > 2 * count * size), None)
    if size is None:
        return jax.lax.top_k(scores, count)
    padded = jnp.pad(scores, ((0, 0), (0, -width % size)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch, -1, size)
    _, chosen = _top_candidates(blocks.max(axis=-1), count)
    chosen = jnp.sort(chosen, axis=-1)
    inside = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1).reshape(batch, -1)
    values, places = _top_candidates(inside, count)
    return values, jnp.take_along_axis(chosen, places // size, axis=-1) * size + places % size


def _draw_by_rejection(
    blocks: Float[Array, "B N W"],
    block_mass: Float[Array, "B N"],
    total: Float[Array, "B"],
    keys: Key[Array, "B"],
    top_p: Float[Array, "B"],
    min_p: Float[Array, "B"],
) -> Int[Array, "B"]:
    nucleus = top_p < 1.0

    def mass_strictly_above(weight: Float[Array, "B"]) -> Float[Array, "B"]:
        return jnp.where(blocks > weight[:, None, None], blocks, 0.0).sum(axis=(1, 2))

    def attempt(carry):
        number, tokens, accepted, rejected = carry
        # Weights at or below a rejected one are outside the nucleus for certain.
        eligible = partial(_eligible, min_p=min_p, rejected=rejected)
        mass = jax.lax.cond(
            (min_p > 0.0).any() | (number > 0), lambda: eligible(blocks).sum(axis=-1), lambda: block_mass
        )
        bits = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, number), (mass.shape[1] + BLOCK,)))(keys)
        block = _race(mass, bits[:, BLOCK:])
        inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)
        winner = _race(eligible(inside)[:, 0], bits[:, :BLOCK])
        weight = jnp.take_along_axis(inside[:, 0], winner[:, None], axis=-1)[:, 0]
        above = jax.lax.cond(nucleus.any(), mass_strictly_above, jnp.zeros_like, weight)
        # Said as "not outside", so that a row of NaNs ends here and shows in its log-probability.
        inside_nucleus = ~nucleus | ~(above >= top_p * total)
        tokens = jnp.where(accepted, tokens, block * BLOCK + winner)
        return number + 1, tokens, accepted | inside_nucleus, jnp.where(accepted, rejected, weight)

    def unfinished(carry) -> Bool[Array, ""]:
        return ~carry[2].all()

    rows = total.shape
    start = (0, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool), jnp.zeros(rows, jnp.float32))
    return jax.lax.while_loop(unfinished, attempt, start)[1]


def _eligible(
    weights: Float[Array, "B N W"], min_p: Float[Array, "B"], rejected: Float[Array, "B"]
) -> Float[Array, "B N W"]:
    kept = (weights >= min_p[:, None, None]) & (weights > rejected[:, None, None])
    return jnp.where(kept, weights, 0.0)


def _race(weights: Float[Array, "B N"], bits: UInt32[Array, "B N"]) -> Int[Array, "B"]:
    """Index ``i`` of each row with probability ``weights[i] / Σ weights``; never one whose weight is 0."""
    # The uniform keeps its precision near 0, where the smallest exponentials, the ones that win, come from.
    uniform = jnp.minimum((bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1.0 - 2.0**-24)
    arrival = -jnp.log1p(-uniform) / weights
    return jnp.argmin(arrival, axis=-1).astype(jnp.int32)


def _bits_of_token(key: Key[Array, ""], token: Int[Array, ""]) -> UInt32[Array, ""]:
    return jax.random.key_data(jax.random.fold_in(key, token))[0]
