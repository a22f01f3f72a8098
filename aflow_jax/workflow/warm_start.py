"""Answers of the right form, for teaching the language before reinforcement learning teaches its use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from aflow_jax.errors import UserError
from aflow_jax.problems import Problem, default_sources
from aflow_jax.problems.dataset import problem_from_row, read_rows
from aflow_jax.workflow.answer import WorkflowFormat, answer_text, read_answer
from aflow_jax.workflow.graph import Workflow
from aflow_jax.workflow.language import OPENING, Limits, parse, parse_expression
from aflow_jax.workflow.measures import operators_of
from aflow_jax.workflow.parser import WorkflowError

# What a person might try, by domain. Each of a domain's shapes is drawn as often as any other: the form is taught, and
# that kinds of problems call for kinds of workflows; which of them pays is left to the rewards.
_ANY = (
    "Custom",
    "AnswerGenerate",
    "Programmer",
    "Custom -> Review ? Revise : done",
    "[AnswerGenerate, Programmer, Custom] -> ScEnsemble",
)
STANDARD_WORKFLOWS = {
    "math": (
        *_ANY,
        "AnswerGenerate -> Review ? Revise : done",
        'Custom("Make a plan first.") -> Programmer',
        "[AnswerGenerate, AnswerGenerate, AnswerGenerate] -> ScEnsemble",
    ),
    "code": (
        *_ANY,
        "CustomCodeGenerate",
        "CustomCodeGenerate -> Review ? Revise : done",
        "CustomCodeGenerate -> Test ? Revise : done",
        "CustomCodeGenerate -> (Test ? Revise : done) * 3",
    ),
    "qa": (
        *_ANY,
        "AnswerGenerate -> Format",
        "AnswerGenerate -> Review ? Revise : done",
        'Custom("Work out the key facts first.") -> AnswerGenerate',
        "[AnswerGenerate, AnswerGenerate, AnswerGenerate] -> ScEnsemble",
    ),
}


def demonstrations(
    problems: Sequence[Problem], operators: Sequence[str], seed: int, workflow_format: WorkflowFormat = "language"
) -> list[tuple[Problem, str]]:
    """Return each problem with an answer: its kind, and a standard workflow of the operators offered.

    The workflow is drawn uniformly from its domain's. Naming the domain first gives the policy something to hang its
    choice on once rewards tell which workflow pays. The same arguments give the same answers, in the problems' order.

    Raises:
        UserError: the operators offered make none of a domain's standard workflows.
    """
    pools = {domain: standard_workflows(domain, operators) for domain in {problem.domain for problem in problems}}
    random = Random(f"{seed}/demonstrations")
    return [
        (problem, f"A {problem.domain} problem.\n{answer_text(random.choice(pools[problem.domain]), workflow_format)}")
        for problem in problems
    ]


def standard_workflows(domain: str, operators: Sequence[str]) -> list[Workflow]:
    """Return a domain's standard workflows that use only the operators offered; raise UserError if there are none."""
    workflows = [parse(text) for text in STANDARD_WORKFLOWS[domain]]
    offered = [workflow for workflow in workflows if set(operators_of(workflow)) <= set(operators)]
    if not offered:
        names = ", ".join(operators)
        raise UserError(
            f"no standard workflow for {domain} uses only {names}: offer more, or set warm_start.demonstrations"
        )
    return offered


def load_demonstrations(
    path: str | Path,
    operators: Sequence[str] | None = None,
    limits: Limits | None = None,
    workflow_format: WorkflowFormat = "language",
) -> list[tuple[Problem, str]]:
    """Read a JSONL file of problems that each have a `workflow`: the answer to imitate, or its expression alone.

    An answer is in the format given and kept word for word (its reasoning is taught too); an expression of the language
    is put into its element, in that format.

    Raises:
        UserError: `path:line: reason`, for a bad problem or a workflow that the policy would not be allowed to write.
    """
    sources = default_sources()
    pairs = []
    for number, row in read_rows(path):
        try:
            answer = _answer(row.get("workflow"), operators, limits, workflow_format)
            problem = problem_from_row(row, sources, default_id=f"{Path(path).stem}/{number}")
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        pairs.append((problem, answer))
    return pairs


def _answer(
    text: object, operators: Sequence[str] | None, limits: Limits | None, workflow_format: WorkflowFormat
) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UserError("missing field 'workflow': expected the answer, or its expression, as a string")
    try:
        return answer_text(parse_expression(text, operators, limits), workflow_format)
    except WorkflowError as expression_error:
        if OPENING not in text:
            raise UserError(f"workflow: {expression_error}") from None
    try:
        read_answer(text, workflow_format, operators, limits)
    except WorkflowError as error:
        raise UserError(f"workflow: {error}") from None
    return text
