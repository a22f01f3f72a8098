"""What an update does, in one frozen place."""

import dataclasses
from typing import Literal

import optax
from jaxtyping import Array, Float, Int

from aflow_jax.grpo.objective import KLEstimator, LossType
from aflow_jax.grpo.optimizer import make_optimizer, warmup_cosine


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientSettings:
    """What the gradient of a microbatch depends on: a compiled program for each value.

    Attributes:
      loss_type, clip_low, clip_high, dual_clip, entropy_coef: See `policy_loss_sums`.
      kl_coef, kl_estimator, kl_bias_correction: See `policy_loss_sums`.
      max_completion_length: The constant of dr_grpo, in tokens; needed there only.
      importance_sampling: How ratios against the sampler are truncated: by token, by sequence, or not. gspo's ratio is
        one of the sequence whichever is said, and cispo's clip leaves nothing to truncate.
      importance_cap: What they are truncated to.
      remat: What layers keep for the backward pass, a key of `aflow_jax.qwen2.REMAT_POLICIES`.
      logprob_chunk: Tokens whose logits exist at once; None: about 256 MB worth of them.
    """

    loss_type: LossType = "grpo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 0.005
    kl_estimator: KLEstimator = "k3"
    kl_bias_correction: bool = False
    entropy_coef: float = 0.0
    max_completion_length: int | None = None
    importance_sampling: Literal["token", "sequence", "none"] = "token"
    importance_cap: float = 2.0
    remat: str = "full"
    logprob_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.loss_type == "dr_grpo" and not self.max_completion_length:
            raise ValueError("loss_type dr_grpo needs max_completion_length, the constant it divides by")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerSettings(GradientSettings):
    """What an update does.

    Attributes:
      learning_rate: Peak of the schedule; `warmup_steps` counts optimizer steps, `max_steps` calls of `update`.
      max_grad_norm: Global norm that gradients are clipped to; 0 for no clipping.
      mask_truncated: Whether completions cut by the length limit leave the loss.
      ppo_epochs: Optimizer steps for each batch.
      microbatch_size: Sequences that go through the model at once. It changes memory and time, not the gradient.
      longest_sequence: Tokens of a prompt and a completion at most, if that is known: shorter ones go through the model
        in greater numbers, with as many positions at once.
      seed: Seed of the adapter's dropout.
    """

    learning_rate: float = 2e-5
    max_steps: int = 500
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    mask_truncated: bool = False
    ppo_epochs: int = 1
    microbatch_size: int = 8
    longest_sequence: int = 0
    seed: int = 0

    def schedule(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate of an optimizer step, counted from 0."""
        return warmup_cosine(self.learning_rate, self.warmup_steps, self.max_steps * self.ppo_epochs)(step)

    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.schedule, weight_decay=self.weight_decay, max_grad_norm=self.max_grad_norm)

    def gradient_settings(self) -> GradientSettings:
        """The part that gradients depend on."""
        names = [field.name for field in dataclasses.fields(GradientSettings)]
        return GradientSettings(**{name: getattr(self, name) for name in names})
