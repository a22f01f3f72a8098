"""What tells the rollouts of a group apart where their rewards do not: the features of WA-GRPO, from the traces."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import numpy as np
from jaxtyping import Float

from aflow_jax.problems.problem import Problem
from aflow_jax.rewards.grade import rule_async
from aflow_jax.rewards.reward import with_machine
from aflow_jax.workflow import Outcome, Workflow, distance
from aflow_jax.workflow.trace import Execution, OperatorCall

# The columns; config.WorkflowAware has a weight for each.
FEATURES = ("diversity", "revise_gain", "exec_success", "efficiency", "op_variety")

# Where nothing was revised, nothing was gained or lost.
NO_REVISION = 0.5

_SUCCESS = {
    Outcome.SCORED: 1.0,
    Outcome.CODE_TIMEOUT: 0.3,
    Outcome.WORKFLOW_TIMEOUT: 0.3,
    Outcome.OPERATOR_FORMAT: 0.2,
    Outcome.CODE_ERROR: 0.2,
    Outcome.EMPTY_ANSWER: 0.2,
    Outcome.PARSE: 0.0,
    Outcome.LIMIT: 0.0,
}


async def workflow_features(
    problem: Problem,
    workflows: Sequence[Workflow | None],
    executions: Sequence[Execution],
    *,
    offered: Sequence[str],
) -> Float[np.ndarray, "K 5"]:
    """Return the features of one group, float64 in [0, 1], columns in the order of FEATURES.

    Void rollouts are no part of the group and get a row of zeros. Where all workflows of the group are identical the
    rows are made identical too (each feature's mean), so that chance in the executor ranks nothing.

    Args:
        problem: the group's.
        workflows: one graph a rollout, None where the text was none.
        executions: how each ran.
        offered: the operators that the policy may use.

    Raises:
        GradingUnavailable: revised answers cannot be checked.
    """
    live = [index for index, execution in enumerate(executions) if not execution.outcome.is_void]
    features = np.zeros((len(executions), len(FEATURES)))
    graphs = [workflows[index] for index in live]
    tokens = [executions[index].usage.tokens for index in live]
    for row, index in enumerate(live):
        execution = executions[index]
        features[index] = (
            diversity(graphs, row),
            await revise_gain(problem, execution.trace),
            _SUCCESS[execution.outcome],
            token_rank(tokens, row),
            op_variety(execution.trace, offered),
        )
    if live and all(graph == graphs[0] for graph in graphs):
        features[live] = features[live].mean(axis=0)
    return features


def diversity(workflows: Sequence[Workflow | None], index: int) -> float:
    """Return the mean distance of a graph to the group's others.

    A text that is no workflow is left out of the others' means, and has 0 itself: being broken is no way to differ.
    """
    own = workflows[index]
    if own is None:
        return 0.0
    others = [other for at, other in enumerate(workflows) if at != index and other is not None]
    # Exactly rounded, so that the order of the others changes no bit.
    return fsum(distance(own, other) for other in others) / len(others) if others else 0.0


async def revise_gain(problem: Problem, trace: Sequence[OperatorCall]) -> float:
    """Return `(after − before + 1) / 2`: correctness after the last Revise and before the first, by the rules alone.

    ½ where no Revise ran. A solution that is not there yet has correctness 0.
    """
    revisions = [call for call in trace if call.operator == "Revise"]
    if not revisions:
        return NO_REVISION
    first, last = revisions[0].solution_before, revisions[-1].solution_after
    if first == last:
        return NO_REVISION
    before = await with_machine(lambda: rule_async(problem, first))
    after = await with_machine(lambda: rule_async(problem, last))
    return (after.level - before.level + 1) / 2


def token_rank(tokens: Sequence[int], index: int) -> float:
    """Return the share of the group's others that spent more tokens, equals counted half; ½ in a group of one."""
    if len(tokens) < 2:
        return 0.5
    own = tokens[index]
    more = sum(other > own for other in tokens)
    equal = sum(other == own for other in tokens) - 1
    return (more + equal / 2) / (len(tokens) - 1)


def op_variety(trace: Sequence[OperatorCall], offered: Sequence[str]) -> float:
    """Return the number of distinct operators that ran, over those offered."""
    return len({call.operator for call in trace} & set(offered)) / len(set(offered)) if offered else 0.0
