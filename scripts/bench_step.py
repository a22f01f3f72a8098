"""A whole GRPO step, sampling included, against TRL's GRPOTrainer and Tunix's GRPO learner, on the CPU in float32.

    python scripts/bench_step.py --tunix-python PATH
    python scripts/bench_step.py --sides ours trl --prompts 5 --samples 2 --prompt 256 --new 128 --steps 5

A step is the same for all: `--samples` completions of `--new` tokens of each prompt at temperature 1, no filter and no
end token; as reward the share of a completion's tokens that are even; advantages within each prompt's group;
log-probabilities under the base model (the adapter off); the objective of GRPO with the k3 estimate of the divergence
from the base, its gradient with respect to an adapter of rank 64 on q, k, v, o, clipping to norm 1, and one step of
AdamW. No side recomputes log-probabilities for a ratio that is 1, and none recomputes layers in the backward pass
(`--remat` says what ours keep). All rows go through the model at once, on every side.

All load one random checkpoint and get the same prompts; each begins with an adapter of its own, A random and B zero.
The peers run their own loops, from their own sampling to their own optimizer, as they come, without vLLM and the like:
TRL's `train` with transformers' generate, its dynamic cache and the adapter of peft, and Tunix's `train` with its
vanilla rollout engine and the adapter of qwix. They wait between two steps for their turn; what TRL loads and logs
between two steps is not counted.

Each side lives in a process of its own; they take turns. Seconds are the median of steps after two that compile and
warm up, memory is a process's peak, libraries included. A run fails where a side samples another number of tokens,
learns another number of weights, or has an adapter whose B is still zero afterwards. Where all is well B moved on all
sides by about the learning rate a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import subprocess
import tempfile
from collections.abc import Sequence

import numpy as np
from bench_model import Writer
from benchmarking import Worker, alternate, machine, read_shape, require_tokens
from step_sides import Ours, Step, Trl, Tunix, Work

from aflow_jax.qwen2 import REMAT_POLICIES

SIDES = {"ours": "ours", "trl": "TRL", "tunix": "Tunix"}
WARM_UP = 2
TRL_NEEDS = ("torch", "transformers", "peft", "trl", "datasets")
TUNIX_NEEDS = ("tunix", "qwix")


def main() -> None:
    """Make steps with every side, and print a line for each and the ratios."""
    options = parse_options()
    config = dataclasses.replace(options.shape, tie_word_embeddings=options.shape.hidden_size < 2048)
    chance = np.random.default_rng(0)
    prompts = chance.integers(1, config.vocab_size, (options.prompts, options.prompt)).tolist()
    work = Work(prompts=prompts, samples=options.samples, new_tokens=options.new)
    print(machine(("jax", "jaxlib", "torch", "transformers", "peft", "trl")))
    sides = [side for side in options.sides if not left_out(side, options.tunix_python)]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        Worker(Writer, config, folder).close()
        made: dict[str, tuple] = {
            "ours": (Ours, folder, work, options.remat),
            "trl": (Trl, folder, work),
            "tunix": (Tunix, folder, work, options.tunix_python),
        }
        workers = {side: Worker(*made[side], environment={"JAX_PLATFORMS": "cpu"}) for side in sides}
        if "tunix" in workers:
            print(f"Tunix's environment: {workers['tunix'].call('versions')}")
        print(
            f"a GRPO step of {options.prompts} x {options.samples} x ({options.prompt} + {options.new}) tokens, hidden "
            f"{config.hidden_size}, {config.num_hidden_layers} layers, vocabulary {config.vocab_size}, float32, "
            f"{options.steps} steps"
        )
        report(workers, work.rows * work.new_tokens, options.steps)
        for worker in workers.values():
            worker.close()


def left_out(side: str, tunix_python: str | None) -> bool:
    """Return whether a side's environment is missing, and say so."""
    missing = ""
    if side == "trl" and (lacking := [name for name in TRL_NEEDS if importlib.util.find_spec(name) is None]):
        missing = f"not installed: {', '.join(lacking)}"
    elif side == "tunix":
        missing = missing_in(tunix_python, TUNIX_NEEDS) if tunix_python else "no --tunix-python"
    if missing:
        print(f"{SIDES[side]} is left out: {missing}")
    return bool(missing)


def missing_in(python: str, packages: Sequence[str]) -> str:
    """Return what another interpreter lacks of some packages, or nothing."""
    code = "import importlib.util, sys; print(*[name for name in sys.argv[1:] if not importlib.util.find_spec(name)])"
    try:
        found = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{python} does not run: {error}"
    return f"not installed for {python}: {', '.join(found.stdout.split())}" if found.stdout.strip() else ""


def report(workers: dict[str, Worker], tokens: int, steps: int) -> None:
    """Time the sides in turns; print seconds, memory, tokens and the adapter of each, and the ratios."""
    last: dict[str, Step] = {}

    def seconds(side: str) -> float:
        last[side] = workers[side].call("step")
        require_tokens(last[side].tokens, tokens)
        return last[side].seconds

    turns = {side: lambda side=side: seconds(side) for side in workers}
    alternate(turns, WARM_UP)
    medians = alternate(turns, steps)
    for side, step in last.items():
        print(
            f"{SIDES[side]:6} {medians[side]:7.3f} s a step, {step.memory:5.2f} GB, {step.tokens} tokens a step, "
            f"{step.learned} weights learned, B moved by {step.moved:.1e}",
            flush=True,
        )
    if len({step.learned for step in last.values()}) > 1:
        raise RuntimeError("the sides learn adapters of different sizes")
    if still := [SIDES[side] for side, step in last.items() if not step.moved > 0]:
        raise RuntimeError(f"the adapter did not move: {', '.join(still)}")
    peers = [f"{medians[side] / medians['ours']:.2f} x {SIDES[side]}" for side in medians if side != "ours"]
    if "ours" in medians and peers:
        print(f"ours is {', '.join(peers)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=read_shape, default="small", help="tiny, small, 0.5B, or a model's folder")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--steps", type=int, default=5, help="timed, after two that are not")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2, help="completions of a prompt")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens of a completion")
    parser.add_argument(
        "--remat", default="none", choices=REMAT_POLICIES, help="what our layers keep for the backward pass"
    )
    parser.add_argument("--tunix-python", help="of an environment with google-tunix; without it Tunix is left out")
    parser.add_argument("--folder", help="where the checkpoint is written and removed again; default: the system's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
