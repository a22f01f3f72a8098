"""From the settings of a run to those of its parts: of a process, the learner, workflows."""

from __future__ import annotations

from pathlib import Path

from aflow_jax.config import Config
from aflow_jax.config.sections import RejectionSampling, WarmStart
from aflow_jax.errors import UserError
from aflow_jax.grpo import LearnerSettings
from aflow_jax.processes import Processes
from aflow_jax.workflow import Limits


def for_this_process(config: Config, processes: Processes, scratch: Path) -> Config:
    """Return the settings with which this process works: the first one alone writes the run folder and W&B.

    What another one would write there goes to a folder of its own, `scratch`; the model that the first one makes it
    reads from the run folder.

    Raises:
        UserError: what the settings ask for works in one process only.
    """
    if processes.count > 1:
        for key, wanted in (("async_generation_ratio", 0), ("rejection_sampling", None)):
            if getattr(config, key) not in (wanted, None):
                raise UserError(f"{key}: works in a run of one process: set {key} to {'null' if wanted is None else 0}")
    if processes.is_first:
        return config
    changes = {"run_dir": str(scratch), "wandb": config.wandb.model_copy(update={"enabled": False})}
    if config.create_model:
        changes |= {"create_model": None, "base_model": config.model_source}
    return config.model_copy(update=changes)


def learner_settings(config: Config) -> LearnerSettings:
    """Return how GRPO updates the adapter."""
    rollouts = config.rollout_batch_size * config.num_return_sequences_in_group
    return LearnerSettings(
        learning_rate=config.learning_rate,
        max_steps=max(config.max_steps, 1),
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        loss_type=config.loss_type,
        clip_low=config.clip_range,
        clip_high=config.clip_range_high or config.clip_range,
        dual_clip=config.dual_clip,
        importance_sampling=config.importance_sampling,
        importance_cap=config.importance_cap,
        entropy_coef=config.entropy_coef,
        kl_coef=config.kl_loss_coef,
        kl_estimator=config.kl_estimator,
        kl_bias_correction=config.kl_bias_correction,
        max_completion_length=config.max_new_tokens,
        mask_truncated=config.mask_truncated,
        ppo_epochs=config.ppo_epochs,
        microbatch_size=-(-rollouts // config.gradient_accumulation_steps),
        longest_sequence=config.prompt_max_length + config.max_new_tokens,
        remat=_remat(config),
        seed=config.seed,
    )


def supervised_settings(config: Config, stage: WarmStart | RejectionSampling, steps: int) -> LearnerSettings:
    """Return how a supervised stage of so many steps before GRPO updates the adapter."""
    return LearnerSettings(
        learning_rate=stage.learning_rate,
        max_steps=steps,
        warmup_steps=min(10, steps // 10),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        microbatch_size=-(-stage.batch_size // config.gradient_accumulation_steps),
        longest_sequence=config.prompt_max_length + config.max_new_tokens,
        remat=_remat(config),
        seed=config.seed,
    )


def workflow_limits(config: Config) -> Limits:
    """Return the bounds of a workflow."""
    return Limits(**config.workflow_limits.model_dump())


def _remat(config: Config) -> str:
    """Return the name of the policy, a key of `REMAT_POLICIES`, that the setting means."""
    setting = config.gradient_checkpointing
    return {True: "full", False: "none"}[setting] if isinstance(setting, bool) else setting
