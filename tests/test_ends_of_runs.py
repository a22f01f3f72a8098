"""How whole runs end that cannot go on: with their exit code, one line that says why, and a checkpoint that is good."""

import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from small_run import write_settings

from aflow_jax.runs import Checkpoints, MetricsFile, saved_steps
from aflow_jax.train import main
from aflow_jax.trained import load_trained_adapter

# With so large a scale the gradient's norm is beyond float32, while the policy, whose B matrices are zero, is sampled.
OVERFLOWS = "lora_alpha=1e38"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"synthetic_data": {"train": 12, "test": 3}, "eval_every": 0, "max_steps": 30}
    return write_settings(tmp_path_factory.mktemp("ends") / "small.yaml", **settings)


@pytest.fixture(scope="module")
def stopped(config: Path) -> Path:
    """A run that was stopped for numbers that are not finite."""
    folder = config.parent / "stopped"
    assert main(["--config", str(config), f"run_dir={folder}", OVERFLOWS]) == 5
    return folder


def assert_good(checkpoint: Path, first: Path) -> None:
    """Assert that the checkpoint is restored to the policy of the first, which no update has changed."""
    good, start = (load_trained_adapter(path).adapter.weights for path in (checkpoint, first))
    assert jax.tree.all(jax.tree.map(np.array_equal, good, start))
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(np.isfinite(leaf).all()), good))


def test_a_run_whose_updates_are_not_finite_ends_with_5_its_reason_and_the_policy_as_it_was(
    config: Path, stopped: Path
) -> None:
    log = (stopped / "training.log").read_text()
    reason = "stopped at step 3: the loss or its gradient was not finite in 3 steps in a row, which left the policy as"
    assert sum(reason in line for line in log.splitlines()) == 1
    assert "Traceback" not in log
    assert saved_steps(stopped / "checkpoints") == [1, 2, 3]
    assert_good(stopped / "checkpoints" / "step_3", stopped / "checkpoints" / "step_1")
    mended = ["--config", str(config), f"run_dir={stopped}", "lora_alpha=8", "max_steps=3", "--resume", "latest"]
    assert main(mended) == 0


@pytest.mark.parametrize("call", [(Checkpoints, "save"), (MetricsFile, "write")], ids=["checkpoint", "metrics"])
def test_a_run_whose_folder_cannot_be_written_any_more_ends_with_6_its_reason_and_the_last_checkpoint(
    config: Path, stopped: Path, call: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    folder, (owner, name) = shutil.copytree(stopped, tmp_path / "run"), call
    begin, (soft, hard) = getattr(owner, name), resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*arguments: object, **options: object) -> None:
        """From here on no file takes another byte after its thousandth, as on a disk that is full."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        begin(*arguments, **options)

    monkeypatch.setattr(owner, name, full)
    try:
        code = main(["--config", str(config), f"run_dir={folder}", OVERFLOWS, "--resume", "latest"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert code == 6, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: run_dir {folder} cannot be written: ")
    assert errors[0].endswith("go on from the last checkpoint with --resume latest")
    assert "Traceback" not in said
    assert_good(folder, stopped / "checkpoints" / "step_1")
    monkeypatch.undo()
    again = ["--config", str(config), f"run_dir={folder}", OVERFLOWS, "max_steps=3", "--resume", "latest"]
    assert main(again) == 0
