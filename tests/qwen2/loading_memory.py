"""Load a checkpoint in several ways; print as JSON how far each drove this process's memory, in bytes.

python loading_memory.py FOLDER IN_FLIGHT, with MALLOC_MMAP_THRESHOLD_ set, so that what is freed is given back
"""

import gc
import json
import sys
from pathlib import Path

import jax
import numpy as np

from aflow_jax.qwen2.checkpoint import open_checkpoint
from aflow_jax.qwen2.streaming import Streamer
from aflow_jax.qwen2.weights import load_pretrained, stream_model


def main(folder: str, in_flight: str) -> None:
    def through_device() -> None:
        with open_checkpoint(folder) as checkpoint:
            dtype = np.dtype(np.float32)
            bound = int(in_flight)
            stream = Streamer(checkpoint=checkpoint, dtype=dtype, sharding=None, in_place=False, max_in_flight=bound)
            jax.block_until_ready(stream_model(stream))

    ways = {name: lambda name=name: load_pretrained(folder, dtype=name) for name in ("float32", "bfloat16")}
    ways["through a device"] = through_device
    report = {}
    for name, load in ways.items():
        load()  # once before: what is compiled and imported stays
        gc.collect()
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        load()
        report[name] = memory("VmHWM") - before
    print(json.dumps(report))


def memory(kind: str) -> int:
    """Return the resident memory of this process, now ("VmRSS") or at its peak ("VmHWM"), in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[kind].split()[0]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
