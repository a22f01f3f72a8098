"""The policy's answer: perhaps some reasoning, and one `<workflow>` element with a workflow in one of two formats.

`language` is the workflow language. `aflow` is AFlow's: prompt constants and `class Workflow`, as one module. Both give
the same graphs, under the same limits, and so everything after the reading is the same.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Literal

from aflow_jax.workflow.aflow_module import AFlowError, from_aflow_module
from aflow_jax.workflow.aflow_writer import Writer
from aflow_jax.workflow.graph import Workflow
from aflow_jax.workflow.language import (
    CLOSING,
    OPENING,
    Limits,
    element,
    error_in_element,
    format,
    parse_completion,
    parse_expression,
)
from aflow_jax.workflow.parser import WorkflowError

WorkflowFormat = Literal["language", "aflow"]


def read_answer(
    text: str,
    workflow_format: WorkflowFormat = "language",
    operators: Collection[str] | None = None,
    limits: Limits | None = None,
) -> Workflow:
    """Return the workflow of a policy's answer.

    Args:
        text: the answer.
        workflow_format: the format of the element's content.
        operators: the names that may be used; all of the library where None.
        limits: bounds; `Limits()` where None. Those of an AFlow module are the bounds of its graph, written in the
            language.

    Raises:
        WorkflowError: PARSE or LIMIT, with the column in `text`; for an AFlow module with the line in it, too.
    """
    if workflow_format == "language":
        return parse_completion(text, operators, limits)
    start, end = element(text)
    module = text[start:end]
    try:
        workflow = from_aflow_module(module)
    except AFlowError as error:
        lines = io.StringIO(module, newline="").readlines()  # as Python counts them: not at form feeds
        before = len("".join(lines[: error.line - 1]))
        message = f"line {error.line} of the module: {error.message}"
        raise error_in_element("PARSE", start + before + 1, message, before / (len(module) + 1)) from None
    try:
        return parse_expression(format(workflow), operators, limits)
    except WorkflowError as error:
        raise error_in_element(error.code, start + 1, error.message, 1.0) from None


def answer_text(workflow: Workflow, workflow_format: WorkflowFormat = "language") -> str:
    """Return a workflow as the policy is to write it, in its element."""
    if workflow_format == "language":
        return f"{OPENING}{format(workflow)}{CLOSING}"
    return f"{OPENING}\n{Writer(workflow).one_module()}{CLOSING}"
