"""Train a policy to write workflows: python -m aflow_jax.train --config FILE [--resume PATH|latest] [key=value …]

Exit codes (`ExitCode`): 0 the run is complete; 2 a mistake that the user can mend, before anything was done; 3 stopped
with a checkpoint because something must be mended (the budget is spent, too many rollouts are void); 4 stopped with a
checkpoint because max_hours are over; 5 stopped with a checkpoint because loss or gradient are not finite; 6 the run
folder cannot be written, its last checkpoint is intact; 7 another process of the run has ended, the last checkpoint is
intact; 130 and 143 stopped by Ctrl-C and SIGTERM, with a checkpoint.

This is the command; the loop itself, in reading order, is `aflow_jax.training.loop`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from aflow_jax.config import Config, load_config
from aflow_jax.errors import UserError


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.train",
        description="Train a Qwen2.5 policy to write agent workflows, with GRPO.",
        epilog="example: python -m aflow_jax.train --config configs/quickstart.yaml max_steps=10 run_dir=runs/mine. "
        "Ends with 0 complete, 2 a mistake to mend, 3 budget or void rollouts, 4 max_hours, 5 numbers not finite, "
        "6 folder not writable, 130 Ctrl-C, 143 SIGTERM; after 3, 4, 5, 130 and 143 --resume latest goes on.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML settings, or a preset such as quickstart")
    parser.add_argument("--resume", metavar="PATH|latest", help="go on from a checkpoints/step_N folder, or the newest")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    _options(None)  # --help and mistakes are answered before the imports below, which take seconds

import jax

from aflow_jax.assembly import for_this_process, load_problem_sets, open_parts, without_unsound
from aflow_jax.commands import exit_code
from aflow_jax.memory import check_memory, claim_gpu_memory, found_shape, keep_freed_memory, this_device
from aflow_jax.processes import Processes, join_processes
from aflow_jax.runs import Checkpoint, RunConsole, RunFolder, SaveFailed
from aflow_jax.training import ExitCode, TimeLimit, Trainer, is_unwritable


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _options(arguments)
    return exit_code(lambda: _train(options))


def _train(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    claim_gpu_memory()
    keep_freed_memory()
    try:
        with join_processes(config.distributed) as processes, tempfile.TemporaryDirectory() as scratch:
            code = asyncio.run(run(config, processes, Path(scratch), resume=options.resume))
            processes.wait()  # the first one serves the others to their end
            return code
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


async def run(config: Config, processes: Processes, scratch: Path, *, resume: str | None) -> int:
    """Train as the settings say; return the exit code. Processes other than the first write in `scratch`."""
    limit = TimeLimit(config.max_hours, processes)
    own, shared = for_this_process(config, processes, scratch), config.run_folder
    folder = RunFolder(own.run_folder, resuming=_is_of_run(resume, shared), checkpoints=shared / "checkpoints")
    console = RunConsole(folder.log, quiet=not processes.is_first)
    try:
        start = _starting_point(folder, resume, console)
        folder.write_config(own.to_yaml())
        problems = await without_unsound(config, load_problem_sets(config, console.say), console.say)
        plan = check_memory(
            config, found_shape(config), this_device(), evaluated=len(problems.test), devices=jax.device_count()
        )
        console.say(plan.summary())
        # Here also each waits for the others' plans, before the first one makes a model.
        await processes.agree_on("problems or checkpoint", (problems, start and start.place))
        async with open_parts(own, problems, console.say, processes) as parts:
            trainer = Trainer(own, folder, console, problems, parts, limit)
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


if __name__ == "__main__":
    sys.exit(main())
