"""The export command: from a run's checkpoint to folders that other tools load."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aflow_jax.config import Config
from aflow_jax.export import main
from aflow_jax.grpo import LearnerState
from aflow_jax.qwen2 import Qwen2Config, create_checkpoint, init_adapter, load_peft, load_pretrained, load_tokenizer
from aflow_jax.runs import Checkpoints, Place
from aflow_jax.trained import load_trained_adapter

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 280,
}
BEST = {"step": 3, "accuracy": 0.75, "reward": 0.7}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with two checkpoints, as the trainer leaves it."""
    root = tmp_path_factory.mktemp("export")
    run = root / "run"
    create_checkpoint(root / "base", texts=["12 apples"], seed=0, **SIZES)
    config = Config(
        base_model=str(root / "base"), lora_rank=4, lora_alpha=8, lora_target_modules="q_proj,o_proj", run_dir=str(run)
    )
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml())
    checkpoints = Checkpoints(run / "checkpoints")
    for step in (3, 12):
        checkpoints.save(Place("step", step), state(root / "base", step), details={"best": BEST})
    checkpoints.close()
    return run


def state(base: Path, step: int) -> LearnerState:
    shape = Qwen2Config.from_folder(base)
    weights = init_adapter(shape, 4, 8, "q_proj,o_proj", jax.random.key(step)).weights
    weights = jax.tree.map(lambda leaf: leaf + 0.1 * step, weights)
    return LearnerState(weights, optax.adamw(1e-3).init(weights), jnp.array(step))


def test_a_run_folder_gives_its_newest_adapter_as_a_peft_folder(run, tmp_path, capsys):
    assert main([str(run), str(tmp_path / "adapter")]) == 0
    base = run.parent / "base"
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/adapter: PEFT adapter of step 12 for {base}\n"
    best = "the best by evaluation is step 3 (--which best)"
    assert said.err == f"checkpoint: step 12, the newest of {run}; {best}\n"
    adapter = load_peft(tmp_path / "adapter", Qwen2Config.from_folder(base))
    jax.tree.map(np.testing.assert_array_equal, adapter.weights, state(base, 12).adapter_weights)
    assert adapter.scale == 2
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )


def test_a_run_folder_gives_its_best_adapter_where_that_is_asked_for(run, tmp_path, capsys):
    assert main([str(run), str(tmp_path / "adapter"), "--which", "best"]) == 0
    said = capsys.readouterr()
    assert said.err == f"checkpoint: step 3, the best of {run} by evaluation (accuracy 75.0%)\n"
    assert "PEFT adapter of step 3 for" in said.out
    adapter = load_peft(tmp_path / "adapter", Qwen2Config.from_folder(run.parent / "base"))
    jax.tree.map(np.testing.assert_array_equal, adapter.weights, state(run.parent / "base", 3).adapter_weights)


def test_a_run_that_never_evaluated_has_no_best_checkpoint(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    for path in copy.glob("checkpoints/*/manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"details": {"best": None}}))
    assert main([str(copy), str(tmp_path / "adapter"), "--which", "best"]) == 2
    assert "the run has not evaluated (eval_every): take --which newest" in capsys.readouterr().err
    assert main([str(copy), str(tmp_path / "adapter")]) == 0
    assert capsys.readouterr().err == f"checkpoint: step 12, the newest of {copy}\n"


def test_a_checkpoint_gives_a_whole_model_that_computes_the_same(run, tmp_path):
    assert main([str(run / "checkpoints" / "step_3"), str(tmp_path), "--merged"]) == 0
    base, rows = run.parent / "base", np.arange(9, dtype=np.int32)[None]
    trained = load_trained_adapter(run / "checkpoints" / "step_3")
    logits = jax.jit(lambda model, adapter: model.logits(rows, None, adapter))
    expected = logits(load_pretrained(base, "float32"), trained.adapter)
    np.testing.assert_allclose(logits(load_pretrained(tmp_path, "float32"), None), expected, atol=1e-4)
    messages = [{"role": "user", "content": "12 apples"}]
    assert load_tokenizer(tmp_path).encode_chat(messages) == load_tokenizer(base).encode_chat(messages)


def test_a_run_on_a_quantised_base_is_merged_into_the_original_weights(run, tmp_path):
    quantised = shutil.copytree(run, tmp_path / "run")
    settings = (quantised / "config.yaml").read_text()
    assert "quantization: null" in settings
    (quantised / "config.yaml").write_text(settings.replace("quantization: null", "quantization: nf4"))
    assert main([str(run), str(tmp_path / "plain"), "--merged"]) == 0
    assert main([str(quantised), str(tmp_path / "merged"), "--merged"]) == 0
    for path in (tmp_path / "plain").iterdir():
        assert (tmp_path / "merged" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("merged", [[], ["--merged"]], ids=["adapter", "merged"])
def test_a_place_that_cannot_be_written_is_said_in_one_line(run, tmp_path, capsys, merged):
    (tmp_path / "file").write_text("")
    assert main([str(run), str(tmp_path / "file" / "out"), *merged]) == 2
    what = f"{tmp_path}/file/out cannot be written (Not a directory)"
    assert capsys.readouterr().err.splitlines()[1:] == [f"error: {what}: give a folder elsewhere, or make room"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: ["missing"], "missing is not a usable checkpoint: there is no such folder"),
        (lambda run: [str(run / "checkpoints")], "is not a usable checkpoint: it has no manifest.json"),
        (lambda run: [str(run), "--base", "other"], "is float32[2, 4, 16] but this base model needs float32[2, 4, 32]"),
    ],
    ids=["no such folder", "not a checkpoint", "another base"],
)
def test_mistakes_are_one_line_and_exit_code_2(run, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    other = dataclasses.asdict(Qwen2Config.from_folder(run.parent / "base")) | {"model_type": "qwen2"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(other | {"hidden_size": 32, "head_dim": 8}))
    source, *rest = change(run)
    assert main([source, str(tmp_path / "out"), *rest]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


def test_a_folder_with_something_in_it_is_not_written_to(run, tmp_path, capsys):
    (tmp_path / "precious").write_text("")
    assert main([str(run), str(tmp_path)]) == 2
    assert f"{tmp_path} is not empty: give a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
