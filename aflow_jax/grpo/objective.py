"""The objective of GRPO and its relatives: a pure function of log-probabilities, advantages and a mask.

Whatever stands where the mask is 0 (padding, NaN, infinity) is replaced before the arithmetic, so that it changes
neither the value nor the gradient. A sequence whose mask is all 0 is not there: it counts in no denominator.
"""

import math
from functools import reduce
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LossType = Literal["grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo"]
KLEstimator = Literal["k1", "k2", "k3"]

# exp(±20) is far outside every clip range, and its square still fits float32: a wild ratio cannot become infinite.
_LARGEST_LOG_RATIO = 20.0


class LossSums(NamedTuple):
    """What microbatches add up: `loss / normalizer` of the sum over microbatches is the whole batch's loss.

    `totals` are sums over live tokens or sequences, `maxima` are maxima over them, each under the name of the metric
    that `loss_metrics` makes of it; `tokens` and `units` count what the sums are over.
    """

    loss: Float[Array, ""]
    normalizer: Float[Array, ""]
    totals: dict[str, Float[Array, ""]]
    maxima: dict[str, Float[Array, ""]]


def policy_loss(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"] | None,
    ref_logprobs: Float[Array, "B T"] | None,
    advantages: Float[Array, "B"],
    mask: Bool[Array, "B T"],
    **options,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a whole batch and its metrics; arguments and options are those of `policy_loss_sums`.

    A batch without a live token has the loss 0.
    """
    sums = policy_loss_sums(logprobs, old_logprobs, ref_logprobs, advantages, mask, **options)
    return _ratio(sums.loss, sums.normalizer), loss_metrics(sums)


def policy_loss_sums(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"] | None,
    ref_logprobs: Float[Array, "B T"] | None,
    advantages: Float[Array, "B"],
    mask: Bool[Array, "B T"],
    *,
    loss_type: LossType = "grpo",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coef: float = 0.005,
    kl_estimator: KLEstimator = "k3",
    kl_bias_correction: bool = False,
    dual_clip: float | None = None,
    importance_weights: Float[Array, "B T"] | Float[Array, "B 1"] | None = None,
    entropies: Float[Array, "B T"] | None = None,
    entropy_coef: float = 0.0,
    max_completion_length: int | None = None,
) -> LossSums:
    """Numerators and denominators of the loss over one (micro)batch.

    Each live token costs `w · policy + kl_coef · kl − entropy_coef · entropy`, with `ρ = exp(logp − logp_old)`, A the
    sequence's advantage and w its importance weight (1 when none are given; no gradient goes through it):

    =========  =========================================================  ===================================
    loss_type  policy term of a token                                     the batch's loss is
    =========  =========================================================  ===================================
    grpo       −min(ρA, clip(ρ, 1 − clip_low, 1 + clip_high)A)            mean over sequences of token means
    dapo       as grpo (arXiv:2503.14476)                                 mean over the batch's tokens
    bnpo       as grpo                                                    mean over the batch's tokens; TRL's is
                                                                          the microbatch's, so it equals dapo here
    dr_grpo    as grpo (arXiv:2503.20783)                                 sum / (sequences · max_completion_length)
    gspo       as grpo with ρ = exp(mean over the sequence of             mean over sequences of token means
               logp − logp_old) (arXiv:2507.18071, Eq. 5 and 7)
    cispo      −stop_gradient(clip(ρ, 1 − clip_low, 1 + clip_high))·A·logp    mean over the batch's tokens
               (arXiv:2506.13585, Eq. 4 and 5)
    =========  =========================================================  ===================================

    `old_logprobs=None` stands for the current policy: ρ is exactly 1 and still carries the gradient. `ref_logprobs`
    may be None when `kl_coef` is 0. `dual_clip` c > 1 + clip_high keeps the term of a negative advantage from going
    above −c·A (arXiv:1912.09729, Eq. 5; TRL's `delta`). `max_completion_length` is dr_grpo's constant, T when not
    given. For the KL estimators and their gradients see `kl_penalty`. `kl_bias_correction` multiplies the estimate by
    ρ, gradient included (DeepSeek-V3.2, arXiv:2512.02556): then k1 and k3 are unbiased whichever policy sampled, and
    their gradient is the unbiased one of KL(policy ‖ reference), at ρ = 1 too; not so under gspo, whose ρ is the
    sequence's. Log-probabilities are in nats; ρ is computed from a difference held within ±20, and outside it has no
    gradient. Raises ValueError for an unknown name or a combination that means nothing.

    Beside TRL's GRPOTrainer: it corrects the KL term's bias unless told otherwise, and knows k3 alone; its cispo has
    no lower clip (here: `clip_low=1`) and its `epsilon_high` is the bound itself, 1 + clip_high; its entropy bonus is
    a mean over tokens under every loss_type, here it is averaged like the rest of a token's cost; a sequence that is
    masked out whole still counts in its means over sequences, here nowhere.
    """
    _check_options(loss_type, clip_high, kl_coef, ref_logprobs, dual_clip, entropy_coef, entropies)
    live = jnp.asarray(mask).astype(bool)
    sequences = live.any(axis=1, keepdims=True)
    logprobs = _live(logprobs, live)
    old_logprobs = jax.lax.stop_gradient(logprobs) if old_logprobs is None else _live(old_logprobs, live)
    advantages = _live(jnp.asarray(advantages)[:, None], sequences)

    ratio = _policy_ratio(logprobs - old_logprobs, live, loss_type)
    term, low, high = _policy_term(ratio, logprobs, advantages, loss_type, clip_low, clip_high, dual_clip)
    if importance_weights is not None:
        term = term * jax.lax.stop_gradient(_live(importance_weights, live))

    # The units of the ratio: sequences under gspo, else tokens.
    units = sequences if loss_type == "gspo" else live
    totals = {
        "tokens": live.sum(),
        "units": units.sum(),
        "ratio/mean": jnp.where(units, ratio, 0).sum(),
        "clip_ratio/low_mean": (units & low).sum(),
        "clip_ratio/high_mean": (units & high).sum(),
    }
    if ref_logprobs is not None:
        kl = kl_penalty(logprobs, _live(ref_logprobs, live), kl_estimator) * (ratio if kl_bias_correction else 1)
        kl = jnp.where(live, kl, 0)
        term = term + kl_coef * kl
        totals["kl"] = kl.sum()
    if entropies is not None:
        entropies = _live(entropies, live)
        term = term - entropy_coef * entropies
        totals["entropy"] = entropies.sum()

    loss, normalizer = _aggregate(term, live, loss_type, max_completion_length)
    maxima = {"ratio/max": jnp.where(units, ratio, -jnp.inf).max(initial=-jnp.inf)}
    dtype = logprobs.dtype
    return LossSums(
        loss, normalizer.astype(dtype), {name: total.astype(dtype) for name, total in totals.items()}, maxima
    )


def kl_penalty(
    logprobs: Float[Array, "B T"], ref_logprobs: Float[Array, "B T"], estimator: KLEstimator = "k3"
) -> Float[Array, "B T"]:
    """Estimate KL(policy ‖ reference) token by token, in nats, from tokens the policy sampled.

    With d = logp − logp_ref (Schulman, "Approximating KL divergence", 2020) the value and, as a loss, its gradient
    (arXiv:2506.09477; what a token does to the divergence of later ones is in none of them):

    - k1 = d, unbiased. Its gradient is ∇logp, of mean 0 on the policy's own samples: as a loss it adds noise and
      pulls nowhere.
    - k2 = d²/2, biased. Its gradient d·∇logp is the unbiased gradient of KL(policy ‖ reference).
    - k3 = exp(−d) − 1 + d, unbiased and never negative. Its gradient (1 − exp(−d))·∇logp is the unbiased gradient of
      the other divergence, KL(reference ‖ policy); the two agree to first order in d. Below d = −20 its value is held
      and its gradient 0, so that one wild token stays finite.

    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    if estimator == "k3":
        held = jnp.maximum(difference, -_LARGEST_LOG_RATIO)
        return jnp.expm1(-held) + held
    raise ValueError(f"kl_estimator must be k1, k2 or k3, not {estimator!r}")


def truncated_importance_weights(
    logprobs: Float[Array, "B T"],
    sampler_logprobs: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    cap: float = 2.0,
    level: Literal["token", "sequence", "geometric"] = "token",
    ratio_included: bool = False,
) -> Float[Array, "B T"] | Float[Array, "B 1"]:
    """Truncated importance sampling: `min(r, cap)` with `r = p / p_sampler` of each token, or each sequence ([B, 1]).

    A sequence's r is the product of its tokens' (Ionides 2008; Espeholt et al., arXiv:1802.01561, Eq. 1), under
    `geometric` their geometric mean, which is gspo's own ratio. Where the loss takes its ratio against the sampler
    (`old_logprobs` are the sampler's) that ratio already is r; then `ratio_included` gives `min(1, cap / r)`, with
    which the product of both is truncated, and r not counted twice. No gradient goes through the weights. TRL's
    `token_truncate` and `sequence_truncate` are `min(r, cap)`.
    """
    live = jnp.asarray(mask).astype(bool)
    log_ratio = _live(logprobs, live) - _live(sampler_logprobs, live)
    if level == "sequence":
        log_ratio = log_ratio.sum(axis=1, keepdims=True)
    elif level == "geometric":
        log_ratio = _sequence_mean(log_ratio, live)
    elif level != "token":
        raise ValueError(f"level must be token, sequence or geometric, not {level!r}")
    excess = jnp.minimum(math.log(cap) - log_ratio, 0.0)
    return jax.lax.stop_gradient(_bounded_exp(excess if ratio_included else log_ratio + excess))


def combine_sums(parts: list[LossSums]) -> LossSums:
    """The sums of a batch from those of its parts."""

    def combine(a: LossSums, b: LossSums) -> LossSums:
        totals, maxima = jax.tree.map(jnp.add, a.totals, b.totals), jax.tree.map(jnp.maximum, a.maxima, b.maxima)
        return LossSums(a.loss + b.loss, a.normalizer + b.normalizer, totals, maxima)

    return reduce(combine, parts)


def loss_metrics(sums: LossSums) -> dict[str, Float[Array, ""]]:
    """Metrics from sums, under the names of TRL: means over live tokens.

    `ratio/*` and `clip_ratio/*` (the share whose ratio the objective clips) are over sequences under gspo. What was
    not computed is left out. Without a live token every number is 0.
    """
    totals = sums.totals
    metrics = {"loss": _ratio(sums.loss, sums.normalizer)}
    for name, total in totals.items():
        if name not in ("tokens", "units"):
            metrics[name] = _ratio(total, totals["tokens" if name in ("kl", "entropy") else "units"])
    for name, maximum in sums.maxima.items():
        metrics[name] = jnp.where(totals["units"] > 0, maximum, 0.0)
    return metrics


def _check_options(loss_type, clip_high, kl_coef, ref_logprobs, dual_clip, entropy_coef, entropies) -> None:
    if loss_type not in ("grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo"):
        raise ValueError(f"loss_type must be grpo, dapo, bnpo, dr_grpo, gspo or cispo, not {loss_type!r}")
    if kl_coef and ref_logprobs is None:
        raise ValueError(f"kl_coef is {kl_coef} but there are no ref_logprobs")
    if entropy_coef and entropies is None:
        raise ValueError(f"entropy_coef is {entropy_coef} but there are no entropies")
    if dual_clip is not None and (dual_clip <= 1 + clip_high or loss_type == "cispo"):
        raise ValueError(
            f"dual_clip {dual_clip} must be above 1 + clip_high, and has no meaning in cispo ({loss_type})"
        )


def _live(values: Array, live: Bool[Array, "B T"]) -> Array:
    """The values in float32 or wider, with 0 where the mask is 0."""
    values = jnp.asarray(values)
    return jnp.where(live, values.astype(jnp.promote_types(values.dtype, jnp.float32)), 0)


def _policy_ratio(log_ratio: Float[Array, "B T"], live: Bool[Array, "B T"], loss_type: LossType) -> Array:
    """ρ of each token [B, T]; under gspo that of each sequence, [B, 1]."""
    return _bounded_exp(_sequence_mean(log_ratio, live) if loss_type == "gspo" else log_ratio)


def _sequence_mean(values: Float[Array, "B T"], live: Bool[Array, "B T"]) -> Float[Array, "B 1"]:
    """The mean over a sequence's live tokens of values that are 0 elsewhere."""
    return values.sum(axis=1, keepdims=True) / jnp.maximum(live.sum(axis=1, keepdims=True), 1)


def _policy_term(ratio, logprobs, advantages, loss_type, clip_low, clip_high, dual_clip) -> tuple[Array, Array, Array]:
    """The policy term, and where the objective clips the ratio from below and from above."""
    low, high = ratio < 1 - clip_low, ratio > 1 + clip_high
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    if loss_type == "cispo":
        return -jax.lax.stop_gradient(clipped) * advantages * logprobs, low, high
    surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        surrogate = jnp.where(advantages < 0, jnp.maximum(surrogate, dual_clip * advantages), surrogate)
    return -surrogate, low & (advantages < 0), high & (advantages > 0)


def _aggregate(
    term: Float[Array, "B T"], live: Bool[Array, "B T"], loss_type: LossType, max_completion_length: int | None
) -> tuple[Float[Array, ""], Array]:
    term = jnp.where(live, term, 0)
    lengths = live.sum(axis=1)
    if loss_type in ("grpo", "gspo"):
        return (term.sum(axis=1) / jnp.maximum(lengths, 1)).sum(), (lengths > 0).sum()
    if loss_type == "dr_grpo":
        return term.sum(), (lengths > 0).sum() * (max_completion_length or live.shape[1])
    return term.sum(), lengths.sum()


def _bounded_exp(difference: Array) -> Array:
    return jnp.exp(jnp.clip(difference, -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO))


def _ratio(numerator: Float[Array, ""], count: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(count > 0, numerator / jnp.where(count > 0, count, 1), 0.0)
