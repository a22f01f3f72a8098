from __future__ import annotations

from dataclasses import replace

from aflow_jax.workflow.fields import code_in
from aflow_jax.workflow.operators.base import Operator, Step
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State


class CustomCodeGenerate(Operator):
    """Writes the code that defines the entry point, in one call, without running it."""

    name = "CustomCodeGenerate"

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Set the code, and the solution to it."""
        fields = await session.ask(self.messages(_ROLE, ("code",), state, instruction), ("code",))
        code = code_in(fields["code"], state.problem.entry_point)
        return Step(replace(state, code=code, solution=code), {"code": code})


_ROLE = """\
Write the Python code that solves the problem. Where there is an <entry_point>, define that function, with the signature
that the problem gives. The code must be complete, imports included, and must neither read input nor run tests."""
