"""From an answer to a grade: extraction, the rules of each domain, the judge, the reward, the features of a group."""

from aflow_jax.rewards.extract import extract_answer
from aflow_jax.rewards.grade import DEFAULT_WEIGHTS, Grade, grade_answer, grade_answer_async

__all__ = ["DEFAULT_WEIGHTS", "Grade", "extract_answer", "grade_answer", "grade_answer_async"]
