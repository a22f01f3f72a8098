"""From grades to a better policy: advantages, the objective, log-probabilities, the learner."""

from aflow_jax.grpo.advantages import group_advantages, reward_statistics, workflow_aware_advantages
from aflow_jax.grpo.batch import Batch
from aflow_jax.grpo.learner import Learner, LearnerState
from aflow_jax.grpo.logprobs import token_logprobs
from aflow_jax.grpo.objective import kl_penalty, policy_loss, truncated_importance_weights
from aflow_jax.grpo.settings import LearnerSettings

__all__ = [
    "Batch",
    "Learner",
    "LearnerSettings",
    "LearnerState",
    "group_advantages",
    "kl_penalty",
    "policy_loss",
    "reward_statistics",
    "token_logprobs",
    "truncated_importance_weights",
    "workflow_aware_advantages",
]
