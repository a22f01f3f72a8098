import json
from pathlib import Path

import pytest
from simulated_prompts import PROBLEMS

from aflow_jax.llm import start_simulator


@pytest.fixture(scope="session")
def problems_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return path


@pytest.fixture(scope="session")
def simulator(problems_file):
    with start_simulator(problems_file, seed=1) as running:
        yield running
