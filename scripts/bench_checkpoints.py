"""What saving costs the training loop, and whether memory stays flat: 200 saves in a row, each while a step runs.

    python scripts/bench_checkpoints.py --saves 200 --megabytes 40 --step 1.0

A step is a wait of `--step` seconds, as it is where the device works; a save of the next state falls in each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from aflow_jax.runs import Checkpoints, Place


def resident_mb() -> float:
    """Return this process's resident memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def state(megabytes: int) -> dict[str, jax.Array]:
    """Return 12 equal arrays, as many as an adapter of two targets with its optimizer has."""
    rows = megabytes * 2**20 // 12 // 4 // 256
    return {f"array_{place}": jnp.full((rows, 256), float(place)) for place in range(12)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=40, help="of adapter and optimizer together")
    parser.add_argument("--step", type=float, default=1.0, help="seconds of a step")
    options = parser.parse_args()
    advance = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    arrays, cost, memory = state(options.megabytes), [], {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), keep=3)
        for step in range(1, options.saves + 1):
            arrays = jax.block_until_ready(advance(arrays))
            began = time.perf_counter()
            checkpoints.save(Place("step", step), arrays)
            cost.append(time.perf_counter() - began)
            checkpoints.check()
            time.sleep(options.step)
            if step in (10, options.saves // 2, options.saves):
                memory[step] = resident_mb()
        checkpoints.close()
    print(f"{options.saves} saves of {options.megabytes} MB, one in each step of {options.step:g} s")
    print(f"the loop waits {statistics.median(cost) * 1e3:.1f} ms at the median, {max(cost[1:]) * 1e3:.1f} ms at most")
    print(f"that is {100 * statistics.mean(cost) / options.step:.2f}% of a step")
    print("resident memory: " + ", ".join(f"{value:.0f} MB after {step} saves" for step, value in memory.items()))


if __name__ == "__main__":
    main()
