"""Train a policy to write workflows: python -m aflow_jax.train --config FILE [--resume PATH|latest] [key=value …]

Exit codes: 0 the run is complete; 2 a mistake that the user can mend; 3 stopped early with a checkpoint (budget spent,
too many void rollouts); 130 stopped by Ctrl-C, with a checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import deque
from pathlib import Path

from aflow_jax.config import Config, load_config
from aflow_jax.errors import UserError


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.train",
        description="Train a Qwen2.5 policy to write agent workflows, with GRPO.",
        epilog="example: python -m aflow_jax.train --config configs/quickstart.yaml max_steps=10 run_dir=runs/mine",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML settings, or a preset such as quickstart")
    parser.add_argument("--resume", metavar="PATH|latest", help="go on from a checkpoints/step_N folder, or the newest")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    _options(None)  # --help and mistakes are answered before the imports below, which take seconds

from aflow_jax.assembly import (
    ProblemSets,
    RunParts,
    learner_settings,
    load_problem_sets,
    open_parts,
    without_unsound,
    workflow_limits,
)
from aflow_jax.grpo import Learner
from aflow_jax.llm import BudgetExhausted
from aflow_jax.memory import check_memory, claim_gpu_memory, found_shape, this_device
from aflow_jax.problems import BatchSchedule
from aflow_jax.rollout import RolloutCollector
from aflow_jax.rollout_metrics import rollout_metrics
from aflow_jax.runs import (
    Checkpoints,
    RunConsole,
    RunFolder,
    newest,
    peak_memory_gb,
    read_manifest,
    restore,
)
from aflow_jax.training import (
    Journal,
    RunState,
    StoppedEarly,
    as_batch,
    record_rollouts,
    rollout_advantages,
    warm_start,
    watch_voids,
)

# Streams of randomness: what is sampled for training never repeats in an evaluation.
TRAINING, EVALUATION = 0, 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _options(arguments)
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
        problems = await without_unsound(config, load_problem_sets(config, console.say), console.say)
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
            workflow_format=config.workflow_format,
            prompt_tokens=policy.prompt_tokens,
        )
        self.learner = Learner(policy.model, policy.new_adapter(), learner_settings(config))
        self.checkpoints = Checkpoints(folder.checkpoints, keep=config.keep_checkpoints)
        self.saved: int | None = None  # the newest checkpoint's step
        self.state = RunState(parts.clients.budget, recent_voids=deque(maxlen=config.void_limit.window))

    async def train(self, start: Path | None) -> int:
        """Run the stages from the start, or from a checkpoint; return the exit code. Whatever stops it, it saves."""
        config, state, say = self.config, self.state, self.console.say
        started = time.perf_counter()
        if start is not None:
            self._resume(start)
        self.journal = Journal(config, self.folder, self.console, first_step=state.next_line)
        try:
            if start is None:
                await self._begin()
            elif state.unwritten is not None:
                await self._complete()
            with self.console.progress("training", config.max_steps, completed=state.step) as progress:
                while state.step < config.max_steps:
                    progress.advance(await self.train_step(state.step + 1))
            self.save()
            self.journal.summarise(state.step, time.perf_counter() - started)
            return 0
        except asyncio.CancelledError:
            if state.step is None:
                raise
            self.save()
            say(f"stopped at step {state.step}; go on with --resume latest")
            return 130
        except (StoppedEarly, BudgetExhausted) as reason:
            self.save()
            say(f"stopped at step {state.step}: {reason}; go on with --resume latest")
            return 3
        except UserError:
            self.save()
            raise
        finally:
            self.checkpoints.close()
            self.journal.close()

    async def _begin(self) -> None:
        """Warm start, first evaluation, first checkpoint: step 0."""
        config, metrics = self.config, {}
        if config.warm_start:
            adapter, metrics = await warm_start(
                config, self.policy, self.learner.adapter, self.problems.train, self.console
            )
            self.learner = Learner(self.policy.model, adapter, learner_settings(config))
        self.state.step, self.state.unwritten = 0, metrics
        await self._complete()
        self.save()

    async def train_step(self, step: int) -> dict[str, float]:
        """Make one GRPO step, numbered from 1; return its metrics."""
        config, state, started = self.config, self.state, time.perf_counter()
        temperature = config.temperature_schedule.at(step - 1)
        collected = await self.collector.collect(
            self.schedule.batch(step - 1),
            samples=config.num_return_sequences_in_group,
            seed=(config.seed, TRAINING, step),
            params=self.policy.sampling_params(temperature),
            adapter=self.learner.adapter,
        )
        rollouts = collected.rollouts
        advantages = await rollout_advantages(rollouts, config, self.console.say)

        updating = time.perf_counter()
        update = self.learner.update(as_batch(rollouts, advantages), temperature)
        state.step = step
        state.num_tokens += sum(len(r.completion.prompt_tokens) + len(r.completion.tokens) for r in rollouts)
        state.recent_voids.append(sum(rollout.outcome.is_void for rollout in rollouts))

        record_rollouts(self.folder, f"step_{step:06d}", rollouts, self.policy, advantages)
        metrics = rollout_metrics(rollouts, config.num_return_sequences_in_group) | update | self._spending()
        metrics |= {"temperature": temperature, "num_tokens": state.num_tokens, "memory/peak_gb": peak_memory_gb()}
        metrics |= collected.times | {"time/update": time.perf_counter() - updating}
        state.unwritten = metrics | {"step_time": time.perf_counter() - started}
        metrics = await self._complete()
        if step % config.save_every == 0:
            self.save()
        watch_voids(rollouts, state.recent_voids, config.void_limit)
        return metrics

    async def _complete(self) -> dict[str, float]:
        """Evaluate where that is due, and write the step's metrics."""
        step, metrics = self.state.step, self.state.unwritten
        if self.config.eval_every and (step % self.config.eval_every == 0 or step == self.config.max_steps):
            metrics = metrics | await self.evaluate(step)
        self.journal.write(step, metrics)
        self.state.unwritten = None
        return metrics

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
        record_rollouts(self.folder, f"eval_{step:06d}", rollouts, self.policy)
        self.journal.write_evaluation(step, metrics, len(rollouts))
        return {f"eval_{name}": value for name, value in metrics.items()}

    def save(self) -> None:
        """Save the state, once for each step."""
        if self.state.step is None or self.saved == self.state.step:
            return
        self.checkpoints.save(self.state.step, self.learner.state, details=self.state.details())
        self.saved = self.state.step

    def _resume(self, start: Path) -> None:
        """Take up the state of a checkpoint."""
        manifest = read_manifest(start)
        self.learner.state = restore(start, self.learner.state)
        self.state.take_up(manifest["step"], manifest["details"])
        self.saved = self.state.step if start.absolute().parent == self.checkpoints.folder else None
        self.console.say(f"resumed: step {self.state.step} from {start}")

    def _spending(self) -> dict[str, float]:
        return self.parts.clients.metrics()


if __name__ == "__main__":
    sys.exit(main())
