"""Supervised learning before GRPO: from demonstrations, and from the policy's own best workflows.

The second is rejection sampling: sample, keep what was right, learn it, and over again (RAFT, Dong et al., 2023,
arXiv:2304.06767). What a stage does in a step is a function of the settings, the step and the adapter before the
round, so that a stage can be resumed at any step.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aflow_jax.assembly import Policy, supervised_settings, workflow_limits
from aflow_jax.config import Config
from aflow_jax.grpo import Batch, Learner, LearnerSettings
from aflow_jax.problems import Problem
from aflow_jax.problems.dataset import problem_as_row
from aflow_jax.rollout import Rollout
from aflow_jax.runs import Place
from aflow_jax.runs.folder import write_atomically
from aflow_jax.training.state import RunState
from aflow_jax.training.uninterrupted import to_its_end
from aflow_jax.workflow import demonstrations, load_demonstrations

Pairs = list[tuple[Problem, str]]


@dataclass(frozen=True, kw_only=True)
class SupervisedStage:
    """A stage of supervised steps, in rounds that each have pairs of a problem and an answer.

    Attributes:
        name: that of its checkpoints, and the prefix of its metrics.
        rounds, steps: rounds, and optimizer steps in each.
        batch_size: pairs a step.
        settings: the learner's.
        pairs: gives a round's, counted from 1; the round is `begun` where steps of it were made before.
        seed: of the order.
    """

    name: str
    rounds: int = 1
    steps: int
    batch_size: int
    settings: LearnerSettings
    pairs: Callable[[int, bool], Awaitable[Pairs]]
    seed: str

    @property
    def total(self) -> int:
        """All steps of the stage."""
        return self.rounds * self.steps

    @property
    def title(self) -> str:
        """The name as a user reads it."""
        return self.name.replace("_", " ")

    def metrics(self, step: Mapping[str, float]) -> dict[str, float]:
        """Return what metrics.jsonl tells of a step."""
        return {f"{self.name}/{name}": step[name] for name in ("loss", "entropy")}

    def batches(self, number: int, pairs: Pairs, policy: Policy) -> list[Callable[[], Batch]]:
        """Return what makes each batch of a round, in order; none where there are no pairs."""
        order = random.Random(self.seed if number == 1 else f"{self.seed}/{number}")
        if not pairs:
            return []
        draws = [[order.randrange(len(pairs)) for _ in range(self.batch_size)] for _ in range(self.steps)]
        return [lambda chosen=chosen: _as_batch([pairs[place] for place in chosen], policy) for chosen in draws]


def steps_made(stage: SupervisedStage, state: RunState) -> int | None:
    """Return the steps of a stage that a run has made; None where it is done with the stage."""
    if state.place is None or state.place < Place(stage.name, 0):
        return 0
    return state.place.step if state.place < Place(stage.name, stage.total) else None


async def supervised_steps(
    stage: SupervisedStage, made: int, learner: Learner, policy: Policy, device: asyncio.Lock
) -> AsyncIterator[tuple[int, dict[str, float]]]:
    """Make the steps after the first `made`; yield each one's number and metrics. A round without pairs has no steps.

    Args:
        stage: whose steps.
        made: steps that the learner's state is after.
        learner: the stage's.
        policy: makes prompts.
        device: held during a step.
    """
    batches = None
    for step in range(made + 1, stage.total + 1):
        done, at = divmod(step - 1, stage.steps)
        if at == 0 or batches is None:
            batches = stage.batches(done + 1, await stage.pairs(done + 1, at > 0), policy)
        if batches:
            batch = batches[at]()
            async with device:
                update = partial(learner.supervised_update, batch.tokens, batch.lengths, batch.loss_mask)
                metrics = await to_its_end(update)
            yield step, metrics


def warm_start_stage(config: Config, problems: Sequence[Problem]) -> SupervisedStage:
    """Return the stage that teaches the form of workflows from demonstrations."""
    stage = config.warm_start

    async def pairs(number: int, begun: bool) -> Pairs:
        if stage.demonstrations:
            limits = workflow_limits(config)
            return load_demonstrations(stage.demonstrations, config.aflow_operators, limits, config.workflow_format)
        return demonstrations(problems, config.aflow_operators, config.seed, config.workflow_format)

    return SupervisedStage(
        name="warm_start",
        steps=stage.steps,
        batch_size=stage.batch_size,
        settings=supervised_settings(config, stage, stage.steps),
        pairs=pairs,
        seed=f"{config.seed}/warm start",
    )


def rejection_sampling_stage(
    config: Config,
    problems: Sequence[Problem],
    folder: Path,
    sample: Callable[[int, Sequence[Problem]], Awaitable[Sequence[Rollout]]],
) -> SupervisedStage:
    """Return the stage that teaches the policy its own best workflows.

    Args:
        config: the settings.
        problems: the training problems.
        folder: where each round's workflows are kept, in the form of `warm_start.demonstrations`.
        sample: makes a round's rollouts with the policy as it is, each problem's side by side.
    """
    stage = config.rejection_sampling

    async def pairs(number: int, begun: bool) -> Pairs:
        path = folder / f"round_{number}.jsonl"
        if not begun:
            chosen = random.Random(f"{config.seed}/rejection sampling/{number}/problems").sample(
                range(len(problems)), min(stage.problems, len(problems))
            )
            rollouts = await sample(number, [problems[place] for place in chosen])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, "".join(map(_row, best_rollouts(rollouts, stage.samples, stage.keep))))
        if not path.stat().st_size:
            return []
        return load_demonstrations(path, config.aflow_operators, workflow_limits(config), config.workflow_format)

    return SupervisedStage(
        name="rejection_sampling",
        rounds=stage.rounds,
        steps=stage.steps,
        batch_size=stage.batch_size,
        settings=supervised_settings(config, stage, stage.rounds * stage.steps),
        pairs=pairs,
        seed=f"{config.seed}/rejection sampling",
    )


def best_rollouts(rollouts: Sequence[Rollout], group_size: int, keep: int) -> list[Rollout]:
    """Return of each group the `keep` right ones of the highest reward, the first of equals, different in workflow."""
    best = []
    for start in range(0, len(rollouts), group_size):
        group = sorted(rollouts[start : start + group_size], key=lambda rollout: -rollout.grade.reward)
        right = {}
        for rollout in group:
            if rollout.workflow is not None and rollout.grade.correctness == 1.0:
                right.setdefault(rollout.workflow, rollout)
        best += list(right.values())[:keep]
    return best


def _row(rollout: Rollout) -> str:
    row = problem_as_row(rollout.problem) | {"workflow": rollout.completion.text}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _as_batch(pairs: Sequence[tuple[Problem, str]], policy: Policy) -> Batch:
    answers = [policy.answer_tokens(answer) for _, answer in pairs]
    return Batch.from_rollouts(
        prompts=[policy.prompt_tokens(problem) for problem, _ in pairs],
        completions=answers,
        logprobs=[[0.0] * len(answer) for answer in answers],
        advantages=[0.0] * len(answers),
    )
