from __future__ import annotations

from dataclasses import replace

from aflow_jax.workflow.operators.base import Operator, Step
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State


class AnswerGenerate(Operator):
    """Thinks step by step, then answers, in one call; the thought is kept in the trace."""

    name = "AnswerGenerate"
    receives = ("solution",)

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Set the solution."""
        messages = self.messages(_ROLE, ("thought", "answer"), state, instruction, solution=state.answer)
        fields = await session.ask(messages, ("thought", "answer"))
        return Step(replace(state, solution=fields["answer"]), fields)


_ROLE = """\
Solve the problem step by step. Where there is a <solution>, it is the work so far: use what is right in it. Write your
reasoning into the thought, and into the answer nothing but what the question asks for, without explanation."""
