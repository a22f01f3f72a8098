"""How a rollout ends: exactly one outcome each."""

from enum import StrEnum


class Outcome(StrEnum):
    """`SCORED`, a policy fault (reward 0), or an infrastructure fault (the rollout is void)."""

    SCORED = "SCORED"

    PARSE = "PARSE"
    LIMIT = "LIMIT"
    OPERATOR_FORMAT = "OPERATOR_FORMAT"
    CODE_ERROR = "CODE_ERROR"
    CODE_TIMEOUT = "CODE_TIMEOUT"
    WORKFLOW_TIMEOUT = "WORKFLOW_TIMEOUT"
    EMPTY_ANSWER = "EMPTY_ANSWER"

    LLM_UNAVAILABLE = "LLM_UNAVAILABLE"
    RATE_LIMITED = "RATE_LIMITED"
    SANDBOX_UNAVAILABLE = "SANDBOX_UNAVAILABLE"
    JUDGE_UNAVAILABLE = "JUDGE_UNAVAILABLE"

    @property
    def is_void(self) -> bool:
        """Whether the infrastructure, not the policy, is at fault: the rollout leaves its group and the loss."""
        return self in _VOID

    @property
    def is_policy_fault(self) -> bool:
        """Whether the policy is at fault: the reward is 0, the format component aside."""
        return self is not Outcome.SCORED and not self.is_void


_VOID = frozenset(
    {Outcome.LLM_UNAVAILABLE, Outcome.RATE_LIMITED, Outcome.SANDBOX_UNAVAILABLE, Outcome.JUDGE_UNAVAILABLE}
)
