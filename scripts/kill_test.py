"""Kill a run over and over, resume it each time, and compare it with one that was never stopped.

    python scripts/kill_test.py --kills 30 --folder runs/kill_test

Each life of the run is a process that ends by SIGKILL: half of them at a moment drawn from `MOMENTS`, inside a function
of the trainer, the others after a random time. Then `--resume latest` again. At the end the metrics (times aside), the
adapter and the optimizer must be the same bits, and no life may have lost more than the steps since the last save.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from aflow_jax.runs.manifest import Place, saved_places
from aflow_jax.train import main as train

CONFIG = Path(__file__).parent / "kill_test.yaml"
MOMENTS = {
    "sampling": "aflow_jax.sampling.scheduler:Scheduler.step",
    "execution": "aflow_jax.workflow.session:Session._complete",
    "grading": "aflow_jax.rewards:Grader.grade",
    "update": "aflow_jax.grpo.learner:add_policy_gradient",
    "supervised update": "aflow_jax.grpo.learner:add_supervised_gradient",
    "before a save": "aflow_jax.runs.checkpoints:Checkpoints._write",
    "after Orbax's commit": "aflow_jax.runs.checkpoints:digests",
    "before the manifest": "aflow_jax.runs.checkpoints:write_atomically",
    "before an old checkpoint goes": "aflow_jax.runs.checkpoints:saved_places",
    "before a line of metrics": "aflow_jax.runs.metrics:MetricsFile.write",
    "before rollouts are kept": "aflow_jax.training.records:write_rollouts",
}
TIMED = ("time", "latency", "memory")


def killing(place: str, call: int) -> None:
    """Make the `call`-th call of a function or method end this process by SIGKILL."""
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, last), Counter()

    def wrapper(*arguments, **options):
        calls[place] += 1
        if calls[place] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, last, wrapper)


def live(
    arguments: list[str], folder: Path, log: Path, moment: tuple[str, int] | None, seconds: float | None
) -> int | None:
    """Run the trainer in a fork of this process; return its exit code, None where it was killed.

    `seconds` count from when the model is loaded.

    JAX is imported and has not touched a device yet, which is what makes forking sound and each life cheap.
    """
    child = os.fork()
    if child == 0:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        if moment:
            killing(MOMENTS[moment[0]], moment[1])
        os._exit(train(arguments))
    end, loads = None, said(folder, " model: ")
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None
        if end is None and seconds is not None and said(folder, " model: ") > loads:
            end = time.monotonic() + seconds
        if end is not None and time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def lines(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    text = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in text if line.endswith("\n")]


def untimed(folder: Path) -> list[dict]:
    return [
        {name: value for name, value in line.items() if not any(word in name for word in TIMED)}
        for line in lines(folder)
    ]


def saved(folder: Path) -> Place | None:
    """Return what the newest complete checkpoint of a run is after."""
    return max(saved_places(folder / "checkpoints"), default=None)


def said(folder: Path, word: str) -> int:
    """Return how many lines of the run's log hold a word."""
    log = folder / "training.log"
    return log.read_text().count(word) if log.exists() else 0


def resumptions(folder: Path) -> list[str]:
    """Return the checkpoint of each resumption, as the run said it."""
    log = folder / "training.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.rsplit("/", 1)[-1] for line in lines if " resumed: " in line]


def arrays(folder: Path) -> list[np.ndarray]:
    newest = max((folder / "checkpoints").glob("step_*"), key=lambda path: int(path.name.split("_")[1]))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(ocp.StandardCheckpointer().restore(newest.absolute()))]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path("runs/kill_test"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest",
        type=float,
        default=8.0,
        help="seconds after loading the model that a life killed at random lasts, at most",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings beside kill_test.yaml's")
    return parser.parse_intermixed_args()


def main() -> int:
    chosen = options()
    draw, log = random.Random(chosen.seed), chosen.folder / "lives.log"
    chosen.folder.mkdir(parents=True, exist_ok=True)
    whole, killed = chosen.folder / "whole", chosen.folder / "killed"
    base = ["--config", str(CONFIG), *chosen.overrides]
    began = time.monotonic()
    if not whole.exists() and live([*base, f"run_dir={whole}"], whole, log, None, None) != 0:
        print(f"the run that nobody kills failed: see {log}")
        return 1
    kills, ends, complete, lost = Counter(), 0, False, 0
    while sum(kills.values()) < chosen.kills or not complete:
        if complete:  # all steps are made: another run is killed
            compare(whole, killed)
            complete, ends = False, ends + 1
            killed = chosen.folder / f"killed_{ends}"
        last = sum(kills.values()) >= chosen.kills
        moment = None if last or draw.random() < 0.5 else (draw.choice(list(MOMENTS)), draw.randrange(1, 5))
        seconds = None if last or moment else draw.uniform(0.0, chosen.longest)
        expected, before = saved(killed), len(resumptions(killed))
        resume = ["--resume", "latest"] if killed.exists() else []
        code = live([*base, f"run_dir={killed}", *resume], killed, log, moment, seconds)
        for place in resumptions(killed)[before:]:
            if place != str(expected):
                sys.exit(f"resumed from {place}, but {expected} was saved")
        what = f"{moment[0]}, call {moment[1]}" if moment else "at random"
        if code is None:
            kills[what.split(",")[0]] += 1
        elif code:
            print(f"a life ended with {code} ({what}): see {log}")
            return 1
        complete = code == 0
        line, place = max((line["step"] for line in lines(killed)), default=-1), saved(killed)
        if not complete and place and place.stage == "step":
            lost = max(lost, line - place.step)
        print(
            f"kill {sum(kills.values())}: {what}: {'complete' if complete else f'at line {line}, saved {place}'}",
            flush=True,
        )
    compare(whole, killed)
    for what, count in sorted(kills.items()):
        print(f"{count:4d}  {what}")
    print(
        f"{sum(kills.values())} kills over {ends + 1} runs, in {time.monotonic() - began:.0f} s: "
        f"same metrics, adapter and optimizer; steps made again after a kill: {lost} at most"
    )
    return 0


def compare(whole: Path, killed: Path) -> None:
    """Exit unless both runs ended with the same figures and the same arrays, bit for bit."""
    child = os.fork()  # what reads arrays starts JAX's threads, which a process that forks must not have
    if child == 0:
        same = untimed(whole) == untimed(killed) and all(
            one.tobytes() == other.tobytes() for one, other in zip(arrays(whole), arrays(killed), strict=True)
        )
        os._exit(0 if same else 1)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{killed} did not end as {whole} did: compare their metrics.jsonl and newest checkpoints")


if __name__ == "__main__":
    sys.exit(main())
