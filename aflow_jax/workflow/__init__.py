"""From the policy's text to a run: the graph, its language, the prompt that teaches it, the operators, the executor."""

from aflow_jax.workflow.graph import Branch, Call, Chain, Loop, Parallel, Workflow
from aflow_jax.workflow.language import Limits, format, parse, parse_completion
from aflow_jax.workflow.library import OperatorCard, load_library, operator_library, operator_names
from aflow_jax.workflow.measures import distance, nesting, operators, worst_case_calls
from aflow_jax.workflow.outcome import Outcome
from aflow_jax.workflow.parser import WorkflowError

__all__ = [
    "Branch",
    "Call",
    "Chain",
    "Limits",
    "Loop",
    "OperatorCard",
    "Outcome",
    "Parallel",
    "Workflow",
    "WorkflowError",
    "distance",
    "format",
    "load_library",
    "nesting",
    "operator_library",
    "operator_names",
    "operators",
    "parse",
    "parse_completion",
    "worst_case_calls",
]
