"""configs/no_api_key.yaml at a tiny size: the base model executes workflows inside the trainer, and nothing else does.

The base answers every conversation with one solution, as Custom asks for it. Only problems of mathematics are drawn:
their answers need no judge, which this base could not be.
"""

import gzip
import json
import socket
from pathlib import Path

import pytest
import yaml
from answering_model import create_answering_model

from aflow_jax.assembly import load_problem_sets, policy_prompt
from aflow_jax.config import load_config
from aflow_jax.train import main
from aflow_jax.workflow import demonstrations

REPOSITORY = Path(__file__).parent.parent
STEPS = 2
TINY = {
    "aflow_config_path": str(REPOSITORY / "configs" / "aflow_llm.yaml"),
    "train_dataset": str(REPOSITORY / "data" / "synthetic_train.jsonl"),
    "test_dataset": None,
    "domain_ratios": {"math": 1.0},
    "aflow_operators": ["Custom"],
    "sampling_slots": 4,
    "max_concurrent_calls": 2,
    "warm_start": {"steps": 30, "batch_size": 8, "learning_rate": 1e-2},
    "max_steps": STEPS,
    "rollout_batch_size": 1,
    "num_return_sequences_in_group": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "lora_rank": 16,
    "lora_target_modules": "q_proj,v_proj,o_proj,up_proj,down_proj",
    "prompt_style": "short",
    "prompt_max_length": 512,
    "generation_config": {"top_p": 1.0, "top_k": 0, "max_new_tokens": 32},
    "eval_every": 0,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("no_api_key")
    shipped = yaml.safe_load((REPOSITORY / "configs" / "no_api_key.yaml").read_text(encoding="utf-8"))
    path = folder / "no_api_key.yaml"
    path.write_text(yaml.safe_dump({**shipped, **TINY, "base_model": str(folder / "base")}), encoding="utf-8")
    config = load_config(path)
    train = load_problem_sets(config, lambda _: None).train
    texts = [message["content"] for problem in train[:60] for message in policy_prompt(config, problem)]
    texts += [answer for _, answer in demonstrations(train, config.aflow_operators, config.seed)]
    create_answering_model(folder / "base", texts, "<solution>\n7</solution>")
    return path


def run(config: Path, name: str, *overrides: str) -> Path:
    folder = config.parent / name
    assert main(["--config", str(config), f"run_dir={folder}", *overrides]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """A run without a key, and without a way to connect anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something was connected to"))
        return run(config, "first")


def steps_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["step"]]


def test_workflows_are_executed_by_the_base_model_at_no_cost(trained):
    steps = steps_of(trained)
    assert [line["step"] for line in steps] == [1, 2]
    for line in steps:
        assert line["executor/calls"] > 0
        assert line["executor/tokens"] > 100 * line["executor/calls"]
        assert line["executor/usd"] == 0
        assert line["executor/retries"] == line["executor/faults"] == line["void_ratio"] == 0
        assert line["outcome/SCORED"] > 0
    assert "executor local: the base model of this run" in (trained / "training.log").read_text()


def test_what_the_base_model_said_is_in_the_rollouts(trained):
    rollouts = []
    for step in (1, 2):
        with gzip.open(trained / "rollouts" / f"step_{step:06d}.jsonl.gz", "rt") as lines:
            rollouts += map(json.loads, lines)
    outcomes = {(rollout["outcome"], rollout["answer"]) for rollout in rollouts}
    assert ("SCORED", "7") in outcomes
    assert {outcome for outcome, _ in outcomes} <= {"SCORED", "PARSE", "LIMIT"}
    for rollout in rollouts:
        if rollout["outcome"] == "SCORED":
            assert rollout["usage"]["completion_tokens"] >= 7


def test_a_second_run_gives_the_same_metrics(config, trained):
    def without_times(folder: Path) -> list[dict]:
        timed = ("time", "latency", "memory")
        return [{k: v for k, v in line.items() if not any(word in k for word in timed)} for line in steps_of(folder)]

    assert without_times(run(config, "second")) == without_times(trained)
