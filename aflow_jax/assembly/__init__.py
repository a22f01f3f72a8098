"""From settings to the parts that commands work with: problems, the executor LLM, the policy."""

from aflow_jax.assembly.parts import ExecutionParts, RunParts, collector_of, executor_of, open_execution, open_parts
from aflow_jax.assembly.policy import Policy, load_policy, planned_rules, policy_prompt, sharding_rules
from aflow_jax.assembly.problems import ProblemSets, load_problem_sets, sound_problems, without_unsound
from aflow_jax.assembly.settings import for_this_process, learner_settings, supervised_settings, workflow_limits

__all__ = [
    "ExecutionParts",
    "Policy",
    "ProblemSets",
    "RunParts",
    "collector_of",
    "executor_of",
    "for_this_process",
    "learner_settings",
    "load_policy",
    "load_problem_sets",
    "open_execution",
    "open_parts",
    "planned_rules",
    "policy_prompt",
    "sharding_rules",
    "sound_problems",
    "supervised_settings",
    "without_unsound",
    "workflow_limits",
]
