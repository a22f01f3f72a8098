"""The workflow language: text to graph, and back.

    chain    = stage , { "->" , stage } , [ "->" , "done" ] ;
    stage    = branch | loop | parallel | call | group ;
    call     = OPERATOR , [ "(" , STRING , ")" ] ;              STRING: a JSON string, the instruction
    group    = "(" , chain , ")" ;
    parallel = "[" , chain , "," , chain , { "," , chain } , "]" ;
    loop     = group , "*" , INTEGER ;                          1 to 5
    branch   = call , "?" , arm , ":" , arm ;                   the call is Review or Test
    arm      = "done" | call | group ;

The parser never guesses, renames or drops: a text is a workflow or an error that says what was expected and where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from aflow_jax.workflow.graph import Branch, Call, Chain, Loop, Parallel, Stage, Workflow
from aflow_jax.workflow.library import operator_names
from aflow_jax.workflow.measures import worst_case_calls
from aflow_jax.workflow.parser import Parser, WorkflowError, over

OPENING, CLOSING = "<workflow>", "</workflow>"

TAG = re.compile(r"</?workflow>")
# Progress, of 1: a text with an element whose expression is not read yet; one that only exceeds a limit.
_ELEMENT_PROGRESS = 0.2
_WELL_FORMED = 0.9


@dataclass(frozen=True)
class Limits:
    """What a workflow may be at most; each is the config key `workflow_limits.<name>`.

    Attributes:
        characters: length of the expression.
        nesting: depth of brackets, round and square.
        branches: branches of one parallel.
        calls: operator calls in the worst case, loops unrolled.
        instruction: characters of one instruction.
    """

    characters: int = 2000
    nesting: int = 4
    branches: int = 8
    calls: int = 24
    instruction: int = 400


def parse(text: str, operators: Collection[str] | None = None, limits: Limits | None = None) -> Workflow:
    """Return the workflow that the text holds: an expression alone, or an answer with one `<workflow>` element.

    Args:
        text: the expression or the answer.
        operators: the names that may be used; all of the library where None.
        limits: bounds; `Limits()` where None.

    Raises:
        WorkflowError: PARSE or LIMIT, with the column in `text` (counted from 1 over all of it, line breaks included).
    """
    if not TAG.search(text):
        return parse_expression(text, operators, limits)
    try:
        # A string may hold the tags, so a text that is an expression as a whole is one.
        return parse_expression(text, operators, limits)
    except WorkflowError:
        return parse_completion(text, operators, limits)


def element(text: str) -> tuple[int, int]:
    """Return where the content of an answer's one `<workflow>` element starts and ends; raise WorkflowError."""
    tags = list(TAG.finditer(text))
    if [tag[0] for tag in tags] == [OPENING, CLOSING]:
        return tags[0].end(), tags[1].start()
    if not tags:
        message = f"expected one {OPENING}…{CLOSING} element, found none"
        raise WorkflowError("PARSE", len(text) + 1, message)
    if tags[0][0] == CLOSING:
        message = f"expected {OPENING}, found {CLOSING}"
        raise WorkflowError("PARSE", tags[0].start() + 1, message)
    if len(tags) == 1:
        message = f"expected {CLOSING}, found the end"
        raise WorkflowError("PARSE", len(text) + 1, message, progress=_ELEMENT_PROGRESS / 2)
    wrong = tags[2] if tags[1][0] == CLOSING else tags[1]
    message = f"expected exactly one {OPENING}…{CLOSING} element, found another {wrong[0]}"
    raise WorkflowError("PARSE", wrong.start() + 1, message, progress=_ELEMENT_PROGRESS / 2)


def error_in_element(code: str, column: int, message: str, read: float) -> WorkflowError:
    """Return the error of an element's content; its progress grows with the share that was read, 0 to 1."""
    progress = _ELEMENT_PROGRESS + (_WELL_FORMED - _ELEMENT_PROGRESS) * read
    return WorkflowError(code, column, message, progress=progress)


def parse_completion(text: str, operators: Collection[str] | None = None, limits: Limits | None = None) -> Workflow:
    """Return the workflow of a policy's answer: anything, with exactly one `<workflow>…</workflow>` element in it.

    Arguments and errors are those of `parse`.
    """
    start, end = element(text)
    return _parsed(text[start:end], start, operators, limits)


def parse_expression(text: str, operators: Collection[str] | None = None, limits: Limits | None = None) -> Workflow:
    """Return the workflow of an expression that stands alone. Arguments and errors are those of `parse`."""
    return _parsed(text, 0, operators, limits)


def format(workflow: Workflow) -> str:
    """Return the canonical text of a workflow; `parse` turns it back into an equal one.

    `<workflow>` and `</workflow>` inside an instruction are written with an escape, so that the text can stand in an
    element.
    """
    return _chain_text(workflow)


def _parsed(text: str, offset: int, operators: Collection[str] | None, limits: Limits | None) -> Workflow:
    limits = limits or Limits()
    known = operator_names()
    try:
        if len(text) > limits.characters:
            raise over("characters", limits.characters, limits.characters + 1, f"{len(text)} characters")
        workflow = Parser(
            text,
            known=known,
            offered=known if operators is None else operators,
            nesting=limits.nesting,
            branches=limits.branches,
            instruction=limits.instruction,
        ).workflow()
    except WorkflowError as error:
        read = _share_read(text, error.column, limits)
        raise error_in_element(error.code, error.column + offset, error.message, read) from None
    calls = worst_case_calls(workflow)
    if calls > limits.calls:
        start = len(text) - len(text.lstrip()) + 1
        what = f"{calls} operator calls in the worst case, loops unrolled"
        error = over("calls", limits.calls, start + offset, what)
        raise error_in_element(error.code, error.column, error.message, 1.0)
    return workflow


def _share_read(text: str, column: int, limits: Limits) -> float:
    """Return how much of the expression stands before the error, blanks aside; nothing of one that is too long."""
    if len(text) > limits.characters:
        return 0.0
    return len("".join(text[: column - 1].split())) / (len("".join(text.split())) + 1)


def _chain_text(chain: Chain) -> str:
    return " -> ".join(_stage_text(stage) for stage in chain.stages)


def _stage_text(stage: Stage) -> str:
    match stage:
        case Call(operator, None):
            return operator
        case Call(operator, instruction):
            return f"{operator}({_string_text(instruction)})"
        case Parallel(branches):
            return f"[{', '.join(map(_chain_text, branches))}]"
        case Loop(body, times):
            return f"({_chain_text(body)}) * {times}"
        case Branch(check, on_fault, on_pass):
            return f"{_stage_text(check)} ? {_arm_text(on_fault)} : {_arm_text(on_pass)}"
    raise TypeError(f"{type(stage).__name__} is no stage of a workflow")


def _arm_text(arm: Chain | None) -> str:
    if arm is None:
        return "done"
    if len(arm.stages) == 1 and isinstance(arm.stages[0], Call):
        return _stage_text(arm.stages[0])
    return f"({_chain_text(arm)})"


def _string_text(instruction: str) -> str:
    return TAG.sub(lambda tag: "\\u003c" + tag[0][1:], json.dumps(instruction, ensure_ascii=False))
