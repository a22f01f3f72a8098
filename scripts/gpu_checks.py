"""Every check and benchmark that wants a GPU, one program after the other, each within a few minutes.

    python scripts/gpu_checks.py --list
    python scripts/gpu_checks.py --out results                       # all, about half an hour
    python scripts/gpu_checks.py --only tests model --out results    # some
    python scripts/gpu_checks.py --small --out results               # the same programs at tiny shapes, on any device

What each prints goes to a file of its name in the folder, and what took how long, and whether it ended well, to the
terminal. The exit code is 1 where one of them did not. Nothing is downloaded: the models are random, of real shapes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from aflow_jax.memory import CARDS, POOL

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = "scripts"


@dataclass(frozen=True)
class Check:
    """A program, at full size and at a tiny one.

    Attributes:
        shows: what it measures, and the aim where there is one.
        full, small: arguments of Python.
        minutes: after which it is ended.
        card: the preset of a card whose memory this one is capped at; "" for no cap.
    """

    shows: str
    full: str
    small: str
    minutes: float
    card: str = ""


_BF16 = "--dtype bfloat16"
# In memory where the system has such a folder: a 7B checkpoint is 15 GB.
_FOLDER = "--folder /dev/shm" if Path("/dev/shm").is_dir() else ""
CHECKS = {
    "tests": Check(
        "the tests of the model, the sampler and the learner on this device",
        "-m pytest -q tests/qwen2 tests/sampling tests/grpo",
        "-m pytest -q tests/qwen2/test_decode.py",
        9,
    ),
    "model": Check(
        "forward and backward at 7B shape, of the matrix rate; int8 and nf4 over bf16 (aim: forward 55%; 1.35 x)",
        f"{SCRIPTS}/bench_model.py --peers none --shape 7B --rows 10 --length 2048 {_BF16} --remat full "
        "--quantization none,int8,nf4",
        f"{SCRIPTS}/bench_model.py --peers none --shape tiny --rows 2 --length 64 --remat full "
        "--quantization none,int8,nf4 --repetitions 1 --matrix-sizes 256",
        9,
    ),
    "quantization": Check(
        "bytes of the parameters, products, forward pass and decode step with quantised weights",
        f"{SCRIPTS}/bench_quantization.py speed --shape 7B --rows 10 --length 2048 {_BF16}",
        f"{SCRIPTS}/bench_quantization.py speed --shape tiny --rows 2 --length 32 --repetitions 1",
        8,
    ),
    "sampling-10": Check(
        "10 sequences: decode step of the bandwidth limit, prefill of the matrix rate (aim: 75%; 55%)",
        f"{SCRIPTS}/bench_sampling.py --peers none --shape 7B {_BF16} --prompts 5 --samples 2",
        f"{SCRIPTS}/bench_sampling.py --peers none --shape tiny --prompts 2 --samples 2 --length 16 --new-tokens 8 "
        "--ragged 0 --repetitions 1",
        8,
    ),
    "sampling-64": Check(
        "64 sequences, likewise",
        f"{SCRIPTS}/bench_sampling.py --peers none --shape 7B {_BF16} --prompts 32 --samples 2",
        f"{SCRIPTS}/bench_sampling.py --peers none --shape tiny --prompts 4 --samples 2 --length 16 --new-tokens 8 "
        "--ragged 0 --repetitions 1",
        8,
    ),
    "sampling-peer": Check(
        "10 sequences against transformers with its dynamic cache (needs torch with CUDA; aim: 8 x)",
        f"{SCRIPTS}/bench_sampling.py --shape 7B {_BF16} --caches dynamic --ragged 0 --repetitions 2 {_FOLDER}",
        f"{SCRIPTS}/bench_sampling.py --shape tiny --prompts 2 --samples 2 --length 16 --new-tokens 8 "
        "--ragged 0 --repetitions 1",
        8,
    ),
    "loading": Check(
        "a 7B checkpoint onto the GPU, against transformers (aim: at most 2 GB of the host's memory, and its time)",
        f"{SCRIPTS}/bench_loading.py --shapes 7B --files bfloat16 --into bfloat16 --rounds 2 {_FOLDER}",
        f"{SCRIPTS}/bench_loading.py --shapes 0.5B --files bfloat16 --into bfloat16 --rounds 1",
        8,
    ),
    "quickstart": Check(
        "the whole trainer: warm start, sampling, workflows, updates, checkpoints",
        "-m aflow_jax.train --config configs/quickstart.yaml max_steps=4 run_dir=runs/gpu_check",
        "-m aflow_jax.train --config configs/quickstart.yaml warm_start.steps=2 max_steps=1 eval_every=0 "
        "run_dir=runs/gpu_check",
        6,
    ),
    "learner": Check(
        "an update of 10 sequences of 4096 tokens at 7B shape (aim: 45% of the matrix rate)",
        f"{SCRIPTS}/bench_learner.py --sides ours --shape 7B --completion 3968 {_BF16} --remat full dots",
        f"{SCRIPTS}/bench_learner.py --sides ours --shape tiny --rows 2 --prompt 16 --completion 16 --remat full "
        "--repetitions 1",
        9,
    ),
    "learner-shared": Check(
        "an update of 16 sequences of 2,048 + 512 tokens, eight of each prompt, against peft with checkpointing",
        f"{SCRIPTS}/bench_learner.py --sides ours peft-checkpointing --shape 7B --rows 16 --samples 8 --prompt 2048 "
        f"--completion 512 {_BF16} --remat full --microbatch 4 --peer-microbatch 2",
        f"{SCRIPTS}/bench_learner.py --sides ours peft-checkpointing --shape tiny --rows 4 --samples 2 --prompt 16 "
        "--completion 16 --remat full --repetitions 1",
        9,
    ),
    "learner-peft": Check(
        "the same against peft with gradient checkpointing, at 1,024 tokens (needs torch with CUDA; aim: 1.5 x)",
        f"{SCRIPTS}/bench_learner.py --sides ours peft-checkpointing --shape 7B --completion 896 {_BF16} --remat full "
        "--peer-microbatch 2",
        f"{SCRIPTS}/bench_learner.py --sides ours peft-checkpointing --shape tiny --rows 2 --prompt 16 --completion 16 "
        "--remat full --repetitions 1",
        9,
    ),
} | {
    f"memory-{preset}": Check(
        f"the update of the preset {preset} on a device capped at that card's memory: measured peak beside the plan",
        f"{SCRIPTS}/check_memory_plan.py --config configs/gpu/{preset}.yaml --run",
        f"{SCRIPTS}/check_memory_plan.py --config configs/quickstart.yaml --run",
        6,
        preset,
    )
    for preset in ("t4_16gb", "v100_16gb", "a100_40gb", "a100_80gb")
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="NAME")
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    parser.add_argument("--limit", type=float, default=9, help="minutes for each at most")
    parser.add_argument("--out", type=Path, default=Path("gpu_checks"), help="folder of what they print")
    options = parser.parse_args()
    if options.list:
        for name, check in CHECKS.items():
            print(f"{name:16} at most {check.minutes:g} min: {check.shows}")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes = [
        run(name, options.out / f"{name}.txt", small=options.small, limit=options.limit) for name in options.only
    ]
    return 0 if all(outcomes) else 1


def run(name: str, path: Path, *, small: bool, limit: float) -> bool:
    """Run one check, for so many minutes at most; return whether it ended well."""
    check, started = CHECKS[name], time.perf_counter()
    limit = min(limit, check.minutes)
    command = [sys.executable, *(check.small if small else check.full).split()]
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    if check.card and not small:
        # As much as JAX takes of the card that this one stands for, as far as there is as much.
        environment["XLA_CLIENT_MEM_FRACTION"] = f"{min(POOL, CARDS[check.card].capacity / gpu_bytes()):.4f}"
    with path.open("w", encoding="utf-8") as file:
        print("$ python", *command[1:], file=file, flush=True)
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=60 * limit
            ).returncode
            ended = "ok" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = f"ended after {limit:g} min"
    print(f"{name:16} {ended:12} {time.perf_counter() - started:6.0f} s  {path}", flush=True)
    return ended == "ok"


def gpu_bytes() -> float:
    """Return the memory of the first GPU in bytes."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=0"]
    return float(subprocess.run(query, check=True, capture_output=True, text=True).stdout) * 2**20


if __name__ == "__main__":
    sys.exit(main())
