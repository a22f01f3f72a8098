"""Answers of the right form, for teaching the language before reinforcement learning teaches its use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from aflow_jax.errors import UserError
from aflow_jax.problems import Problem, default_sources
from aflow_jax.problems.dataset import problem_from_row, read_rows
from aflow_jax.workflow.graph import Workflow
from aflow_jax.workflow.language import CLOSING, OPENING, Limits, format, parse, parse_completion, parse_expression
from aflow_jax.workflow.measures import operators_of
from aflow_jax.workflow.parser import WorkflowError

# Each shape is drawn as often as any other, for whatever problem: the form is taught, and nothing about which workflow
# fits which problem.
STANDARD_WORKFLOWS = (
    "AnswerGenerate",
    "Custom",
    "Programmer",
    "CustomCodeGenerate",
    "AnswerGenerate -> Format",
    "Programmer -> Format",
    "Custom -> Review ? Revise : done",
    "AnswerGenerate -> Review ? Revise : done",
    "Programmer -> Review ? Revise : done",
    "CustomCodeGenerate -> Test ? Revise : done",
    "CustomCodeGenerate -> (Test ? Revise : done) * 3",
    "[AnswerGenerate, AnswerGenerate, AnswerGenerate] -> ScEnsemble",
    "[AnswerGenerate, Programmer, Custom] -> ScEnsemble",
    "[Programmer, Programmer, Programmer] -> MdEnsemble",
    'Custom("Work out the key facts first.") -> AnswerGenerate',
    'Custom("Make a plan first.") -> Programmer',
)


def demonstrations(problems: Sequence[Problem], operators: Sequence[str], seed: int) -> list[tuple[Problem, str]]:
    """Return each problem with an answer that holds a standard workflow of the operators offered.

    The shape is drawn uniformly whatever the problem's domain. The same arguments give the same answers, and the order
    is that of the problems.

    Raises:
        UserError: the operators offered make none of the standard workflows.
    """
    pool = standard_workflows(operators)
    random = Random(f"{seed}/demonstrations")
    return [(problem, answer_text(random.choice(pool))) for problem in problems]


def standard_workflows(operators: Sequence[str]) -> list[Workflow]:
    """Return the standard workflows that use only the operators offered; raise UserError where there are none."""
    workflows = [parse(text) for text in STANDARD_WORKFLOWS]
    offered = [workflow for workflow in workflows if set(operators_of(workflow)) <= set(operators)]
    if not offered:
        names = ", ".join(operators)
        raise UserError(
            f"no standard workflow uses only {names}: set warm_start.demonstrations, or offer more operators"
        )
    return offered


def answer_text(workflow: Workflow) -> str:
    """Return an answer as the policy is to write it: the canonical text in its element."""
    return f"{OPENING}{format(workflow)}{CLOSING}"


def load_demonstrations(
    path: str | Path, operators: Sequence[str] | None = None, limits: Limits | None = None
) -> list[tuple[Problem, str]]:
    """Read a JSONL file of problems that each have a `workflow`: the answer to imitate, or its expression alone.

    An answer is kept word for word (its reasoning is taught too), an expression is put into its element.

    Raises:
        UserError: `path:line: reason`, for a bad problem or a workflow that the policy would not be allowed to write.
    """
    sources = default_sources()
    pairs = []
    for number, row in read_rows(path):
        try:
            answer = _answer(row.get("workflow"), operators, limits)
            problem = problem_from_row(row, sources, default_id=f"{Path(path).stem}/{number}")
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        pairs.append((problem, answer))
    return pairs


def _answer(text: object, operators: Sequence[str] | None, limits: Limits | None) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UserError("missing field 'workflow': expected the answer, or its expression, as a string")
    try:
        return answer_text(parse_expression(text, operators, limits))
    except WorkflowError as expression_error:
        if OPENING not in text:
            raise UserError(f"workflow: {expression_error}") from None
    try:
        parse_completion(text, operators, limits)
    except WorkflowError as error:
        raise UserError(f"workflow: {error}") from None
    return text
