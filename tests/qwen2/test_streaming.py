"""Loading over several devices and processes: who reads what, where it lands, and how much memory it takes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import SHAPES, tensor_maker, write_model

from aflow_jax.qwen2 import Qwen2Config
from aflow_jax.qwen2.checkpoint import open_checkpoint, save_config, tensor_name, tensor_shapes
from aflow_jax.qwen2.safetensors_file import write_safetensors
from aflow_jax.qwen2.streaming import Streamer

MEBIBYTE = 1 << 20
REPOSITORY = Path(__file__).resolve().parents[2]


def start(program: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start a program of this folder in a process of its own, with no compilation cache to read."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(program)), *arguments],
        env={**inherited, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts what a process reads as Linux tells it")
def test_each_of_two_processes_reads_its_half_of_the_file_onto_its_four_devices(tmp_path):
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=4096,
    )
    folder, port = write_model(config, tmp_path / "model"), free_port()
    devices = "--xla_force_host_platform_device_count=4"
    processes = [start("sharded_loading.py", str(folder), port, str(at), XLA_FLAGS=devices) for at in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        for report in json.loads(output).values():
            assert report["equal"]
            assert report["where the rule says"]
            assert 0.49 < report["share of the file read"] < 0.55


@pytest.mark.parametrize("in_place", [True, False], ids=["host memory", "another device"])
def test_a_transform_is_given_each_tensor_and_its_results_are_stacked(tmp_path, in_place):
    config = SHAPES["heads 4 over 4, tied"].config()

    def halves(tensor: jax.Array) -> dict[str, jax.Array]:
        return {"sum": tensor.sum(axis=1), "sign": jnp.sign(tensor).astype(jnp.int8)}

    names = [tensor_name("q_proj", layer) for layer in range(config.num_hidden_layers)]
    with open_checkpoint(write_model(config, tmp_path)) as checkpoint:
        stream = Streamer(checkpoint=checkpoint, dtype=np.dtype(np.float16), sharding=None, in_place=in_place)
        stacked = stream.stack("q_proj", names, halves)
    exact = np.stack([tensor_maker(config)(name) for name in names])
    np.testing.assert_allclose(stacked["sum"], exact.sum(axis=2), atol=1e-5)
    np.testing.assert_array_equal(stacked["sign"], np.sign(exact))
    assert stacked["sign"].dtype == jnp.int8


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory as Linux tells it")
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32 file", "bfloat16 file"])
def test_loading_takes_the_memory_of_its_result_and_of_what_is_on_its_way(tmp_path, dtype):
    config = Qwen2Config(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=2048,
    )
    shapes = tensor_shapes(config)
    parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    save_config(config, tmp_path, np.dtype(dtype).name)
    write_safetensors(tmp_path / "model.safetensors", shapes, np.dtype(dtype), lambda name: np.ones(shapes[name]))
    in_flight = 8 * MEBIBYTE
    process = start("loading_memory.py", str(tmp_path), str(in_flight), MALLOC_MMAP_THRESHOLD_=str(MEBIBYTE))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    peaks = json.loads(output)
    assert 0.9 < peaks["float32"] / (4 * parameters) < 1.15
    assert 0.9 < peaks["bfloat16"] / (2 * parameters) < 1.15
    # Here what a device holds is host memory too: the result, and of what is on its way, source and copy.
    assert peaks["through a device"] - 4 * parameters < 2 * in_flight + 16 * MEBIBYTE
