"""Completions sampled on a mesh of devices are those of one device, and the cache stays where it lies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def found() -> dict:
    script = Path(__file__).with_name("sharded_sampling.py")
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(script.parents[2]),
    }
    process = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout)


def test_tokens_are_those_of_one_device(found: dict) -> None:
    assert found["drawn"] > 40
    assert found["tokens equal"]
    assert found["logprob gap"] < 1e-4


def test_no_program_gathers_the_cache(found: dict) -> None:
    # Keys of one layer are 8 slots × 2 heads × 8 × 512 places; the embedding, which is, 128 × 32.
    assert found["gathered"] <= 128 * 32
