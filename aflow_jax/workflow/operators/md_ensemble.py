from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from aflow_jax.workflow.answers import answer_key, leaders
from aflow_jax.workflow.concurrency import side_by_side
from aflow_jax.workflow.operators.base import LLM_CALLS_PER_QUESTION, Operator, Step
from aflow_jax.workflow.operators.votes import vote
from aflow_jax.workflow.session import Session
from aflow_jax.workflow.state import State

VOTES = 5


class MdEnsemble(Operator):
    """Majority of votes over shuffled candidates, so that no candidate gains by its place (as in MedPrompt).

    Candidates that are all the same answer need no votes; without candidates the solution stays as it is.
    """

    name = "MdEnsemble"
    receives = ("candidates",)
    is_ensemble = True
    worst_case_llm_calls: ClassVar[int] = VOTES * LLM_CALLS_PER_QUESTION

    async def run(self, state: State, instruction: str | None, session: Session) -> Step:
        """Collapse the candidates into the solution; tied votes go to the candidate that stood first."""
        candidates = state.candidates
        if not candidates:
            return Step(state)
        votes = list(candidates[:1])
        if len({answer_key(state.problem, candidate) for candidate in candidates}) > 1:
            votes = await side_by_side([self._vote(state, instruction, session, number) for number in range(VOTES)])
        elected = {answer_key(state.problem, winner) for winner in leaders(state.problem, votes)}
        first = next(candidate for candidate in candidates if answer_key(state.problem, candidate) in elected)
        settled = replace(state, candidates=()).with_answer(first)
        return Step(settled, {"votes": "\n".join(votes), "solution": first})

    async def _vote(self, state: State, instruction: str | None, session: Session, number: int) -> str:
        shuffled = list(state.candidates)
        session.random(number).shuffle(shuffled)
        return await vote(self, state, instruction, session, shuffled, number)
