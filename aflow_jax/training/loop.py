"""The training loop, in reading order: the stages before GRPO, a step of it, what is saved, where a run goes on."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from aflow_jax.assembly import ProblemSets, RunParts, collector_of, learner_settings
from aflow_jax.clients import spending
from aflow_jax.collector import Collected, Collection
from aflow_jax.config import Config
from aflow_jax.errors import UserError
from aflow_jax.grpo import Learner
from aflow_jax.llm import BudgetExhausted
from aflow_jax.problems import BatchSchedule, Problem
from aflow_jax.rollout import Rollout
from aflow_jax.rollout_metrics import rollout_metrics
from aflow_jax.runs import Checkpoint, Checkpoints, Place, RunConsole, RunFolder, figures, peak_memory_gb
from aflow_jax.sampling import Completion
from aflow_jax.training.credit import as_batch, assign_credit
from aflow_jax.training.journal import Journal
from aflow_jax.training.pipeline import Pipeline
from aflow_jax.training.records import record_rollouts
from aflow_jax.training.refill import Refilled, refill
from aflow_jax.training.stages import (
    SupervisedStage,
    rejection_sampling_stage,
    steps_made,
    supervised_steps,
    warm_start_stage,
)
from aflow_jax.training.state import RunState
from aflow_jax.training.stopping import ExitCode, StoppedEarly, TimeLimit, watch_numbers, watch_voids
from aflow_jax.training.uninterrupted import to_its_end

# Streams of randomness: what is sampled for one purpose never repeats in another.
TRAINING, EVALUATION, REJECTION, REFILL = range(4)
AHEAD = "ahead.json"  # the file of a checkpoint with the completions sampled ahead of it


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
        self.policy = parts.policy
        self.schedule = BatchSchedule(problems.train, config.domain_ratios, config.rollout_batch_size, config.seed)
        # Seeds of runs are below 2**31, so that no other run schedules what refills this one's batches.
        self.further = BatchSchedule(
            problems.train, config.domain_ratios, config.rollout_batch_size, config.seed + 2**31
        )
        self.collector = collector_of(config, parts)
        self.pipeline = Pipeline(
            self._start, self._start_from, ahead=config.async_generation_ratio == 1, last=config.max_steps
        )
        self.stages = self._supervised_stages()
        self.learner: Learner | None = None  # that of the stage under way
        first = self.policy.processes.is_first
        self.checkpoints = Checkpoints(folder.checkpoints, keep=config.keep_checkpoints, first=first)
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
                    if state.step < config.max_steps:
                        self.limit.check()
            self._save_and_wait()
            self.journal.summarise(state.step, time.perf_counter() - started)
            return ExitCode.COMPLETE
        except asyncio.CancelledError:
            if state.place is None:
                raise
            return self._stop(ExitCode.TERMINATED if terminated.is_set() else ExitCode.INTERRUPTED)
        except BudgetExhausted as reason:
            return self._stop(ExitCode.BOUND_REACHED, reason)
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
        made = steps_made(stage, self.state)
        if made is None:
            return
        if not made:
            self.learner = self._new_learner(stage.name)
        with self.console.progress(stage.title, stage.total, completed=made) as progress:
            async for step, metrics in supervised_steps(stage, made, self.learner, self.policy, self.collector.device):
                self.state.place = Place(stage.name, step)
                self.state.unwritten = (self.state.unwritten or {}) | stage.metrics(metrics)
                progress.advance(metrics)
                if step == 1 or step % 50 == 0 or step == stage.total:
                    self.console.say(f"{stage.title} {step}/{stage.total}: loss {metrics['loss']:.3f} nats a token")
                if step % self.config.save_every == 0:
                    self.save()
                self.checkpoints.check()
                watch_numbers(metrics, self.state)
                self.limit.check()

    async def train_step(self, step: int) -> dict[str, float]:
        """Make one GRPO step, numbered from 1; return its metrics."""
        config, state, started = self.config, self.state, time.perf_counter()
        temperature = config.temperature_schedule.at(step - 1)
        collected = await self.pipeline.rollouts(step)
        batch = await self._refilled(step, collected)
        rollouts = batch.chosen + batch.left
        credit = await assign_credit(batch.chosen, config, self.console.say, self.policy.processes)

        await self.pipeline.settle(step)
        async with self.collector.device:
            updating = time.perf_counter()
            update = await to_its_end(
                partial(
                    self.learner.update,
                    as_batch(batch.chosen, credit.advantages),
                    temperature,
                    off_policy=self.pipeline.is_off_policy(step),
                )
            )
            times = collected.times | {"time/update": time.perf_counter() - updating}
        self.pipeline.drop(step)
        state.place = Place("step", step)
        state.num_tokens += sum(len(r.completion.prompt_tokens) + len(r.completion.tokens) for r in rollouts)

        shares = [*credit.advantages, *[0.0] * len(batch.left)]
        record_rollouts(self.folder, f"step_{step:06d}", rollouts, self.policy, shares)
        spent = spending(part.spent for part in (collected, *batch.further))
        metrics = rollout_metrics(collected.rollouts, config.num_return_sequences_in_group) | update | spent
        metrics |= {"temperature": temperature, "num_tokens": state.num_tokens, "memory/peak_gb": peak_memory_gb()}
        metrics |= credit.metrics | batch.metrics | times
        state.unwritten = metrics | {"step_time": time.perf_counter() - started}
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
        if changed := [f"{name}={now[name]}" for name in now if name != "run_dir" and now[name] != then.get(name)]:
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
            return self.policy.learner(adapter, learner_settings(self.config))
        if stage not in self.stages:
            raise UserError(f"--resume: the checkpoint is of the stage {stage}: set {stage} as it was saved with")
        return self.policy.learner(adapter, self.stages[stage].settings)

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
