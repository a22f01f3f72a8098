"""Loading time and peak memory, ours against transformers' from_pretrained, on the same random checkpoints.

    python scripts/bench_loading.py [--shapes 0.5B 1.5B] [--files bfloat16 float32] [--into float32 bfloat16]
                                    [--rounds 5] [--shard-gb 5] [--cold] [--folder DIRECTORY]

Each load is a process of its own, which first loads a tiny checkpoint, so that imports and first calls are not counted.
Both sides take turns; the file is in the page cache beforehand (with --cold it is dropped from it). transformers maps a
file whose dtype is the one asked for, and reads nothing until a weight is used: "read" is therefore the time until
every weight has been read once by numpy, beside the time until the call returns. Memory is the peak of resident memory
above what the process held before, once everything is read; transformers' counts the mapped file where it is kept.
On a GPU the time is until the weights are there, nothing is read back, and memory is still the host's.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarking import SHAPES

from aflow_jax.qwen2 import PUBLISHED_SIZES, Qwen2Config, published_shape
from aflow_jax.qwen2.checkpoint import save_config, tensor_shapes, write_checkpoint
from aflow_jax.qwen2.safetensors_file import DTYPES

NUMPY_DTYPES = {dtype.name: dtype for dtype in DTYPES.values()}
MIB = 1 << 20


def main() -> None:
    """Run every pair of loads and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=PUBLISHED_SIZES, default=["0.5B", "1.5B"])
    parser.add_argument("--files", nargs="+", choices=NUMPY_DTYPES, default=["bfloat16", "float32"])
    parser.add_argument("--into", nargs="+", choices=NUMPY_DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shard-gb", type=float, default=5, help="size of one weight file at most, in GB")
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache before each load")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made; a temporary folder by default")
    parser.add_argument("--load", nargs=4, metavar=("SIDE", "FOLDER", "DTYPE", "WARM_UP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load_here(*options.load)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {versions()}; page cache {'cold' if options.cold else 'warm'}")
    print("returns/read: seconds, median (least – most); memory: times the bytes of what was asked for")
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        warm_up = make_checkpoint(Path(root) / "warm-up", SHAPES["tiny"], "bfloat16", options.shard_gb)
        for shape in options.shapes:
            for file in options.files:
                folder = make_checkpoint(Path(root) / f"{shape}-{file}", published_shape(shape), file, options.shard_gb)
                for dtype in options.into:
                    print(
                        f"\n{shape}, {len(list(folder.glob('*.safetensors')))} {file} file(s) into {dtype}", flush=True
                    )
                    compare(folder, warm_up, dtype, options.rounds, options.cold)
                for path in folder.iterdir():
                    path.unlink()


def compare(folder: Path, warm_up: Path, dtype: str, rounds: int, cold: bool) -> None:
    """Load in turns on both sides; print medians and ratios."""
    parameters = sum(int(np.prod(shape)) for shape in tensor_shapes(Qwen2Config.from_folder(folder)).values())
    results: dict[str, list[dict[str, float]]] = {"ours": [], "transformers": []}
    for _ in range(rounds):
        for side, found in results.items():
            prepare_cache(folder, cold)
            found.append(load_in_a_process(side, folder, dtype, warm_up))
    medians = {
        side: {key: statistics.median(one[key] for one in found) for key in found[0]} for side, found in results.items()
    }
    for side, found in results.items():
        times = []
        for key in ("returns", "read"):
            values = [one[key] for one in found]
            times.append(f"{key} {medians[side][key]:.2f} ({min(values):.2f} – {max(values):.2f})")
        peak = medians[side]["peak"]
        share = peak / parameters / NUMPY_DTYPES[dtype].itemsize
        print(f"  {side:13} {', '.join(times)}, memory {share:.2f} ({peak / 1e9:.2f} GB)")
    ratios = (f"{key} {medians['ours'][key] / medians['transformers'][key]:.2f}" for key in ("returns", "read", "peak"))
    print(f"  ours / transformers: {', '.join(ratios)}", flush=True)


def make_checkpoint(folder: Path, config: Qwen2Config, dtype: str, shard_gb: float) -> Path:
    """Write a checkpoint with random weights of the published deviation."""
    folder.mkdir()
    save_config(config, folder, dtype)
    shapes = tensor_shapes(config)
    noise = (0.02 * np.random.default_rng(0).standard_normal(1 << 22, np.float32)).astype(NUMPY_DTYPES[dtype])
    write_checkpoint(folder, shapes, noise.dtype, lambda name: np.resize(noise, shapes[name]), int(shard_gb * 1e9))
    return folder


def prepare_cache(folder: Path, cold: bool) -> None:
    """Read the weights into the page cache, or drop them from it."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            if cold:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                place = bytearray(16 * MIB)
                while file.readinto(place):
                    pass


def load_in_a_process(side: str, folder: Path, dtype: str, warm_up: Path) -> dict[str, float]:
    """Return what `load_here` measures in a new process."""
    command = [sys.executable, __file__, "--load", side, str(folder), dtype, str(warm_up)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def load_here(side: str, folder: str, dtype: str, warm_up: str) -> dict[str, float]:
    """Load once; return seconds until the call returned and until all was read, and the peak of memory in bytes."""
    load, weights = {"ours": loader, "transformers": transformers_loader}[side](dtype)
    load(warm_up)
    before = memory("VmRSS")
    start = time.perf_counter()
    model = load(folder)
    returns = time.perf_counter() - start
    for weight in weights(model):
        weight.view(np.int16 if weight.itemsize == 2 else np.int32).max()
    return {"returns": returns, "read": time.perf_counter() - start, "peak": memory("VmHWM") - before}


def loader(dtype: str) -> tuple[Callable[[str], Any], Callable[[Any], list[np.ndarray]]]:
    """Return our loading, and how its weights are reached from numpy."""
    import jax

    from aflow_jax.qwen2 import load_pretrained

    on_host = jax.default_backend() == "cpu"
    return (
        lambda folder: jax.block_until_ready(load_pretrained(folder, dtype=dtype)),
        lambda model: [np.asarray(weight) for weight in jax.tree.leaves(model)] if on_host else [],
    )


def transformers_loader(dtype: str) -> tuple[Callable[[str], Any], Callable[[Any], list[np.ndarray]]]:
    """Return transformers' loading, and how its weights are reached from numpy."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    whole = {2: torch.int16, 4: torch.int32}
    device = {"device_map": "cuda"} if torch.cuda.is_available() else {}

    def load(folder: str) -> Any:
        model = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **device)
        if device:
            torch.cuda.synchronize()
        return model

    def weights(model: Any) -> list[np.ndarray]:
        if device:
            return []
        return [weight.detach().view(whole[weight.element_size()]).numpy() for weight in model.parameters()]

    return load, weights


def memory(kind: str) -> int:
    """Return the resident memory of this process, now ("VmRSS") or at its peak ("VmHWM"), in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[kind].split()[0]) * 1024


def versions() -> str:
    """Return the versions of what is compared."""
    names = ("jax", "numpy", "transformers", "torch", "safetensors")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


if __name__ == "__main__":
    main()
