"""From what a user names, a checkpoint or settings, to the settings and the adapter that a use of it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aflow_jax.commands import NEWEST
from aflow_jax.config import Config, load_config
from aflow_jax.qwen2 import Adapter
from aflow_jax.trained import load_trained_adapter

DEFAULT_CONFIG = "training"


@dataclass(frozen=True)
class Settings:
    """What a trained policy is used with.

    Attributes:
        config: as the run had it, with overrides; what a use writes goes to a folder of its own, not to the run's.
        adapter: of the checkpoint; None without one.
        step: of the checkpoint.
        run: the folder of the run that was trained.
    """

    config: Config
    adapter: Adapter | None = None
    step: int | None = None
    run: Path | None = None


def settings_for_use(
    checkpoint: str | Path | None,
    config: str | Path | None,
    overrides: Sequence[str],
    folder: Path,
    *,
    which: str = NEWEST,
    say: Callable[[str], None] = lambda line: None,
) -> Settings:
    """Read the settings, and the adapter where there is a checkpoint.

    Args:
        checkpoint: a run folder, which means one of its checkpoints, or a checkpoints/step_N folder; None for none.
        config: a file of settings, or a preset's name; None is the run's own, without a checkpoint DEFAULT_CONFIG.
        overrides: `key=value` settings.
        folder: where the simulator's problems and cached replies go.
        which: of a run folder's checkpoints, the newest or the best.
        say: hears which checkpoint is taken.

    Raises:
        UserError: no such checkpoint, wrong settings, or a base that is not the one trained.
    """
    # A run is not written to, and no step is sampled ahead.
    changes = {"run_dir": str(folder), "async_generation_ratio": 0}
    if checkpoint is None:
        return Settings(load_config(config or DEFAULT_CONFIG, list(overrides)).model_copy(update=changes))
    base = next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("base_model=")), None)
    trained = load_trained_adapter(Path(checkpoint), base=base, which=which, say=say)
    settings = load_config(config or trained.run / "config.yaml", list(overrides))
    changes |= {"create_model": None, "base_model": str(trained.base_folder)}
    return Settings(settings.model_copy(update=changes), trained.adapter, trained.step, trained.run)
