from __future__ import annotations

from aflow_jax.workflow.operators.base import Operator, Step
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State


class Revise(Operator):
    """Improves the solution by the feedback on it, in one call; neutral in domain."""

    name = "Revise"
    receives = ("solution", "feedback")

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Set the solution, and for a code problem the code."""
        reply = "code" if state.problem.domain == "code" else "solution"
        messages = self.messages(_ROLE, (reply,), state, instruction, solution=state.answer, feedback=state.feedback)
        fields = await session.ask(messages, (reply,))
        return Step(state.with_answer(fields[reply]), fields)


_ROLE = """\
Improve the solution of the problem: mend what the feedback finds wrong, where it is right, and keep what is good. Where
there is no feedback, look for mistakes yourself. Put the complete revised result into the field, in the same form as
the solution had, and nothing else."""
