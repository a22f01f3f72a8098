"""Take a trained adapter elsewhere: python -m aflow_jax.export CHECKPOINT FOLDER [--merged]

Without --merged FOLDER becomes a PEFT adapter, for peft, transformers and vLLM's --lora-modules. With it FOLDER becomes
a whole model with its tokenizer, for anything that reads Hugging Face models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from aflow_jax.commands import NEWEST, add_which, exit_code
from aflow_jax.errors import UserError


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.export",
        description="Write a trained adapter as a PEFT folder, or merged into its base model.",
        epilog="example: python -m aflow_jax.export runs/training exported/adapter",
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoints/step_N folder, or a run folder (see --which)")
    parser.add_argument("folder", type=Path, help="where to write; made where it is missing")
    add_which(parser)
    parser.add_argument("--merged", action="store_true", help="write the whole model with the adapter merged into it")
    parser.add_argument("--base", metavar="NAME", help="base model, where it is not what the run's settings name")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    _options(None)  # --help and mistakes are answered before the imports below, which take seconds

from aflow_jax.qwen2 import export_merged, save_peft
from aflow_jax.trained import load_trained_adapter


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    checkpoint, folder = options.checkpoint, options.folder
    print(export(checkpoint, folder, merged=options.merged, base=options.base, which=options.which, say=_say))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def export(
    checkpoint: Path,
    folder: Path,
    *,
    merged: bool,
    base: str | None = None,
    which: str = NEWEST,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Write the adapter of a checkpoint; return one line that says what is where.

    Args:
        checkpoint: a checkpoints/step_N folder, or a run folder.
        folder: where to write.
        merged: the whole model, with the adapter merged into it.
        base: name or folder of the base model, where it is not what the run's settings say.
        which: of a run folder's checkpoints, the newest or the best by the evaluations inside training.
        say: hears which checkpoint it is.

    Raises:
        UserError: no such checkpoint, a base that cannot be had, a folder that already holds something or cannot be
            written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: give a new folder to write to")
    trained = load_trained_adapter(checkpoint, base=base, which=which, say=say)
    try:
        if merged:
            export_merged(trained.base_folder, trained.adapter, folder)
            return f"{folder}: {trained.base_name} with the adapter of step {trained.step} merged into it"
        save_peft(trained.adapter, folder, base_model=trained.base_name)
        return f"{folder}: PEFT adapter of step {trained.step} for {trained.base_name}"
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): give a folder elsewhere, or make room"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
