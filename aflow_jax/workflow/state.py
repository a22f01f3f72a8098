"""The one state that a workflow runs over. It is never changed in place, so branches cannot disturb each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from aflow_jax.problems.problem import Problem
from aflow_jax.workflow.fields import code_in, defines


@dataclass(frozen=True)
class State:
    """What operators read and write.

    Attributes:
        problem: what is to be solved.
        solution: the solution so far; empty before any operator gave one.
        code: the program so far.
        feedback: what the last check said.
        verdict: how the last check ended.
        candidates: the solutions of the parallel just before, in the order of its branches.
    """

    problem: Problem
    solution: str = ""
    code: str = ""
    feedback: str = ""
    verdict: Literal["pass", "fail"] | None = None
    candidates: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The answer this state stands for: the solution; for a code problem the source code.

        A solution that does not define the entry point (an explanation, say) does not hide the program written before.
        """
        if self.problem.domain != "code":
            return self.solution.strip()
        written = code_in(self.solution, self.problem.entry_point)
        if self.code and not (self.problem.entry_point and defines(written, self.problem.entry_point)):
            return self.code
        return written

    def with_answer(self, answer: str) -> State:
        """Return the state with this answer: as the solution, and as the code of a code problem."""
        if self.problem.domain != "code":
            return replace(self, solution=answer)
        code = code_in(answer, self.problem.entry_point)
        return replace(self, solution=code, code=code)
