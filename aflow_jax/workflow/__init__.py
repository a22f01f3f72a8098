"""From the policy's text to a run: the graph, its language, the prompt that teaches it, the operators, the executor."""

from aflow_jax.workflow.aflow_module import AFlowError, AFlowModule, from_aflow_module, to_aflow_module
from aflow_jax.workflow.answer import WorkflowFormat, answer_text, read_answer
from aflow_jax.workflow.constraint import WorkflowConstraint, WorkflowMatcher
from aflow_jax.workflow.executor import Executor, Watcher, worst_case_llm_calls
from aflow_jax.workflow.graph import Branch, Call, Chain, Loop, Parallel, Workflow, graph_record
from aflow_jax.workflow.language import Limits, format, parse, parse_completion, parse_expression
from aflow_jax.workflow.library import OperatorCard, load_library, operator_library, operator_names
from aflow_jax.workflow.measures import distance, nesting, operators_of, worst_case_calls
from aflow_jax.workflow.outcome import Outcome
from aflow_jax.workflow.parser import WorkflowError
from aflow_jax.workflow.prompt import policy_messages
from aflow_jax.workflow.trace import Execution, OperatorCall, Usage
from aflow_jax.workflow.warm_start import demonstrations, load_demonstrations

__all__ = [
    "AFlowError",
    "AFlowModule",
    "Branch",
    "Call",
    "Chain",
    "Execution",
    "Executor",
    "Limits",
    "Loop",
    "OperatorCall",
    "OperatorCard",
    "Outcome",
    "Parallel",
    "Usage",
    "Watcher",
    "Workflow",
    "WorkflowConstraint",
    "WorkflowError",
    "WorkflowFormat",
    "WorkflowMatcher",
    "answer_text",
    "demonstrations",
    "distance",
    "format",
    "from_aflow_module",
    "graph_record",
    "load_demonstrations",
    "load_library",
    "nesting",
    "operator_library",
    "operator_names",
    "operators_of",
    "parse",
    "parse_completion",
    "parse_expression",
    "policy_messages",
    "read_answer",
    "to_aflow_module",
    "worst_case_calls",
    "worst_case_llm_calls",
]
