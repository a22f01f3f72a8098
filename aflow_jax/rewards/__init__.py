"""From an answer to a grade: extraction, the rules of each domain, the judge, the reward, the features of a group."""

from aflow_jax.rewards.code_rules import try_reference
from aflow_jax.rewards.extract import extract_answer
from aflow_jax.rewards.faults import GradingUnavailable, JudgeUnavailable
from aflow_jax.rewards.features import FEATURES, workflow_features
from aflow_jax.rewards.grade import DEFAULT_WEIGHTS, Grade, grade_answer, grade_answer_async
from aflow_jax.rewards.judge import Judge
from aflow_jax.rewards.reward import Grader, grade_rollout

__all__ = [
    "DEFAULT_WEIGHTS",
    "FEATURES",
    "Grade",
    "Grader",
    "GradingUnavailable",
    "Judge",
    "JudgeUnavailable",
    "extract_answer",
    "grade_answer",
    "grade_answer_async",
    "grade_rollout",
    "try_reference",
    "workflow_features",
]
