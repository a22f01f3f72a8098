"""A trained adapter out of a run, for the commands that use one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PRNGKeyArray

from aflow_jax.commands import BEST, NEWEST
from aflow_jax.config import Config, load_config
from aflow_jax.errors import UserError
from aflow_jax.qwen2 import Adapter, Qwen2Config, init_adapter, resolve_model
from aflow_jax.runs import Checkpoint, saved_steps
from aflow_jax.runs.manifest import describe


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter out of a checkpoint, with the base model that it belongs to.

    Attributes:
        adapter: as it was at that step.
        base_name: the base as the run's settings name it: a Hugging Face name or a folder.
        base_folder: where that base is on this machine.
        config: the run's settings.
        step: the step of the checkpoint.
        run: the folder of the run.
    """

    adapter: Adapter
    base_name: str
    base_folder: Path
    config: Config
    step: int
    run: Path


def load_trained_adapter(
    checkpoint: Path,
    *,
    base: str | None = None,
    which: str = NEWEST,
    say: Callable[[str], None] = lambda line: None,
) -> TrainedAdapter:
    """Read the adapter, and nothing else, from a checkpoint of a run.

    Args:
        checkpoint: a `checkpoints/step_N` folder, or a run folder, which means one of its checkpoints.
        base: name or folder of the base model, where it is not what the run's settings say.
        which: of a run folder's checkpoints: NEWEST, or BEST by the evaluations inside training.
        say: hears which checkpoint it is.

    Raises:
        UserError: no such checkpoint, settings missing beside it, or a base of another shape; the best of a run that
            has not evaluated.
    """
    opened, choice = _open(checkpoint, which)
    run = opened.path.parent.parent
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}/config.yaml is missing: keep a checkpoint in its run folder, beside the run's settings")
    config = load_config(run / "config.yaml")
    # A run that made its own model keeps it inside; the run may have been moved since.
    name = base or (str(run / "model") if config.create_model else config.base_model)
    folder = resolve_model(name)
    adapter = _restore(opened, config, Qwen2Config.from_folder(folder))
    say(f"checkpoint: {opened.place.words}, {choice}")
    return TrainedAdapter(adapter, name, folder, config, opened.place.step, run)


def _open(path: Path, which: str) -> tuple[Checkpoint, str]:
    """Return the checkpoint that is meant, and in words why it is that one."""
    folder = path / "checkpoints"
    steps = saved_steps(folder)
    if not steps:
        return Checkpoint.open(path), f"from {path}"
    newest = Checkpoint.open(folder / f"step_{steps[-1]}")
    best = newest.details.get("best")  # of all evaluations up to its save, and a better one would have been saved
    if which == NEWEST:
        step = None if best is None else int(best["step"])
        beside = "" if step is None else f"; the best by evaluation is step {step} (--which {BEST})"
        if step == newest.place.step:
            beside = ", and its best by evaluation"
        return newest, f"the newest of {path}{beside}"
    if best is None:
        raise UserError(
            f"{path}: no checkpoint is the best, because the run has not evaluated (eval_every): take --which {NEWEST}"
        )
    opened = Checkpoint.open(folder / f"step_{int(best['step'])}")
    return opened, f"the best of {path} by evaluation (accuracy {best['accuracy']:.1%})"


def adapter_of_settings(config: Config, shape: Qwen2Config, key: PRNGKeyArray) -> Adapter:
    """Return a new adapter, which changes nothing yet, for a model of that shape as the settings describe it."""
    return init_adapter(
        shape,
        config.lora_rank,
        config.lora_alpha,
        config.lora_target_modules,
        key,
        dropout=config.lora_dropout,
        rslora=config.lora_rslora,
    )


def _restore(checkpoint: Checkpoint, config: Config, shape: Qwen2Config) -> Adapter:
    """Read the matrices into an adapter as the settings describe it."""
    adapter = jax.eval_shape(lambda key: adapter_of_settings(config, shape, key), jax.random.key(0))
    for key, wanted in describe(adapter.weights).items():
        found = checkpoint.arrays.get(f".adapter_weights{key}")
        if found != wanted:
            raise UserError(
                f"{checkpoint.path}: {key} is {found or 'missing'} but this base model needs {wanted}: "
                "give the base that was trained, with --base"
            )
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {
        "adapter_weights": jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), adapter.weights
        )
    }
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(
            checkpoint.path.absolute(),
            args=ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )
    return adapter.replace_weights(restored["adapter_weights"])
