from __future__ import annotations

from dataclasses import replace

from aflow_jax.workflow.operators.base import Operator, Step
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State


class Format(Operator):
    """Reduces the solution to the shortest answer that the question asks for, in one call."""

    name = "Format"
    receives = ("solution",)

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Set the solution."""
        messages = self.messages(_ROLE, ("answer",), state, instruction, solution=state.answer)
        fields = await session.ask(messages, ("answer",))
        return Step(replace(state, solution=fields["answer"]), fields)


_ROLE = """\
Give the answer that the solution comes to, in the shortest form that the question asks for: a number, a name, a date, a
phrase, yes or no, the letter of an option; for a question that asks for code, the complete code. Do not solve the
problem anew, and add no explanation."""
