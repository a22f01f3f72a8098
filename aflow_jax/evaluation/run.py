"""Rollouts of the policy and of the baselines on the same problems, by the same executor and the same grader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aflow_jax.assembly import ExecutionParts, RunParts, collector_of, executor_of
from aflow_jax.config import Config
from aflow_jax.evaluation.baselines import fixed_workflow, samples_at_cost, self_consistency
from aflow_jax.evaluation.names import BASELINES, CHAIN_OF_THOUGHT, POLICY, SELF_CONSISTENCY, UNTRAINED
from aflow_jax.evaluation.scores import Group, Subject, mean_tokens, score
from aflow_jax.problems import Problem
from aflow_jax.qwen2 import Adapter
from aflow_jax.rollout import Rollout
from aflow_jax.sampling import Completion
from aflow_jax.training import EVALUATION
from aflow_jax.workflow import Workflow, answer_text
from aflow_jax.workflow import format as format_workflow

WITHOUT_POLICY = 5
"""Samples of self-consistency where there is no policy whose cost it could match."""


@dataclass(frozen=True)
class Evaluation:
    """Runs subjects.

    Attributes:
        config: the settings.
        parts: the executor, and a policy where one is to be evaluated.
        problems: to solve.
        samples: workflows that a policy writes for each.
        say: where lines for the user go.
    """

    config: Config
    parts: ExecutionParts
    problems: Sequence[Problem]
    samples: int
    say: Callable[[str], None]

    async def subjects(self, policy: Adapter | None, baselines: Sequence[str]) -> list[Subject]:
        """Return the subjects in the order of the tables: the policy, where there is an adapter, and the baselines.

        Self-consistency needs chain of thought for what one sample costs, which is then run, too.

        Raises:
            UserError: the endpoint refuses the key, a prompt is too long, or a budget is spent (BudgetExhausted).
        """
        done: dict[str, Subject] = {}
        if policy is not None:
            done[POLICY] = await self._written(POLICY, policy)
        wanted = {*baselines, CHAIN_OF_THOUGHT} if SELF_CONSISTENCY in baselines else set(baselines)
        for name in (name for name in BASELINES if name in wanted):
            if name == UNTRAINED:
                done[name] = await self._written(name, None)
            elif name == SELF_CONSISTENCY:
                done[name] = await self._fixed(name, self._at_equal_cost(done))
            else:
                domains = {problem.domain for problem in self.problems}
                done[name] = await self._fixed(name, {domain: fixed_workflow(name, domain) for domain in domains})
        return list(done.values())

    @property
    def _seed(self) -> tuple[int, ...]:
        """That of evaluations inside training."""
        return (self.config.seed, EVALUATION, 0)

    async def _written(self, name: str, adapter: Adapter | None) -> Subject:
        """Run the workflows that the model writes, with an adapter or without, just as training evaluates it."""
        if not isinstance(self.parts, RunParts):
            raise TypeError("a policy needs parts with a model")
        temperature = self.config.evaluation.temperature
        collected = await collector_of(self.config, self.parts).collect(
            self.problems,
            samples=self.samples,
            seed=self._seed,
            params=self.parts.policy.sampling_params(temperature),
            adapter=adapter,
        )
        rollouts, samples = collected.rollouts, self.samples
        groups = [rollouts[start : start + samples] for start in range(0, len(rollouts), samples)]
        return self._subject(name, groups, {})

    async def _fixed(self, name: str, workflows: dict[str, Workflow]) -> Subject:
        """Run a fixed workflow of each domain."""
        # The policy is held to the operators offered; these workflows may be of any.
        executor, grader = executor_of(self.config, self.parts.clients, None), self.parts.grader

        async def run(place: int, problem: Problem) -> Rollout:
            workflow = workflows[problem.domain]
            text = answer_text(workflow)
            # The same chance as a rollout of the policy has there, so that equal workflows run equally.
            execution = await executor.run(workflow, problem, seed=(*self._seed, place, 0))
            execution, grade = await grader.grade(problem, text, workflow, None, execution)
            return Rollout(problem, _given(text, place), workflow, None, execution, grade)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run(*placed)) for placed in enumerate(self.problems)]
        except ExceptionGroup as errors:
            # What ends all, such as a refused key, ends them for one reason.
            raise errors.exceptions[0] from None
        texts = {domain: format_workflow(workflow) for domain, workflow in sorted(workflows.items())}
        return self._subject(name, [(task.result(),) for task in tasks], texts)

    def _at_equal_cost(self, done: dict[str, Subject]) -> dict[str, Workflow]:
        """Return self-consistency of as many samples, for each domain, as the policy's tokens pay for."""
        workflows = {}
        for domain in sorted({problem.domain for problem in self.problems}):
            samples = WITHOUT_POLICY
            if POLICY in done:
                policy, one = (mean_tokens(done[name].groups, domain) for name in (POLICY, CHAIN_OF_THOUGHT))
                samples = samples_at_cost(policy, one)
            workflows[domain] = self_consistency(samples)
        return workflows

    def _subject(self, name: str, groups: Sequence[Group], workflows: dict[str, str]) -> Subject:
        result = score(groups, self.config.seed)
        accuracy = "all void" if result.accuracy is None else f"accuracy {result.accuracy:.1%}"
        self.say(f"{name}: {result.rollouts} rollouts, {result.void} void, {accuracy}")
        return Subject(name, groups, workflows)


def _given(text: str, place: int) -> Completion:
    """Return the text of a fixed workflow in the place of what a policy would have written."""
    return Completion(
        prompt_tokens=(), tokens=(), logprobs=np.zeros(0, np.float32), finish_reason="stop", text=text, request=place,
        sample=0,
    )  # fmt: skip
