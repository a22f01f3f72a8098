"""Log-probabilities of tokens over a large vocabulary, without ever holding the logits of all positions.

Logits are made for a chunk of tokens at a time. Each token's outputs depend on its own hidden state alone, so that the
forward pass of a gradient computes the chunk's pullback on the spot, one vector [D] a token, and forgets the logits:
the backward pass is a product with those vectors. The vocabulary is thus projected once, not once more for the
backward pass as rematerialisation would.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from aflow_jax.qwen2 import Adapter, Qwen2
from aflow_jax.qwen2.sharding import interleave_rows, row_shards, uninterleave_rows

# A chunk's logits, float32, take about this many bytes when nobody says otherwise, and fewer where a chunk is large
# enough without them: of a small vocabulary they then stay in the processor's cache.
_CHUNK_BYTES = 256 * 2**20
_CHUNK_TOKENS = 1024


def token_logprobs(
    model: Qwen2,
    adapter: Adapter | None,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"] | None,
    temperature: Float[Array, ""] | float = 1.0,
    *,
    chunk: int | None = None,
    remat: str = "none",
) -> Float[Array, "B T"]:
    """Position t holds log p(tokens[t] | tokens[:t]) in nats, under `log_softmax(logits / temperature)`, float32.

    Position 0, and those at and past a row's length, hold 0. `chunk` is how many tokens have their logits made at
    once, when None so many that they take about 256 MB at most; `remat` is what layers keep for a backward pass.
    """
    hidden = model.hidden(tokens, lengths, adapter, remat=remat)
    logprobs, _ = target_statistics(model, hidden[:, :-1], tokens[:, 1:], temperature, chunk=chunk)
    logprobs = jnp.pad(logprobs, ((0, 0), (1, 0)))
    if lengths is None:
        return logprobs
    return jnp.where(jnp.arange(tokens.shape[1]) < lengths[:, None], logprobs, 0.0)


def target_statistics(
    model: Qwen2,
    hidden: Float[Array, "B W D"],
    targets: Int[Array, "B W"],
    temperature: Float[Array, ""] | float,
    *,
    chunk: int | None = None,
    entropy_gradient: bool = False,
) -> tuple[Float[Array, "B W"], Float[Array, "B W"]]:
    """Log-probability of each target, and entropy of its distribution, from the hidden states that predict them.

    Both in nats, float32, under `log_softmax(unembed(hidden) / temperature)`. Differentiable with respect to `hidden`
    only; through the entropy only if `entropy_gradient`, which costs a second vector a token.
    """
    shards = row_shards(model.rules, targets.shape[0])
    count = targets.size // shards
    chunk = chunk or min(_CHUNK_TOKENS, max(1, _CHUNK_BYTES // (4 * model.config.vocab_size)))
    chunks = -(-targets.size // max(chunk, shards))
    # Chunks of equal size, so that the last one is not mostly padding.
    chunk = -(-count // chunks)

    def cut(values: Shaped[Array, "B W ..."]) -> Shaped[Array, "n C ..."]:
        flat = values.reshape(shards, count, *values.shape[2:])
        flat = jnp.pad(flat, ((0, 0), (0, chunks * chunk - count), *[(0, 0)] * (flat.ndim - 2)))
        return interleave_rows(model.rules, flat, chunks)

    def whole(cut: Float[Array, "n C"]) -> Float[Array, "B W"]:
        return uninterleave_rows(cut, shards)[:, :count].reshape(targets.shape)

    logprobs, entropies = _statistics(model, cut(hidden), cut(targets), jnp.float32(temperature), entropy_gradient)
    return whole(logprobs), whole(entropies)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _statistics(
    model: Qwen2,
    hidden: Float[Array, "n C D"],
    targets: Int[Array, "n C"],
    temperature: Float[Array, ""],
    entropy_gradient: bool,
) -> tuple[Float[Array, "n C"], Float[Array, "n C"]]:
    def one_chunk(at: tuple[Array, Array]) -> tuple[Array, Array]:
        states, chosen = at
        logprobs, entropies, _ = _chunk_statistics(model.unembed(states) / temperature, chosen)
        return logprobs, entropies

    return jax.lax.map(one_chunk, (hidden, targets))


def _statistics_forward(model, hidden, targets, temperature, entropy_gradient):
    def one_chunk(at: tuple[Array, Array]):
        states, chosen = at
        logits, pullback = jax.vjp(model.unembed, states)
        logprobs, entropies, distribution = _chunk_statistics(logits / temperature, chosen)
        slopes = [_logprob_slope(distribution, chosen)]
        if entropy_gradient:
            slopes.append(_entropy_slope(distribution, entropies))
        return (logprobs, entropies), [pullback(slope / temperature)[0] for slope in slopes]

    return jax.lax.map(one_chunk, (hidden, targets))


def _statistics_backward(entropy_gradient, slopes, cotangents):
    gradient = sum(
        slope.astype(jnp.float32) * cotangent[..., None] for slope, cotangent in zip(slopes, cotangents, strict=False)
    )
    return None, gradient.astype(slopes[0].dtype), None, None


_statistics.defvjp(_statistics_forward, _statistics_backward)


def _chunk_statistics(
    logits: Float[Array, "C V"], targets: Int[Array, "C"]
) -> tuple[Float[Array, "C"], Float[Array, "C"], tuple[Array, Array, Array]]:
    """Return log-probabilities, entropies, and the distribution: see `_log_probabilities`.

    No array of all log-probabilities is made: over a large vocabulary every pass costs as much as a layer's products.
    Nor is one of the logits below their largest: XLA on CPUs would make the logits twice for it, by another product.
    """
    largest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)
    logprobs = chosen - largest - jnp.log(total)
    # 0 · -inf would be NaN where a quantised model rules a token out.
    below = jnp.where(weights > 0, weights * (logits - largest), 0.0).sum(axis=-1, keepdims=True)
    entropies = jnp.log(total) - below / total
    normalizer = largest + jnp.log(total)
    lost = largest - normalizer + jnp.log(total)
    return logprobs[:, 0], entropies[:, 0], (logits, normalizer, lost)


def _log_probabilities(distribution: tuple[Array, Array, Array]) -> Float[Array, "C V"]:
    """Return the logits less the logarithm of their exponentials' sum, given as a number and what its rounding lost.

    Beside large logits that would be its last digits.
    """
    logits, normalizer, lost = distribution
    return logits - normalizer - lost


def _logprob_slope(distribution: tuple[Array, Array, Array], targets: Int[Array, "C"]) -> Float[Array, "C V"]:
    """d logprob / d logits = one-hot(target) - p."""
    logprobs = _log_probabilities(distribution)
    chosen = jnp.arange(logprobs.shape[-1]) == targets[:, None]
    return chosen - jnp.exp(logprobs)


def _entropy_slope(distribution: tuple[Array, Array, Array], entropies: Float[Array, "C"]) -> Float[Array, "C V"]:
    """d entropy / d logits = -p · (log p + entropy)."""
    logprobs = _log_probabilities(distribution)
    return jnp.where(logprobs > -jnp.inf, -jnp.exp(logprobs) * (logprobs + entropies[:, None]), 0.0)
