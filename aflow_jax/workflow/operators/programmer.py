from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from aflow_jax.sandbox import ProgramResult
from aflow_jax.workflow.faults import OperatorFault
from aflow_jax.workflow.fields import code_in
from aflow_jax.workflow.operators.base import LLM_CALLS_PER_QUESTION, Operator, Step
from aflow_jax.workflow.operators.public_tests import loading_check
from aflow_jax.workflow.outcome import Outcome
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State

ATTEMPTS = 3
MAX_ANSWER_CHARACTERS = 10_000


class Programmer(Operator):
    """Writes a program with `solve()` and runs it; each of up to 3 attempts is fed the error of the one before.

    For a code problem the solution is the program, which must define the entry point; else what `solve()` returned.
    """

    name = "Programmer"
    receives = ("solution",)
    worst_case_llm_calls: ClassVar[int] = ATTEMPTS * LLM_CALLS_PER_QUESTION

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Set code and solution; when every attempt fails, the last one decides on CODE_ERROR or CODE_TIMEOUT."""
        writes_code = state.problem.domain == "code"
        role = _CODE_ROLE if writes_code else _VALUE_ROLE
        code, error, outcome = "", "", Outcome.CODE_ERROR
        for _ in range(ATTEMPTS):
            messages = self.messages(
                role, ("code",), state, instruction, solution=state.answer, code=code, feedback=error
            )
            fields = await session.ask(messages, ("code",))
            code = code_in(fields["code"], state.problem.entry_point)
            source = loading_check(code, state.problem.entry_point, try_out=True) if writes_code else code
            result = await session.run_program(source)
            error = _error(result, returns_answer=not writes_code)
            if not error:
                solution = code if writes_code else _text(result.value) or ""
                return Step(replace(state, code=code, solution=solution), {"code": code, "solution": solution})
            outcome = Outcome.CODE_TIMEOUT if result.outcome == "timeout" else Outcome.CODE_ERROR
        raise OperatorFault(outcome, error)


def _error(result: ProgramResult, *, returns_answer: bool) -> str:
    """Return what to tell the author of the program, or nothing where it did what was asked."""
    if result.outcome == "timeout":
        return "The program did not end in time. Find a faster way."
    if result.outcome != "ok":
        return result.error or "The program failed."
    if not returns_answer:
        return ""
    if result.value is None:
        return "solve() is not defined, or returned nothing. It must return the answer."
    text = _text(result.value)
    if text is None:
        return "solve() returned a number of more digits than can be written. It must return the answer."
    if not text:
        return "solve() returned an empty text. It must return the answer."
    if len(text) > MAX_ANSWER_CHARACTERS:
        return f"solve() returned {len(text)} characters. It must return the answer alone."
    return ""


def _text(value: Any) -> str | None:
    """Return a value as an answer; None for an integer too long for Python to write in decimal."""
    try:
        text = str(value)
    except ValueError:
        return None
    # Lone surrogates, which a program may return, cannot be sent to an LLM.
    return text.encode("utf-8", "replace").decode("utf-8").strip()


_VALUE_ROLE = """\
Write a Python program that computes the answer to the problem. It defines a function solve() without parameters that
returns the answer: a number, a text or an exact expression, not printed output. Where there is a <solution>, it is the
analysis so far: use what is right in it. Where there is a <code>, it is your last program, and <feedback> says what
went wrong with it. The standard library, numpy and sympy are there; no files and no network."""

_CODE_ROLE = """\
Write the complete Python program that the problem asks for: it defines the <entry_point>, with the signature that the
problem gives. It may also define a function solve() without parameters that tries it on the problem's examples and
raises an error where it is wrong. Where there is a <solution>, it is the work so far: use what is right in it. Where
there is a <code>, it is your last program, and <feedback> says what went wrong with it. No input, files or network."""
