"""Train a policy to write workflows: python -m aflow_jax.train --config FILE [--resume PATH|latest] [key=value …]

Exit codes: 0 the run is complete; 2 a mistake that the user can mend; 3 stopped early with a checkpoint (budget spent,
too many void rollouts); 130 stopped by Ctrl-C, with a checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aflow_jax.assembly import (
    ProblemSets,
    RunParts,
    learner_settings,
    load_problem_sets,
    open_parts,
    warm_start_learner,
    workflow_limits,
)
from aflow_jax.config import Config, load_config
from aflow_jax.errors import UserError
from aflow_jax.grpo import Batch, Learner, workflow_aware_advantages
from aflow_jax.llm import BudgetExhausted
from aflow_jax.memory import check_memory, claim_gpu_memory, found_shape, this_device
from aflow_jax.problems import BatchSchedule
from aflow_jax.rewards import FEATURES, GradingUnavailable, workflow_features
from aflow_jax.rollout import Rollout, RolloutCollector, as_record
from aflow_jax.rollout_metrics import rollout_metrics
from aflow_jax.runs import (
    HISTORY,
    Checkpoints,
    MetricsFile,
    RunConsole,
    RunFolder,
    WandbLog,
    alarms,
    figures,
    newest,
    peak_memory_gb,
    read_manifest,
    restore,
    write_rollouts,
)
from aflow_jax.workflow import demonstrations, load_demonstrations

# Streams of randomness: what is sampled for training never repeats in an evaluation.
TRAINING, EVALUATION = 0, 1


class StoppedEarly(Exception):
    """The run cannot go on as it is; its state is saved and the message says what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.train",
        description="Train a Qwen2.5 policy to write agent workflows, with GRPO.",
        epilog="example: python -m aflow_jax.train --config configs/quickstart.yaml max_steps=10 run_dir=runs/mine",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML settings")
    parser.add_argument("--resume", metavar="PATH|latest", help="go on from a checkpoints/step_N folder, or the newest")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    options = parser.parse_intermixed_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        claim_gpu_memory()
        return asyncio.run(run(config, resume=options.resume))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before the first checkpoint: there is nothing to go on from", file=sys.stderr)
        return 130


async def run(config: Config, *, resume: str | None) -> int:
    """Train as the settings say; return the exit code."""
    folder = RunFolder(config.run_folder, resuming=_is_of_run(resume, config.run_folder))
    console = RunConsole(folder.log)
    try:
        start = _starting_point(folder, resume, console)
        folder.write_config(config.to_yaml())
        problems = load_problem_sets(config, console.say)
        plan = check_memory(config, found_shape(config), this_device(), evaluated=len(problems.test))
        console.say(plan.summary())
        async with open_parts(config, problems, console.say) as parts:
            trainer = Trainer(config, folder, console, problems, parts)
            return await trainer.train(start)
    finally:
        console.close()
        folder.release()


def _is_of_run(resume: str | None, folder: Path) -> bool:
    """Return whether the checkpoint to resume is the folder's own; another's may only start a new run."""
    return resume == "latest" or (resume is not None and Path(resume).resolve().is_relative_to(folder.resolve()))


def _starting_point(folder: RunFolder, resume: str | None, console: RunConsole) -> Path | None:
    """Return the checkpoint to go on from, checked; None for a new run."""
    if resume is None:
        return None
    path = newest(folder.checkpoints, report=console.say) if resume == "latest" else Path(resume)
    read_manifest(path)
    return path


class Trainer:
    """The training loop: problems → workflows → runs → grades → advantages → update."""

    def __init__(
        self, config: Config, folder: RunFolder, console: RunConsole, problems: ProblemSets, parts: RunParts
    ) -> None:
        self.config, self.folder, self.console, self.parts = config, folder, console, parts
        self.policy = policy = parts.policy
        self.problems = problems
        self.schedule = BatchSchedule(problems.train, config.domain_ratios, config.rollout_batch_size, config.seed)
        self.collector = RolloutCollector(
            driver=parts.driver,
            executor=parts.executor,
            grader=parts.grader,
            operators=tuple(config.aflow_operators),
            limits=workflow_limits(config),
            prompt_tokens=policy.prompt_tokens,
        )
        self.learner = Learner(policy.model, policy.new_adapter(), learner_settings(config))
        self.checkpoints = Checkpoints(folder.checkpoints, keep=config.keep_checkpoints)
        self.step: int | None = None  # what the learner's state is after; None until the warm start is done
        self.saved: int | None = None  # the newest checkpoint's step
        self.unwritten: dict[str, float] | None = None  # metrics of `step`, until its evaluation completes them
        self.num_tokens = 0
        self.evaluations: dict[int, dict[str, float]] = {}
        self.recent_voids: deque[int] = deque(maxlen=config.void_limit.window)
        self.recent_metrics: deque[dict[str, float]] = deque(maxlen=HISTORY)

    async def train(self, start: Path | None) -> int:
        """Run the stages from the start, or from a checkpoint; return the exit code. Whatever stops it, it saves."""
        config, say = self.config, self.console.say
        started = time.perf_counter()
        if start is not None:
            self._resume(start)
        done = -1 if self.step is None else self.step - (self.unwritten is not None)
        self.metrics = MetricsFile(self.folder.metrics, first_step=done + 1)
        self.wandb = self._open_wandb()
        try:
            if start is None:
                await self._begin()
            elif self.unwritten is not None:
                await self._complete()
            with self.console.progress("training", config.max_steps, completed=self.step) as progress:
                while self.step < config.max_steps:
                    progress.advance(await self.train_step(self.step + 1))
            self.save()
            self._summarise(time.perf_counter() - started)
            return 0
        except asyncio.CancelledError:
            if self.step is None:
                raise
            self.save()
            say(f"stopped at step {self.step}; go on with --resume latest")
            return 130
        except (StoppedEarly, BudgetExhausted) as reason:
            self.save()
            say(f"stopped at step {self.step}: {reason}; go on with --resume latest")
            return 3
        except UserError:
            self.save()
            raise
        finally:
            self.checkpoints.close()
            if self.wandb:
                self.wandb.close()

    def _resume(self, start: Path) -> None:
        """Take up the state of a checkpoint, and the little else that runs on from step to step."""
        manifest = read_manifest(start)
        self.learner.state = restore(start, self.learner.state)
        self.step = manifest["step"]
        self.saved = self.step if start.absolute().parent == self.checkpoints.folder else None
        details, budget = manifest["details"], self.parts.budget
        self.num_tokens = details["num_tokens"]
        self.unwritten = details["unwritten"]
        self.recent_voids.extend(details["recent_voids"])
        spent = details["spent"]
        budget.spent_calls, budget.spent_tokens, budget.spent_usd = spent["calls"], spent["tokens"], spent["usd"]
        self.console.say(f"resumed: step {self.step} from {start}")

    async def _begin(self) -> None:
        """Warm start, first evaluation, first checkpoint: step 0."""
        metrics = await self.warm_start() if self.config.warm_start else {}
        self.step, self.unwritten = 0, metrics
        await self._complete()
        self.save()

    async def train_step(self, step: int) -> dict[str, float]:
        """Make one GRPO step, numbered from 1; return its metrics."""
        config, started = self.config, time.perf_counter()
        temperature = config.temperature_schedule.at(step - 1)
        collected = await self.collector.collect(
            self.schedule.batch(step - 1),
            samples=config.num_return_sequences_in_group,
            seed=(config.seed, TRAINING, step),
            params=self.policy.sampling_params(temperature),
            adapter=self.learner.adapter,
        )
        rollouts = collected.rollouts
        advantages = await self._advantages(rollouts)
        updating = time.perf_counter()
        update = self.learner.update(_as_batch(rollouts, advantages), temperature)
        self.step = step
        self.num_tokens += sum(len(r.completion.prompt_tokens) + len(r.completion.tokens) for r in rollouts)
        write_rollouts(self.folder.rollouts, f"step_{step:06d}", map(as_record, rollouts, advantages))
        metrics = rollout_metrics(rollouts, config.num_return_sequences_in_group) | update | self._spending()
        metrics |= {"temperature": temperature, "num_tokens": self.num_tokens, "memory/peak_gb": peak_memory_gb()}
        metrics |= collected.times | {"time/update": time.perf_counter() - updating}
        self.unwritten = metrics | {"step_time": time.perf_counter() - started}
        metrics = await self._complete()
        if step % config.save_every == 0:
            self.save()
        self._watch_voids(rollouts)
        return metrics

    async def _complete(self) -> dict[str, float]:
        """Evaluate where that is due, and write the step's metrics."""
        step, metrics = self.step, self.unwritten
        if self.config.eval_every and (step % self.config.eval_every == 0 or step == self.config.max_steps):
            metrics = metrics | await self.evaluate(step)
        self._write(step, metrics)
        self.unwritten = None
        return metrics

    async def warm_start(self) -> dict[str, float]:
        """Teach the form of workflows from demonstrations; return the last step's loss and entropy."""
        config, stage = self.config, self.config.warm_start
        if stage.demonstrations:
            pairs = load_demonstrations(stage.demonstrations, config.aflow_operators, workflow_limits(config))
        else:
            pairs = demonstrations(self.problems.train, config.aflow_operators, config.seed)
        learner = warm_start_learner(config, self.policy, self.learner.adapter)
        order, metrics = random.Random(f"{config.seed}/warm start"), {}
        with self.console.progress("warm start", stage.steps) as progress:
            for step in range(1, stage.steps + 1):
                chosen = [pairs[order.randrange(len(pairs))] for _ in range(stage.batch_size)]
                batch = Batch.from_rollouts(
                    prompts=[self.policy.prompt_tokens(problem) for problem, _ in chosen],
                    completions=(answers := [self.policy.answer_tokens(answer) for _, answer in chosen]),
                    logprobs=[[0.0] * len(answer) for answer in answers],
                    advantages=[0.0] * len(answers),
                )
                metrics = learner.supervised_update(batch.tokens, batch.lengths, batch.loss_mask)
                progress.advance({"loss": metrics["loss"]})
                await asyncio.sleep(0)  # where Ctrl-C is heard
                if step == 1 or step % 50 == 0 or step == stage.steps:
                    self.console.say(f"warm start {step}/{stage.steps}: loss {metrics['loss']:.3f} nats a token")
        self.learner = Learner(self.policy.model, learner.adapter, learner_settings(config))
        return {f"warm_start/{name}": metrics[name] for name in ("loss", "entropy")}

    async def evaluate(self, step: int) -> dict[str, float]:
        """Return the metrics of the held-out problems, each name with the prefix eval_."""
        stage, started = self.config.evaluation, time.perf_counter()
        if not self.problems.test:
            return {}
        collected = await self.collector.collect(
            self.problems.test,
            samples=stage.samples,
            seed=(self.config.seed, EVALUATION, 0),
            params=self.policy.sampling_params(stage.temperature),
            adapter=self.learner.adapter,
        )
        rollouts = collected.rollouts
        metrics = rollout_metrics(rollouts, stage.samples) | self._spending()
        metrics["time"] = time.perf_counter() - started
        write_rollouts(self.folder.rollouts, f"eval_{step:06d}", (as_record(rollout, 0.0) for rollout in rollouts))
        self.evaluations[step] = metrics
        self.console.say(f"evaluation at step {step}, {len(rollouts)} held-out rollouts: {figures(metrics)}")
        return {f"eval_{name}": value for name, value in metrics.items()}

    def save(self) -> None:
        """Save the state, once for each step."""
        if self.step is None or self.saved == self.step:
            return
        budget = self.parts.budget
        details = {
            "num_tokens": self.num_tokens,
            "recent_voids": list(self.recent_voids),
            "unwritten": self.unwritten,
            "spent": {"calls": budget.spent_calls, "tokens": budget.spent_tokens, "usd": budget.spent_usd},
        }
        self.checkpoints.save(self.step, self.learner.state, details=details)
        self.saved = self.step

    async def _advantages(self, rollouts: Sequence[Rollout]) -> np.ndarray:
        """Return one advantage a rollout, from the rewards and, in tied groups, from the traces."""
        config, size = self.config, self.config.num_return_sequences_in_group
        groups = [rollouts[start : start + size] for start in range(0, len(rollouts), size)]
        features = [await self._features(group) for group in groups]
        aware = config.wa_grpo
        return workflow_aware_advantages(
            np.array([rollout.grade.reward for rollout in rollouts]),
            np.concatenate(features),
            size,
            alpha=aware.alpha,
            weights=(
                aware.diversity_weight,
                aware.revise_gain_weight,
                aware.exec_success_weight,
                aware.efficiency_weight,
                aware.op_variety_weight,
            ),
            scale=config.advantage_scale,
            clip=config.advantage_clip,
            void=np.array([rollout.outcome.is_void for rollout in rollouts]),
        )

    async def _features(self, group: Sequence[Rollout]) -> np.ndarray:
        workflows, executions = [rollout.workflow for rollout in group], [rollout.execution for rollout in group]
        try:
            return await workflow_features(group[0].problem, workflows, executions, offered=self.config.aflow_operators)
        except GradingUnavailable as error:
            self.console.say(f"a tied group keeps advantage 0: its revisions cannot be graded: {error}")
            return np.zeros((len(group), len(FEATURES)))

    def _watch_voids(self, rollouts: Sequence[Rollout]) -> None:
        """Stop the run when infrastructure faults have taken more than their share of a window of steps."""
        limit = self.config.void_limit
        voids = [rollout for rollout in rollouts if rollout.outcome.is_void]
        self.recent_voids.append(len(voids))
        if sum(self.recent_voids) > limit.ratio * limit.window * len(rollouts):
            raise StoppedEarly(
                f"{sum(self.recent_voids)} rollouts of the last {len(self.recent_voids)} steps are void "
                f"(the latest: {voids[-1].outcome}: {voids[-1].execution.error}): see that the executor LLM and the "
                "sandbox work"
            )

    def _spending(self) -> dict[str, float]:
        return self.parts.client.counters.take().metrics()

    def _open_wandb(self) -> WandbLog | None:
        settings = self.config.wandb
        if not settings.enabled:
            return None
        return WandbLog(
            project=settings.project,
            name=self.config.exp_name,
            folder=self.folder.path,
            config=self.config.model_dump(mode="json"),
        )

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        self.metrics.write(step, metrics)
        if self.wandb:
            self.wandb.write(step, metrics)
        if step and (step % self.config.log_every == 0 or step in (1, self.config.max_steps)):
            self.console.say(f"step {step}/{self.config.max_steps}: {figures(metrics)}")
        if step:
            self.recent_metrics.append(metrics)
            for line in alarms(list(self.recent_metrics)):
                self.console.say(line)

    def _summarise(self, seconds: float) -> None:
        """Say what improved, where things are, and what to run next."""
        folder = self.folder.path
        if len(self.evaluations) > 1:
            first, last = self.evaluations[min(self.evaluations)], self.evaluations[max(self.evaluations)]
            names = [
                name for name in first if name.split("/")[0] in ("accuracy", "reward") or name == "workflow/parse_rate"
            ]
            rows = [
                [name, f"{first[name]:.3f}", f"{last[name]:.3f}", f"{last[name] - first[name]:+.3f}"] for name in names
            ]
            self.console.table("held-out problems", ["", "before", "after", "change"], rows)
        self.console.say(f"done: {self.step} steps in {seconds:.0f} s")
        self.console.say(f"checkpoint: {folder}/checkpoints/step_{self.step}")
        self.console.say(
            f"figures: {folder}/metrics.jsonl; every rollout: {folder}/rollouts/; log: {folder}/training.log"
        )
        self.console.say(f"train on: the same command with --resume latest max_steps={self.config.max_steps * 2}")


def _as_batch(rollouts: Sequence[Rollout], advantages: np.ndarray) -> Batch:
    return Batch.from_rollouts(
        prompts=[rollout.completion.prompt_tokens for rollout in rollouts],
        completions=[rollout.completion.tokens for rollout in rollouts],
        logprobs=[rollout.completion.logprobs for rollout in rollouts],
        advantages=advantages,
        truncated=[rollout.completion.finish_reason == "length" for rollout in rollouts],
        void=[rollout.outcome.is_void for rollout in rollouts],
    )


if __name__ == "__main__":
    sys.exit(main())
