"""Where a run's figures go: metrics.jsonl, W&B, TensorBoard, log lines, alarms, the page and the summary."""

from __future__ import annotations

from collections import deque

from aflow_jax.config import Config
from aflow_jax.errors import UserError
from aflow_jax.runs import (
    HISTORY,
    MetricsFile,
    RunConsole,
    RunFolder,
    TensorBoardLog,
    WandbLog,
    alarms,
    duration,
    figures,
)
from aflow_jax.runs.page import save_page


class Journal:
    """Writes the figures of each step once, wherever they are wanted; a further sink is a further line of `write`."""

    def __init__(self, config: Config, folder: RunFolder, console: RunConsole, *, first_step: int) -> None:
        """Open the files for `first_step` and on; what they hold of these steps is dropped."""
        self._config, self._folder, self._console = config, folder, console
        self._metrics = MetricsFile(folder.metrics, first_step=first_step)
        self._elsewhere = [
            log for log in (_open_wandb(config, folder), _open_tensorboard(config, folder, first_step)) if log
        ]
        self._recent: deque[dict[str, float]] = deque(maxlen=HISTORY)
        self._evaluations: dict[int, dict[str, float]] = {}

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of a step; 0 is what was before the first."""
        config = self._config
        self._metrics.write(step, metrics)
        for log in self._elsewhere:
            log.write(step, metrics)
        if not step:
            return
        self._recent.append(metrics)
        if step % config.log_every == 0 or step in (1, config.max_steps):
            times = [one["step_time"] for one in self._recent]
            left = duration((config.max_steps - step) * sum(times) / len(times))
            self._console.say(f"step {step}/{config.max_steps}: {figures(metrics)} · {left} left")
        for line in alarms(list(self._recent)):
            self._console.say(line)

    def write_evaluation(self, step: int, metrics: dict[str, float], rollouts: int) -> None:
        """Say how an evaluation went, and keep it for the summary. The step's metrics hold it too, as eval_…"""
        self._evaluations[step] = metrics
        self._console.say(f"evaluation at step {step}, {rollouts} held-out rollouts: {figures(metrics)}")

    def summarise(self, step: int, seconds: float) -> None:
        """Say what improved, where things are, and what to run next."""
        folder, say = self._folder.path, self._console.say
        if len(self._evaluations) > 1:
            first, last = self._evaluations[min(self._evaluations)], self._evaluations[max(self._evaluations)]
            names = [
                name for name in first if name.split("/")[0] in ("accuracy", "reward") or name == "workflow/parse_rate"
            ]
            rows = [
                [name, f"{first[name]:.3f}", f"{last[name]:.3f}", f"{last[name] - first[name]:+.3f}"] for name in names
            ]
            self._console.table("held-out problems", ["", "before", "after", "change"], rows)
        say(f"done: {step} steps in {seconds:.0f} s")
        say(f"checkpoint: {folder}/checkpoints/step_{step}")
        say(f"figures: {folder}/metrics.jsonl; every rollout: {folder}/rollouts/; log: {folder}/training.log")
        self._save_page()
        say(f"train on: the same command with --resume latest max_steps={self._config.max_steps * 2}")

    def close(self) -> None:
        """Complete what is sent elsewhere."""
        for log in self._elsewhere:
            log.close()

    def _save_page(self) -> None:
        """Write the page of the run; a run is complete without one too."""
        try:
            page = save_page(self._folder.path)
        except UserError as error:
            self._console.say(f"no page: {error}")
            return
        for fault in page.faults:
            self._console.say(fault)
        self._console.say(
            f"page: {page.path}, for any browser; `python -m aflow_jax.report {self._folder.path}` renews it"
        )


def _open_wandb(config: Config, folder: RunFolder) -> WandbLog | None:
    if not config.wandb.enabled:
        return None
    return WandbLog(
        project=config.wandb.project,
        name=config.exp_name,
        folder=folder.path,
        config=config.model_dump(mode="json"),
    )


def _open_tensorboard(config: Config, folder: RunFolder, first_step: int) -> TensorBoardLog | None:
    return TensorBoardLog(folder.path / "tensorboard", first_step=first_step) if config.tensorboard else None
