"""The run folder, metrics.jsonl, rollouts, TensorBoard and W&B."""

import json
import math
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from aflow_jax.errors import UserError
from aflow_jax.runs import MetricsFile, RunFolder, TensorBoardLog, WandbLog, read_rollouts, write_rollouts


def test_a_folder_that_holds_a_run_is_taken_again_only_to_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", resuming=False)
    folder.write_config("seed: 1\n")
    folder.release()
    folder = RunFolder(tmp_path / "run", resuming=False)  # nothing is lost yet
    MetricsFile(folder.metrics, first_step=0).write(0, {})
    folder.release()
    with pytest.raises(UserError, match="already holds a run: go on with it by `--resume latest`"):
        RunFolder(tmp_path / "run", resuming=False)
    RunFolder(tmp_path / "run", resuming=True).release()


def test_two_trainers_never_share_a_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, resuming=True)
    with pytest.raises(UserError, match="another trainer is writing in it"):
        RunFolder(tmp_path, resuming=True)
    first.release()
    RunFolder(tmp_path, resuming=True).release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(tmp_path / "file", resuming=False)


def test_resuming_drops_the_lines_of_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsFile(path, first_step=0)
    for step in range(4):
        log.write(step, {"reward": step / 2, "kl": math.nan})
    with path.open("a") as file:
        file.write('{"step": 4, "rew')  # the process died here
    MetricsFile(path, first_step=2).write(2, {"reward": 9.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["reward"]) for line in lines] == [(0, 0.0), (1, 0.5), (2, 9.0)]
    assert lines[0]["kl"] is None


def test_rollouts_are_read_back_as_written(tmp_path: Path) -> None:
    rows = [{"text": "<workflow>Custom</workflow> ∑", "reward": 0.5}, {"text": "", "reward": 0.0}]
    assert read_rollouts(write_rollouts(tmp_path, "step_000001", rows)) == rows
    assert [file.name for file in tmp_path.iterdir()] == ["step_000001.jsonl.gz"]


def test_tensorboard_gets_every_metric_under_its_name(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, first_step=0)
    log.write(1, {"reward": 0.5, "accuracy/math": 0.25})
    log.close()
    (path,) = tmp_path.iterdir()
    values = {(event.step, value.tag): value.simple_value for event in events(path) for value in event.summary.value}
    assert values == {(1, "reward"): 0.5, (1, "accuracy/math"): 0.25}


def events(path: Path) -> list[Event]:
    """Return the events of a file: each is its length, a checksum, the event and a checksum of it."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_wandb_records_offline_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    log = WandbLog(project="p", name="n", folder=tmp_path, config={"seed": 1})
    log.write(1, {"reward": 0.5})
    log.close()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "no such mode"), ("WANDB_API_KEY", "too-short")])
def test_wandb_that_cannot_start_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    warnings = []
    monkeypatch.setattr("aflow_jax.runs.metrics.logger.warning", lambda text, *values: warnings.append(text % values))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv(variable, value)
    log = WandbLog(project="p", name="n", folder=tmp_path, config={})
    log.write(1, {"reward": 0.5})
    log.close()
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B is off from here on (metrics.jsonl goes on)")
    assert "too-short" not in warnings[0]
