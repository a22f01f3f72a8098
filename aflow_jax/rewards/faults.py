"""What keeps an answer from being graded: the infrastructure's faults, never the policy's."""

from aflow_jax.workflow.outcome import Outcome


class GradingUnavailable(Exception):
    """The rollout cannot be graded and is void.

    Attributes:
        outcome: SANDBOX_UNAVAILABLE or JUDGE_UNAVAILABLE.
    """

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class JudgeUnavailable(GradingUnavailable):
    """The judge cannot be reached, or what it says cannot be read."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.JUDGE_UNAVAILABLE, message)
