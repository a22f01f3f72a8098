"""What ends a workflow early."""

from aflow_jax.workflow.outcome import Outcome


class OperatorFault(Exception):
    """The policy's doing: the workflow ends with this outcome (OPERATOR_FORMAT, CODE_ERROR or CODE_TIMEOUT)."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
