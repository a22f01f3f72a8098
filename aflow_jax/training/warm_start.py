"""Supervised learning before GRPO: the form of workflows, taught from demonstrations."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from aflow_jax.assembly import Policy, warm_start_learner, workflow_limits
from aflow_jax.config import Config
from aflow_jax.grpo import Batch
from aflow_jax.problems import Problem
from aflow_jax.qwen2 import Adapter
from aflow_jax.runs import RunConsole
from aflow_jax.workflow import demonstrations, load_demonstrations


async def warm_start(
    config: Config, policy: Policy, adapter: Adapter, problems: Sequence[Problem], console: RunConsole
) -> tuple[Adapter, dict[str, float]]:
    """Return the adapter after the stage, and the last step's loss and entropy as metrics."""
    stage = config.warm_start
    if stage.demonstrations:
        pairs = load_demonstrations(
            stage.demonstrations, config.aflow_operators, workflow_limits(config), config.workflow_format
        )
    else:
        pairs = demonstrations(problems, config.aflow_operators, config.seed, config.workflow_format)
    learner = warm_start_learner(config, policy, adapter)
    order, metrics = random.Random(f"{config.seed}/warm start"), {}
    with console.progress("warm start", stage.steps) as progress:
        for step in range(1, stage.steps + 1):
            batch = _as_batch([pairs[order.randrange(len(pairs))] for _ in range(stage.batch_size)], policy)
            metrics = learner.supervised_update(batch.tokens, batch.lengths, batch.loss_mask)
            progress.advance({"loss": metrics["loss"]})
            await asyncio.sleep(0)  # where Ctrl-C is heard
            if step == 1 or step % 50 == 0 or step == stage.steps:
                console.say(f"warm start {step}/{stage.steps}: loss {metrics['loss']:.3f} nats a token")
    return learner.adapter, {f"warm_start/{name}": metrics[name] for name in ("loss", "entropy")}


def _as_batch(pairs: Sequence[tuple[Problem, str]], policy: Policy) -> Batch:
    answers = [policy.answer_tokens(answer) for _, answer in pairs]
    return Batch.from_rollouts(
        prompts=[policy.prompt_tokens(problem) for problem, _ in pairs],
        completions=answers,
        logprobs=[[0.0] * len(answer) for answer in answers],
        advantages=[0.0] * len(answers),
    )
