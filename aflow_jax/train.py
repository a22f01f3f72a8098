"""Train a policy to write workflows: python -m aflow_jax.train --config FILE [--resume PATH|latest] [key=value …]

Exit codes (`ExitCode`): 0 the run is complete; 2 a mistake that the user can mend, before anything was done; 3 stopped
with a checkpoint because something must be mended (the budget is spent, too many rollouts are void); 4 stopped with a
checkpoint because max_hours are over; 5 stopped with a checkpoint because loss or gradient are not finite; 6 the run
folder cannot be written, its last checkpoint is intact; 130 and 143 stopped by Ctrl-C and SIGTERM, with a checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
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
from aflow_jax.clients import spending
from aflow_jax.collector import Collected, Collection, RolloutCollector
from aflow_jax.grpo import Batch, Learner
from aflow_jax.llm import BudgetExhausted
from aflow_jax.memory import check_memory, claim_gpu_memory, found_shape, this_device
from aflow_jax.problems import BatchSchedule, Problem
from aflow_jax.rollout import Rollout
from aflow_jax.rollout_metrics import rollout_metrics
from aflow_jax.runs import (
    Checkpoint,
    Checkpoints,
    Place,
    RunConsole,
    RunFolder,
    SaveFailed,
    figures,
    peak_memory_gb,
)
from aflow_jax.sampling import Completion
from aflow_jax.training import (
    ExitCode,
    Journal,
    Pipeline,
    Refilled,
    RunState,
    StoppedEarly,
    SupervisedStage,
    TimeLimit,
    as_batch,
    is_unwritable,
    record_rollouts,
    refill,
    rejection_sampling_stage,
    rollout_advantages,
    to_its_end,
    warm_start_stage,
    watch_numbers,
    watch_voids,
)

# Streams of randomness: what is sampled for one purpose never repeats in another.
TRAINING, EVALUATION, REJECTION, REFILL = range(4)
AHEAD = "ahead.json"  # the file of a checkpoint with the completions sampled ahead of it


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _options(arguments)
    try:
        config = load_config(options.config, options.overrides)
        claim_gpu_memory()
        return asyncio.run(run(config, resume=options.resume))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except (SaveFailed, OSError) as error:
        if isinstance(error, OSError) and not is_unwritable(error):
            raise
        print(
            f"error: run_dir {config.run_folder} cannot be written: {error}: make room or give the right to write, "
            "and go on from the last checkpoint with --resume latest",
            file=sys.stderr,
        )
        return ExitCode.UNWRITABLE
    except KeyboardInterrupt:
        print("stopped before the first step: --resume latest begins again", file=sys.stderr)
        return ExitCode.INTERRUPTED


async def run(config: Config, *, resume: str | None) -> int:
    """Train as the settings say; return the exit code."""
    limit = TimeLimit(config.max_hours)
    folder = RunFolder(config.run_folder, resuming=_is_of_run(resume, config.run_folder))
    console = RunConsole(folder.log)
    try:
        start = _starting_point(folder, resume, console)
        folder.write_config(config.to_yaml())
        problems = await without_unsound(config, load_problem_sets(config, console.say), console.say)
        plan = check_memory(config, found_shape(config), this_device(), evaluated=len(problems.test))
        console.say(plan.summary())
        async with open_parts(config, problems, console.say) as parts:
            trainer = Trainer(config, folder, console, problems, parts, limit)
            return await trainer.train(start)
    finally:
        console.close()
        folder.release()


def _is_of_run(resume: str | None, folder: Path) -> bool:
    """Return whether the checkpoint to resume is the folder's own; another's may only start a new run."""
    return resume == "latest" or (resume is not None and Path(resume).resolve().is_relative_to(folder.resolve()))


def _starting_point(folder: RunFolder, resume: str | None, console: RunConsole) -> Checkpoint | None:
    """Return the checkpoint to go on from; None for a new run, and for one that was stopped before its first save."""
    if resume is None:
        return None
    if resume != "latest":
        return Checkpoint.open(Path(resume))
    newest = Checkpoint.newest(folder.checkpoints, report=console.say)
    if newest is None:
        if not folder.was_used:
            raise UserError(
                f"--resume: {folder.checkpoints} holds no checkpoint: give the path of a checkpoints/step_N folder, "
                "or train anew"
            )
        console.say(f"{folder.path} has no checkpoint yet: the run begins again")
    return newest


class Trainer:
    """The training loop: problems → workflows → runs → grades → advantages → update."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        console: RunConsole,
        problems: ProblemSets,
        parts: RunParts,
        limit: TimeLimit,
    ) -> None:
        self.config, self.folder, self.console, self.problems, self.limit = config, folder, console, problems, limit
        self.policy = policy = parts.policy
        self.schedule = BatchSchedule(problems.train, config.domain_ratios, config.rollout_batch_size, config.seed)
        # Seeds of runs are below 2**31, so that no other run schedules what refills this one's batches.
        self.further = BatchSchedule(
            problems.train, config.domain_ratios, config.rollout_batch_size, config.seed + 2**31
        )
        self.collector = RolloutCollector(
            driver=parts.driver,
            clients=parts.clients,
            executor=parts.executor,
            grader=parts.grader,
            operators=tuple(config.aflow_operators),
            limits=workflow_limits(config),
            workflow_format=config.workflow_format,
            prompt_tokens=policy.prompt_tokens,
        )
        self.pipeline = Pipeline(
            self._start, self._start_from, ahead=config.async_generation_ratio == 1, last=config.max_steps
        )
        self.stages = self._supervised_stages()
        self.learner: Learner | None = None  # that of the stage under way
        self.checkpoints = Checkpoints(folder.checkpoints, keep=config.keep_checkpoints)
        self.saved: Place | None = None  # the newest checkpoint
        self.state = RunState(parts.clients.budget, recent_voids=deque(maxlen=config.void_limit.window))

    async def train(self, start: Checkpoint | None) -> ExitCode:
        """Run the stages from the start, or from a checkpoint; return the exit code. Whatever stops it, it saves."""
        config, state, started = self.config, self.state, time.perf_counter()
        terminated = _cancelled_by(signal.SIGTERM)
        if start is not None:
            self._resume(start)
        self.journal = Journal(config, self.folder, self.console, first_step=state.next_line)
        try:
            await self._prepare()
            with self.console.progress("training", config.max_steps, completed=state.step) as progress:
                while state.step < config.max_steps:
                    progress.advance(await self.train_step(state.step + 1))
                    self.limit.check()
            self._save_and_wait()
            self.journal.summarise(state.step, time.perf_counter() - started)
            return ExitCode.COMPLETE
        except asyncio.CancelledError:
            if state.place is None:
                raise
            return self._stop(ExitCode.TERMINATED if terminated.is_set() else ExitCode.INTERRUPTED)
        except BudgetExhausted as reason:
            return self._stop(ExitCode.NEEDS_MENDING, reason)
        except StoppedEarly as reason:
            return self._stop(reason.code, reason)
        except UserError:
            self._save_and_wait()
            raise
        finally:
            await self.pipeline.close()
            self.checkpoints.close()
            self.journal.close()

    async def _prepare(self) -> None:
        """The supervised stages, first evaluation, first checkpoint: step 0. What was done before is not done again."""
        state = self.state
        if state.step is None:
            for stage in self.stages.values():
                await self._supervise(stage)
            self.learner = self._new_learner("step")
            state.place, state.unwritten = Place("step", 0), state.unwritten or {}
        if state.unwritten is not None:
            await self._complete()
        if state.step == 0:
            self.save()

    async def _supervise(self, stage: SupervisedStage) -> None:
        """Make the supervised steps of a stage that are still to be made."""
        state, last = self.state, Place(stage.name, stage.rounds * stage.steps)
        if state.place is not None and state.place >= last:
            return
        made = state.place.step if state.place and state.place.stage == stage.name else 0
        if not made:
            self.learner = self._new_learner(stage.name)
        batches = None
        with self.console.progress(stage.title, last.step, completed=made) as progress:
            for step in range(made + 1, last.step + 1):
                done_rounds, at = divmod(step - 1, stage.steps)
                if at == 0 or batches is None:
                    batches = stage.batches(done_rounds + 1, await stage.pairs(done_rounds + 1, at > 0), self.policy)
                metrics = await self._supervised_step(stage, step, batches[at]) if batches else {}
                progress.advance(metrics)

    async def _supervised_step(self, stage: SupervisedStage, step: int, batch: Callable[[], Batch]) -> dict[str, float]:
        """Make one supervised step, numbered from 1 in its stage; return its loss and entropy."""
        state, rows = self.state, batch()
        update = partial(self.learner.supervised_update, rows.tokens, rows.lengths, rows.loss_mask)
        async with self.collector.device:
            metrics = await to_its_end(update)
        state.place = Place(stage.name, step)
        figures = {name: metrics[name] for name in ("loss", "entropy")}
        state.unwritten = (state.unwritten or {}) | {f"{stage.name}/{name}": figures[name] for name in figures}
        total = stage.rounds * stage.steps
        if step == 1 or step % 50 == 0 or step == total:
            self.console.say(f"{stage.title} {step}/{total}: loss {metrics['loss']:.3f} nats a token")
        if step % self.config.save_every == 0:
            self.save()
        self.checkpoints.check()
        watch_numbers(metrics, state)
        self.limit.check()
        return figures

    async def train_step(self, step: int) -> dict[str, float]:
        """Make one GRPO step, numbered from 1; return its metrics."""
        config, state, started = self.config, self.state, time.perf_counter()
        temperature = config.temperature_schedule.at(step - 1)
        collected = await self.pipeline.rollouts(step)
        batch = await self._refilled(step, collected)
        rollouts = batch.chosen + batch.left
        advantages = await rollout_advantages(batch.chosen, config, self.console.say)

        await self.pipeline.settle(step)
        async with self.collector.device:
            updating = time.perf_counter()
            update = await to_its_end(
                partial(
                    self.learner.update,
                    as_batch(batch.chosen, advantages),
                    temperature,
                    off_policy=self.pipeline.is_off_policy(step),
                )
            )
            times = collected.times | {"time/update": time.perf_counter() - updating}
        self.pipeline.drop(step)
        state.place = Place("step", step)
        state.num_tokens += sum(len(r.completion.prompt_tokens) + len(r.completion.tokens) for r in rollouts)

        shares = [*advantages, *[0.0] * len(batch.left)]
        record_rollouts(self.folder, f"step_{step:06d}", rollouts, self.policy, shares)
        spent = spending(part.spent for part in (collected, *batch.further))
        metrics = rollout_metrics(collected.rollouts, config.num_return_sequences_in_group) | update | spent
        metrics |= {"temperature": temperature, "num_tokens": state.num_tokens, "memory/peak_gb": peak_memory_gb()}
        state.unwritten = metrics | batch.metrics | times | {"step_time": time.perf_counter() - started}
        metrics = await self._complete()
        if step % config.save_every == 0 or state.best_place == state.place:
            self.save()
        self.checkpoints.check()
        watch_voids(rollouts, state, config.void_limit)
        watch_numbers(update, state)
        return metrics

    async def _refilled(self, step: int, collected: Collected) -> Refilled:
        """Return what the step learns from: the rollouts collected, refilled where settings say so."""
        config = self.config
        if config.dynamic_sampling is None:
            return Refilled(collected.rollouts, [], [], {})
        rounds = config.dynamic_sampling.max_rounds

        async def more(number: int, problems: int) -> Collected:
            return await self.collector.collect(
                self.further.batch((step - 1) * rounds + number - 1)[:problems],
                samples=config.num_return_sequences_in_group,
                seed=(config.seed, REFILL, step, number),
                params=self.policy.sampling_params(config.temperature_schedule.at(step - 1)),
                adapter=self.learner.adapter,
            )

        return await refill(collected.rollouts, config.num_return_sequences_in_group, rounds, more)

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
        metrics = rollout_metrics(rollouts, stage.samples) | spending([collected.spent])
        metrics["time"] = time.perf_counter() - started
        record_rollouts(self.folder, f"eval_{step:06d}", rollouts, self.policy)
        self.journal.write_evaluation(step, metrics, len(rollouts))
        self.state.note_evaluation(step, metrics.get("accuracy", 0.0), metrics.get("reward", 0.0))
        return {f"eval_{name}": value for name, value in metrics.items()}

    def save(self) -> None:
        """Begin to save the state, once for each place."""
        state = self.state
        if state.place is None or self.saved == state.place:
            return
        details = state.details() | {"config": self.config.model_dump(mode="json")}
        ahead = None if state.step is None else self.pipeline.text(state.step + 1)
        files = {} if ahead is None else {AHEAD: ahead}
        self.checkpoints.save(state.place, self.learner.state, details=details, files=files, best=state.best_place)
        self.saved = state.place

    def _save_and_wait(self) -> None:
        self.save()
        self.checkpoints.wait()

    def _stop(self, code: ExitCode, reason: Exception | None = None) -> ExitCode:
        """Save, and say where and why the run stops."""
        self._save_and_wait()
        why = "" if reason is None else f": {reason}"
        where = "before the first step" if self.state.place is None else f"at {self.state.place.words}"
        self.console.say(f"stopped {where}{why}; go on with --resume latest")
        return code

    def _resume(self, start: Checkpoint) -> None:
        """Take up the state of a checkpoint, and what was sampled ahead of it."""
        state, own = self.state, start.path.absolute().parent == self.checkpoints.folder
        self.learner = self._new_learner(start.place.stage)
        self.learner.state = start.restore(self.learner.state)
        state.take_up(start.place, start.details)
        if own:
            self.saved = start.place
            self.checkpoints.set_aside_after(start.place, report=self.console.say)
        ahead = start.read_file(AHEAD)
        if ahead is not None and state.step < self.config.max_steps:
            self.pipeline.resume(state.step + 1, ahead)
        self.console.say(f"resumed: {start.place.words} from {start.path}")
        now, then = self.config.model_dump(mode="json"), start.details["config"]
        if changed := [f"{name}={now[name]}" for name in now if now[name] != then.get(name)]:
            self.console.say(f"resumed with other settings than it was saved with: {', '.join(changed)}")

    def _supervised_stages(self) -> dict[str, SupervisedStage]:
        config, problems = self.config, self.problems.train
        stages = []
        if config.warm_start:
            stages.append(warm_start_stage(config, problems))
        if config.rejection_sampling:
            folder = self.folder.path / "demonstrations"
            stages.append(rejection_sampling_stage(config, problems, folder, self._candidates))
        return {stage.name: stage for stage in stages}

    async def _candidates(self, number: int, problems: Sequence[Problem]) -> list[Rollout]:
        """Return the rollouts that a round of rejection sampling chooses from."""
        stage = self.config.rejection_sampling
        collected = await self.collector.collect(
            problems,
            samples=stage.samples,
            seed=(self.config.seed, REJECTION, number),
            params=self.policy.sampling_params(stage.temperature),
            adapter=self.learner.adapter,
        )
        rollouts = collected.rollouts
        record_rollouts(self.folder, f"rejection_{number:06d}", rollouts, self.policy)
        metrics = rollout_metrics(rollouts, stage.samples)
        self.console.say(f"rejection sampling, round {number}, {len(rollouts)} rollouts: {figures(metrics)}")
        return rollouts

    def _new_learner(self, stage: str) -> Learner:
        """Return the learner of a stage, or of GRPO's steps, which starts from the adapter as it is."""
        adapter = self.policy.new_adapter() if self.learner is None else self.learner.adapter
        if stage == "step":
            return Learner(self.policy.model, adapter, learner_settings(self.config))
        if stage not in self.stages:
            raise UserError(f"--resume: the checkpoint is of the stage {stage}: set {stage} as it was saved with")
        return Learner(self.policy.model, adapter, self.stages[stage].settings)

    def _start(self, step: int) -> Collection:
        return self.collector.start(
            self.schedule.batch(step - 1),
            samples=self.config.num_return_sequences_in_group,
            seed=(self.config.seed, TRAINING, step),
            params=self.policy.sampling_params(self.config.temperature_schedule.at(step - 1)),
            adapter=self.learner.adapter,
        )

    def _start_from(self, step: int, completions: Sequence[Completion]) -> Collection:
        seed = (self.config.seed, TRAINING, step)
        return self.collector.start_from(completions, self.schedule.batch(step - 1), seed=seed)


def _cancelled_by(number: signal.Signals) -> asyncio.Event:
    """Let a signal cancel the task that asks; the event tells that it came."""
    came, task = asyncio.Event(), asyncio.current_task()

    def cancel() -> None:
        came.set()
        task.cancel()

    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(number, cancel)
    return came


if __name__ == "__main__":
    sys.exit(main())
