from __future__ import annotations

from dataclasses import replace

from aflow_jax.workflow.answers import leaders
from aflow_jax.workflow.operators.base import Operator, Step
from aflow_jax.workflow.operators.votes import vote
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State


class ScEnsemble(Operator):
    """Self-consistency: the answer that most candidates agree on; one LLM vote among the leaders when they tie.

    Without candidates (no parallel stands before it) the solution stays as it is.
    """

    name = "ScEnsemble"
    receives = ("candidates",)
    is_ensemble = True

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Collapse the candidates into the solution."""
        tied = leaders(state.problem, state.candidates)
        if not tied:
            return Step(state)
        winner = tied[0] if len(tied) == 1 else await vote(self, state, instruction, session, tied, 0)
        settled = replace(state, candidates=()).with_answer(winner)
        return Step(settled, {"settled_by": "majority" if len(tied) == 1 else "vote", "solution": winner})
