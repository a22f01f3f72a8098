"""The trainer as its user runs it: from the command to the files it leaves, stopped, resumed, and misused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml
from safetensors.numpy import load_file
from small_run import write_settings

from aflow_jax.export import main as export
from aflow_jax.runs import read_rollouts
from aflow_jax.train import main
from aflow_jax.trained import load_trained_adapter
from aflow_jax.workflow import Outcome

REPOSITORY = Path(__file__).parent.parent
STEPS = 4
TARGETS = "q_proj,v_proj,o_proj,up_proj,down_proj"
LARGER = {
    "create_model": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 800},
    "synthetic_data": {"train": 60, "test": 12},
    "warm_start": {"steps": 40, "batch_size": 8, "learning_rate": 1e-2},
    "max_steps": STEPS,
    "rollout_batch_size": 3,
    "num_return_sequences_in_group": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "lora_rank": 16,
    "lora_dropout": 0.1,
    "lora_target_modules": TARGETS,
    "generation_config": {"top_p": 1.0, "top_k": 0, "max_new_tokens": 48},
    "constrained_sampling": False,
    "eval_every": STEPS,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_settings(tmp_path_factory.mktemp("config") / "small.yaml", **LARGER)


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """A run that was never stopped."""
    folder = config.parent / "whole"
    assert main(["--config", str(config), f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def stopped(config: Path) -> Path:
    """The same run, stopped by Ctrl-C after its second step and resumed."""
    folder = config.parent / "stopped"
    command = [sys.executable, "-m", "aflow_jax.train", "--config", str(config), f"run_dir={folder}"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and steps_of(folder)[-1:] != [2]:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert steps_of(folder)[-1] < STEPS
    assert main(["--config", str(config), "--resume", "latest", f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def killed(config: Path) -> Path:
    """The same run, killed in its warm start, between the data and the manifest of a save, and in an update."""
    folder = config.parent / "killed"
    arguments = ["--config", str(config), f"run_dir={folder}", "--resume", "latest"]
    for moment, call in (("supervised update", 20), ("after Orbax's commit", 25), ("update", 2)):
        first = [] if folder.exists() else arguments[:3]
        code = "import sys; from scripts.kill_test import MOMENTS, killing, train; "
        code += f"killing(MOMENTS[{moment!r}], {call}); sys.exit(train({first or arguments!r}))"
        with (config.parent / "killed.log").open("a") as log:  # a pipe would stay open in what the process started
            ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, stderr=log, check=False)
        assert ended.returncode == -signal.SIGKILL, (config.parent / "killed.log").read_text()
    assert main(arguments) == 0
    return folder


def metrics_of(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps_of(folder: Path) -> list[int]:
    return [line["step"] for line in metrics_of(folder)]


def without_times(line: dict) -> dict:
    return {
        name: value for name, value in line.items() if not any(word in name for word in ("time", "latency", "memory"))
    }


def test_a_run_leaves_its_files(whole: Path) -> None:
    assert steps_of(whole) == [0, 1, 2, 3, 4]
    saved = {path.name for path in (whole / "checkpoints").iterdir()}
    assert saved - {"step_0"} == {"step_2", "step_3", "step_4"}  # step_0 stays where its evaluation is the best
    names = sorted(path.name for path in (whole / "rollouts").iterdir())
    assert names == ["eval_000000.jsonl.gz", "eval_000004.jsonl.gz", *(f"step_00000{s}.jsonl.gz" for s in range(1, 5))]
    log = (whole / "training.log").read_text()
    assert "step 4/4" in log
    assert "Traceback" not in log
    assert yaml.safe_load((whole / "config.yaml").read_text())["seed"] == 3


def test_every_step_has_the_documented_metrics(whole: Path) -> None:
    expected = {
        "reward", "reward_std", "frac_reward_zero_std", "rewards/correctness/mean", "completions/mean_length",
        "completions/clipped_ratio", "kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean",
        "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "grad_norm", "learning_rate",
        "num_tokens", "step_time", "accuracy", "workflow/parse_rate", "void_ratio", "outcome/SCORED",
        "executor/calls", "executor/tokens", "time/sample", "time/execute", "time/update", "time/wait",
        "memory/peak_gb", "sampling/probability_difference/mean", "sampling/probability_difference/max",
        "update/skipped", "update/microbatch_size", "update/tokens", "update/padding_ratio",
    }  # fmt: skip
    for line in metrics_of(whole)[1:]:
        assert expected <= line.keys()
        assert line["void_ratio"] == 0
        # Dropout is on in training and off in sampling, and still both see the same probabilities.
        assert line["sampling/sampling_logp_difference/max"] < 1e-4


def test_a_run_writes_a_figure_of_every_kind_and_evaluations_beside(whole: Path) -> None:
    lines = metrics_of(whole)
    names = {name for line in lines[1:] for name, value in line.items() if value is not None}
    components = ("correctness", "efficiency", "simplicity", "format", "repetition")
    kinds = [
        *(f"rewards/{component}/mean" for component in components),
        *(f"accuracy/{domain}" for domain in ("math", "code", "qa")),
        *(f"accuracy/synthetic_{domain}" for domain in ("math", "code", "qa")),
        *(f"outcome/{outcome}" for outcome in Outcome),
        *(f"executor/{name}" for name in ("usd", "latency_p50", "latency_p95", "cache_hit_ratio")),
        "workflow/unique_ratio",
    ]
    assert [name for name in kinds if name not in names] == []
    assert any(name.startswith("workflow/operators/") for name in names)
    evaluated = {name.removeprefix("eval_") for name in lines[-1] if name.startswith("eval_")}
    assert {"reward", "accuracy", "accuracy/math", "workflow/parse_rate", "executor/calls"} <= evaluated


def test_a_rollouts_record_holds_all_of_it(whole: Path) -> None:
    records = [record for path in (whole / "rollouts").iterdir() for record in read_rollouts(path)]
    fields = ("prompt", "text", "workflow", "graph", "outcome", "trace", "usage", "components", "reward", "advantage")
    assert all(field in record for record in records for field in fields)
    for record in records:
        assert record["question"] in record["prompt"]
        assert record["prompt"].startswith("<|im_start|>system\n")
    assert any(record["advantage"] for record in records)
    call = next(call for record in records for call in record["trace"])
    assert {"inputs", "outputs", "prompt_tokens", "completion_tokens", "usd", "latency", "place"} <= call.keys()


def test_a_run_ends_with_its_page(whole: Path) -> None:
    assert f"page: {whole}/report.html" in (whole / "training.log").read_text()
    assert (whole / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_run_is_complete_without_its_page(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    arguments = ["--config", str(config), f"run_dir={tmp_path}", "max_steps=0", "warm_start=null", "eval_every=0"]
    assert main(arguments) == 0
    assert (
        "no page: the page draws with plotly, which is not installed: pip install plotly"
        in (tmp_path / "training.log").read_text()
    )


def test_alarms_of_the_runs_health_are_said(config: Path, whole: Path, tmp_path: Path) -> None:
    assert "health:" not in (whole / "training.log").read_text()
    overrides = ["warm_start=null", "eval_every=0", "max_steps=2", "generation_config.max_new_tokens=2"]
    assert main(["--config", str(config), f"run_dir={tmp_path}", *overrides]) == 0
    said = [line for line in (tmp_path / "training.log").read_text().splitlines() if "health:" in line]
    cut = "health: over the last step 100% of the answers are cut by the length limit (limit 5%): raise"
    assert sum(cut in line for line in said) == len(said) == 1


@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_a_stopped_or_killed_and_resumed_run_equals_one_that_was_not(
    whole: Path, way: str, request: pytest.FixtureRequest
) -> None:
    resumed = request.getfixturevalue(way)
    assert [without_times(line) for line in metrics_of(resumed)] == [without_times(line) for line in metrics_of(whole)]
    restored = [ocp.StandardCheckpointer().restore(folder / "checkpoints" / "step_4") for folder in (whole, resumed)]
    assert jax.tree.all(jax.tree.map(lambda one, other: np.array_equal(one, other), *restored))


def test_a_kill_loses_no_more_than_the_steps_since_the_last_save(killed: Path) -> None:
    log = (killed / "training.log").read_text()
    resumed = [line.rsplit("/", 1)[-1] for line in log.splitlines() if " resumed: " in line]
    assert resumed[0] in ("warm_start_18", "warm_start_19")  # killed in step 20; the save of 19 may not be complete
    assert resumed[1] in ("step_1", "step_2")  # killed in the save of the step after
    assert "has no manifest.json, so the save did not complete" in log


def test_a_quantised_base_is_trained_and_exported_onto_the_original_weights(config: Path) -> None:
    folder, exported = config.parent / "nf4", config.parent / "exported"
    settings = ["quantization=nf4", "max_steps=2", "eval_every=0", "create_model.num_hidden_layers=1"]
    assert main(["--config", str(config), f"run_dir={folder}", *settings]) == 0
    for line in metrics_of(folder)[1:]:
        assert line["sampling/sampling_logp_difference/max"] < 1e-4
        assert line["grad_norm"] > 0
    assert export([str(folder), str(exported), "--merged"]) == 0
    base = load_file(load_trained_adapter(folder).base_folder / "model.safetensors")
    merged = load_file(exported / "model.safetensors")
    changed = {name for name, tensor in base.items() if not np.array_equal(tensor, merged[name])}
    assert {name.split(".")[-2] for name in changed} == set(TARGETS.split(","))


def test_the_summary_says_what_improved_and_what_to_run_next(whole: Path) -> None:
    log = (whole / "training.log").read_text()
    assert "held-out problems:  accuracy, before" in log
    assert f"checkpoint: {whole}/checkpoints/step_4" in log
    assert "--resume latest max_steps=8" in log


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the trainer on a user's mistake; return its one line."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert "Traceback" not in "\n".join(error)
    return error[-1]


def test_a_checkpoint_of_another_run_never_continues_into_a_folder_that_holds_a_run(
    config: Path, whole: Path, stopped: Path, capsys
) -> None:
    checkpoint = whole / "checkpoints" / "step_4"
    message = refusal(capsys, "--config", config, f"run_dir={stopped}", "--resume", checkpoint)
    assert "already holds a run" in message


def test_a_spent_budget_stops_with_a_checkpoint(config: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--config", str(config), f"run_dir={tmp_path}", "warm_start.steps=25", "eval_every=0"]
    assert main([*arguments, "budget.calls=1"]) == 3
    log = (tmp_path / "training.log").read_text()
    assert "budget.calls: 1 are spent; raise the bound and resume" in log
    assert list((tmp_path / "checkpoints").glob("step_*/manifest.json"))
    assert main([*arguments, "budget.calls=100000", "max_steps=1", "--resume", "latest"]) == 0


def test_a_folder_that_holds_a_run_is_not_overwritten(config: Path, whole: Path, capsys) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    assert "already holds a run" in refusal(capsys, "--config", config, f"run_dir={whole}")
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_resuming_needs_a_checkpoint_of_the_same_shape(config: Path, whole: Path, tmp_path: Path, capsys) -> None:
    arguments = ("--config", config, f"run_dir={tmp_path}", "--resume")
    assert "holds no checkpoint" in refusal(capsys, *arguments, "latest")
    assert "not a usable checkpoint" in refusal(capsys, *arguments, whole / "rollouts")
    checkpoint = whole / "checkpoints" / "step_4"
    message = refusal(capsys, "--config", config, f"run_dir={whole}", "--resume", checkpoint, "lora_rank=8")
    assert "adapter_weights" in message
    assert "use the settings that the checkpoint was made with" in message


def test_files_that_are_missing_or_malformed_are_named(config: Path, tmp_path: Path, capsys) -> None:
    assert "nowhere.yaml: no such file" in refusal(capsys, "--config", tmp_path / "nowhere.yaml")
    files = ("--config", config, "synthetic_data=null", f"run_dir={tmp_path / 'run'}")
    message = refusal(capsys, *files, f"train_dataset={tmp_path / 'no.jsonl'}")
    assert "train_dataset" in message
    assert "no such file" in message
    good = {"question": "1+1?", "answer": "2", "source": "gsm8k"}
    (tmp_path / "bad.jsonl").write_text(json.dumps(good) + '\n{"question": \n')
    assert f"{tmp_path / 'bad.jsonl'}:2: " in refusal(capsys, *files, f"train_dataset={tmp_path / 'bad.jsonl'}")


def test_an_endpoint_that_cannot_work_stops_the_run_before_the_model_loads(
    config: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.write_text(
        "models:\n  hosted: {base_url: 'https://llm.invalid/v1', api_key: '${OPENAI_API_KEY}', model_name: m}\n"
        "  nobody: {base_url: 'http://127.0.0.1:9/v1', model_name: m}\n"
    )
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = ("--config", config, f"run_dir={tmp_path / 'run'}", "simulator=null", f"aflow_config_path={endpoints}")
    message = refusal(capsys, *arguments, "aflow_executor_model=hosted")
    assert "OPENAI_API_KEY" in message
    assert "nobody" in refusal(capsys, *arguments, "aflow_executor_model=nobody", f"run_dir={tmp_path / 'other'}")
    assert not (tmp_path / "run" / "model").exists()


def test_a_refused_key_is_never_shown(config: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from aflow_jax.llm import start_simulator

    (tmp_path / "problems.jsonl").write_text(json.dumps({"question": "1+1?", "answer": "2", "source": "gsm8k"}) + "\n")
    monkeypatch.setenv("TEST_LLM_KEY", "sk-planted-secret")
    with start_simulator(tmp_path / "problems.jsonl", api_key="another") as simulator:
        endpoints = tmp_path / "endpoints.yaml"
        entry = {"base_url": simulator.base_url, "api_key": "${TEST_LLM_KEY}", "model_name": "simulator"}
        endpoints.write_text(yaml.safe_dump({"models": {"gated": entry}}))
        run = tmp_path / "run"
        message = refusal(
            capsys, "--config", config, f"run_dir={run}", "simulator=null", f"aflow_config_path={endpoints}",
            "aflow_executor_model=gated",
        )  # fmt: skip
    assert "TEST_LLM_KEY" in message
    written = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert written
    assert not any(b"sk-planted-secret" in content for content in [*written, message.encode()])


def test_a_model_folder_without_weights_is_refused(config: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    message = refusal(
        capsys, "--config", config, "create_model=null", f"base_model={folder}", f"run_dir={tmp_path / 'run'}"
    )
    assert str(folder) in message


def test_help_has_an_example_and_is_fast_to_read() -> None:
    environment = os.environ | {"COLUMNS": "120"}
    command = [sys.executable, "-m", "aflow_jax.train", "--help"]
    text = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    assert "--resume PATH|latest" in text
    assert "configs/quickstart.yaml" in text
