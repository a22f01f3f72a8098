"""The published tokenizer, a published shape made shallow, and real problems go through the same trainer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aflow_jax.runs import read_rollouts
from aflow_jax.train import main

REPOSITORY = Path(__file__).parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs the published tokenizer and problems in ../shared/data"
)

SOURCES = ("gsm8k_train", "humaneval_aflow_validate", "mbpp_train", "hotpotqa_train")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("real")
    config, tokenizer = DATA / "qwen25_configs" / "0.5B-Instruct" / "config.json", DATA / "qwen25_tokenizer"
    script = [sys.executable, str(REPOSITORY / "scripts" / "make_shallow_model.py")]
    options = ["--config", str(config), "--tokenizer", str(tokenizer), "--layers", "2", "--out", str(folder / "model")]
    subprocess.run([*script, *options], check=True, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)})
    for split, places in (("train", slice(0, 3)), ("test", slice(3, 4))):
        lines = [line for name in SOURCES for line in shortest_rows(name)[places]]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return [
        "--config", str(REPOSITORY / "configs" / "training.yaml"), f"run_dir={folder / 'run'}",
        f"base_model={folder / 'model'}", f"train_dataset={folder / 'train.jsonl'}",
        f"test_dataset={folder / 'test.jsonl'}", "simulator={}", "wandb.enabled=false", "save_every=1", "eval_every=0",
        "rollout_batch_size=3", "num_return_sequences_in_group=2", "gradient_accumulation_steps=2",
        "prompt_style=short", "response_max_length=12", "max_steps=3",
    ]  # fmt: skip


def shortest_rows(name: str) -> list[str]:
    with (DATA / "problems" / f"{name}.jsonl").open(encoding="utf-8") as file:
        return sorted(file, key=len)


def test_three_steps_a_checkpoint_and_two_more(arguments: list[str]) -> None:
    assert main(arguments) == 0
    run = Path(next(argument for argument in arguments if argument.startswith("run_dir=")).removeprefix("run_dir="))
    assert (run / "checkpoints" / "step_3" / "manifest.json").exists()
    assert main([*arguments, "--resume", "latest", "max_steps=5"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    for line in lines[1:]:
        assert line["void_ratio"] == 0
        assert line["sampling/sampling_logp_difference/max"] < 1e-4
        assert line["outcome/PARSE"] == 1  # random weights write no workflow, and nothing stands in for one
    sources = {rollout["problem"]["source"] for path in run.glob("rollouts/*") for rollout in read_rollouts(path)}
    assert sources == {"gsm8k", "humaneval", "mbpp", "hotpotqa"}
