"""Where a run's figures go: metrics.jsonl, W&B, lines of the log, alarms, and the summary at the end."""

from __future__ import annotations

from collections import deque

from aflow_jax.config import Config
from aflow_jax.runs import HISTORY, MetricsFile, RunConsole, RunFolder, WandbLog, alarms, figures


class Journal:
    """Writes the figures of each step once, wherever they are wanted; a further sink is a further line of `write`."""

    def __init__(self, config: Config, folder: RunFolder, console: RunConsole, *, first_step: int) -> None:
        """Open the files for `first_step` and on; what they hold of these steps is dropped."""
        self._config, self._folder, self._console = config, folder, console
        self._metrics = MetricsFile(folder.metrics, first_step=first_step)
        self._wandb = _open_wandb(config, folder)
        self._recent: deque[dict[str, float]] = deque(maxlen=HISTORY)
        self._evaluations: dict[int, dict[str, float]] = {}

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of a step; 0 is what was before the first."""
        config = self._config
        self._metrics.write(step, metrics)
        if self._wandb:
            self._wandb.write(step, metrics)
        if step and (step % config.log_every == 0 or step in (1, config.max_steps)):
            self._console.say(f"step {step}/{config.max_steps}: {figures(metrics)}")
        if step:
            self._recent.append(metrics)
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
        say(f"train on: the same command with --resume latest max_steps={self._config.max_steps * 2}")

    def close(self) -> None:
        """Complete what is sent elsewhere."""
        if self._wandb:
            self._wandb.close()


def _open_wandb(config: Config, folder: RunFolder) -> WandbLog | None:
    if not config.wandb.enabled:
        return None
    return WandbLog(
        project=config.wandb.project,
        name=config.exp_name,
        folder=folder.path,
        config=config.model_dump(mode="json"),
    )
