"""A sample of real problems: every gold answer in its usual dresses grades 1, altered ones below 1."""

import importlib.util
import random
from pathlib import Path

import pytest

from aflow_jax.problems.dataset import load_problems

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "data" / "problems"
SAMPLES = {
    "gsm8k_train": 40,
    "math_train": 30,
    "hotpotqa_train": 40,
    "drop_validate": 40,
    "squad_v2_dev_500": 60,
    "commonsenseqa_train_2000": 40,
    "mmlu_dev": 40,
    "mbpp_validation": 8,
    "humaneval_aflow_validate": 5,
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("check_grading", ROOT / "scripts" / "check_grading.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SAMPLES)
def test_gold_answers_are_right_and_altered_ones_wrong(name: str, script) -> None:
    path = FOLDER / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip("../shared/data is not here")
    problems = random.Random(1).sample(load_problems(path), SAMPLES[name])
    counts, failures, _ = script.check(problems)
    for kind in ("gold", "altered"):
        assert script.share(counts, kind) >= script.REQUIRED, failures[kind][:5]
