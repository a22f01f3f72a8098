from __future__ import annotations

from dataclasses import replace

from aflow_jax.workflow.operators.base import Operator, Step
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State


class Custom(Operator):
    """Does what its instruction says, in one call."""

    name = "Custom"
    receives = ("solution",)

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Set the solution."""
        messages = self.messages(_ROLE, ("solution",), state, instruction, solution=state.answer)
        fields = await session.ask(messages, ("solution",))
        return Step(replace(state, solution=fields["solution"]), fields)


_ROLE = """\
Work on the problem as the instruction says; without one, solve it. Where there is a <solution>, it is the work so far:
build on it, and correct it where it is wrong. Think before the field as long as you need to; put into it nothing but
the result: a short answer where the question asks for one, complete source code where it asks for code."""
