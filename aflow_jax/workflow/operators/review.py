from __future__ import annotations

from dataclasses import replace

from aflow_jax.workflow.fields import FieldError
from aflow_jax.workflow.operators.base import Operator, Step
from aflow_jax.workflow.session import Fields, Session
from aflow_jax.workflow.state import State


class Review(Operator):
    """Checks the solution, in one call, and never touches it."""

    name = "Review"
    receives = ("solution",)

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Set verdict and feedback. Where there is no solution to read, the check fails without a call."""
        if not state.answer:
            return _judged(state, {"verdict": "fail", "feedback": "There is no solution yet."})
        messages = self.messages(_ROLE, ("verdict", "feedback"), state, instruction, solution=state.answer)
        asked = ("verdict", "feedback")
        return _judged(state, await session.ask(messages, asked, check=_check, may_be_empty=("feedback",)))


def _judged(state: State, fields: Fields) -> Step:
    verdict = "pass" if fields["verdict"] == "pass" else "fail"
    return Step(replace(state, verdict=verdict, feedback=fields["feedback"]), fields)


def _check(fields: Fields) -> Fields:
    verdict = fields["verdict"].strip(" .!\"'*`").lower()
    if verdict not in ("pass", "fail"):
        raise FieldError("the verdict must be the single word pass or fail")
    if verdict == "fail" and not fields["feedback"]:
        raise FieldError("the field <feedback> must say what is wrong")
    return {"verdict": verdict, "feedback": fields["feedback"]}


_ROLE = """\
Check the solution of the problem: work it out yourself, and compare. The verdict is the single word pass where the
solution answers the problem correctly, fail where it does not. The feedback says in a few sentences what is wrong and
how to mend it, or why it is right. Do not write a solution of your own."""
