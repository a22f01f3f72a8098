"""One of two processes that load a model over a mesh of 2 × 4 devices together; prints what it found as JSON.

python sharded_loading.py FOLDER PORT PROCESS, with XLA_FLAGS=--xla_force_host_platform_device_count=4
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from aflow_jax.qwen2 import Qwen2
from aflow_jax.qwen2.checkpoint import open_checkpoint
from aflow_jax.qwen2.streaming import Streamer
from aflow_jax.qwen2.weights import load_pretrained, stream_model


def main(folder: str, port: str, process: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    axis_types = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=axis_types, devices=jax.devices())

    def rule(name: str, shape: tuple[int, ...]) -> NamedSharding:
        """Rows over processes; columns, where there are any, over each process's devices."""
        axes = ("data",) if name.endswith(("norm", "bias")) else ("data", "model")
        return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - len(axes)), *axes))

    whole = {name: np.asarray(weight) for name, weight in weights(load_pretrained(folder, "float32")).items()}
    report = {}
    # Each way once before: the first time modules are imported, which is reading too.
    for in_place in (True, False, True, False):
        with open_checkpoint(folder) as checkpoint:
            before = bytes_read()
            model = stream_model(
                Streamer(checkpoint=checkpoint, dtype=np.dtype(np.float32), sharding=rule, in_place=in_place)
            )
            read = bytes_read() - before
        equal, places = True, True
        for name, weight in weights(model).items():
            places &= weight.sharding == rule(name, weight.shape)
            equal &= all(np.array_equal(part.data, whole[name][part.index]) for part in weight.addressable_shards)
        report["filled in place" if in_place else "through devices"] = {
            "equal": bool(equal),
            "where the rule says": bool(places),
            "share of the file read": read / (Path(folder) / "model.safetensors").stat().st_size,
        }
    print(json.dumps(report))


def weights(model: Qwen2) -> dict[str, jax.Array]:
    """Return every weight by the name that a sharding rule is given."""
    tables = {name: getattr(model, name).get_value() for name in ("embedding", "final_norm", "lm_head")}
    return tables | model.layer_weights()


def bytes_read() -> int:
    """Return the bytes that this process has had from the kernel so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
