"""Two processes that train one run, as their user starts them: the metrics of one process, one of them dying, and
another number of them going on."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forced_devices import forced
from small_run import write_settings

from aflow_jax.processes import PEER_LOST
from aflow_jax.runs import Checkpoint

REPOSITORY = Path(__file__).parent.parent
STEPS = 2
RESUMED_TO = 5
CHANGES = {
    "synthetic_data": {"train": 24, "test": 1},
    "max_steps": RESUMED_TO,
    "kl_loss_coef": 0.0,
    "lora_dropout": 0.0,
    "prompt_max_length": 1024,
    "generation_config": {"top_p": 1.0, "top_k": 0, "max_new_tokens": 16},
    "eval_every": 0,
}


def start(config: Path, folder: Path, *arguments: str, devices: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aflow_jax.train", "--config", str(config), f"run_dir={folder}", *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=forced(devices), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def start_two(config: Path, folder: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    several = [f"distributed.coordinator={address}", "distributed.processes=2"]
    return [
        start(config, folder, *arguments, *several, f"distributed.process={process}", devices=1) for process in range(2)
    ]


def said_in_the_end(processes: list[subprocess.Popen[str]]) -> list[str]:
    return [process.communicate(timeout=300)[1] for process in processes]


def metrics_of(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    timed = ("time", "latency", "memory")
    return [{k: v for k, v in json.loads(line).items() if not any(word in k for word in timed)} for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """One process of two devices; and two of one device each, of which the second is killed after the steps."""
    folder = tmp_path_factory.mktemp("runs")
    config = write_settings(folder / "small.yaml", **CHANGES)
    one = start(config, folder / "one", devices=2)
    two = start_two(config, folder / "two", "max_steps=1000")
    while two[0].poll() is None and two[1].poll() is None and len(metrics_of(folder / "two")) <= STEPS:
        time.sleep(0.1)
    two[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    said = said_in_the_end([one, *two])
    return {
        "folder": folder,
        "codes": [process.returncode for process in (one, *two)],
        "said": said,
        "of two": metrics_of(folder / "two"),
        "seconds": time.monotonic() - killed,
    }


def test_two_processes_train_to_the_metrics_of_one(runs: dict) -> None:
    assert runs["codes"][0] == 0, runs["said"][0][-3000:]
    one, two = metrics_of(runs["folder"] / "one"), runs["of two"]
    assert len(one) == RESUMED_TO + 1
    assert two[: STEPS + 1] == one[: STEPS + 1]
    assert one[-1]["executor/calls"] > 0


def test_when_one_dies_the_other_says_so_and_ends(runs: dict) -> None:
    assert runs["codes"][1:] == [PEER_LOST, -signal.SIGKILL], runs["said"][1][-3000:]
    assert "Traceback" not in runs["said"][1]
    errors = [line for line in runs["said"][1].splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: process 1 of this run has ended: see what it said, and start all of them with --resume latest"
    ]


def test_the_newest_checkpoint_is_one_to_go_on_from(runs: dict) -> None:
    newest = Checkpoint.newest(runs["folder"] / "two" / "checkpoints", report=lambda line: None)
    assert STEPS - 1 <= newest.place.step < RESUMED_TO - 1


def test_one_process_goes_on_from_what_two_saved_and_two_from_what_one_saved(runs: dict) -> None:
    folder, config = runs["folder"] / "two", runs["folder"] / "small.yaml"
    alone = start(config, folder, "--resume", "latest", f"max_steps={RESUMED_TO - 1}", devices=2)
    said = said_in_the_end([alone])
    assert alone.returncode == 0, said[0][-3000:]
    together = start_two(config, folder, "--resume", "latest")
    said = said_in_the_end(together)
    assert [process.returncode for process in together] == [0, 0], said[0][-3000:]
    assert metrics_of(folder) == metrics_of(runs["folder"] / "one")
