"""The serve command as its user runs it: started, asked, ended by a signal, and misused."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import openai
import pytest

from aflow_jax.qwen2 import Qwen2Config, create_checkpoint, init_adapter, save_peft
from aflow_jax.serve import main

REPOSITORY = Path(__file__).parent.parent
KEY = "sk-key-for-the-command"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "tiny-model"
    create_checkpoint(
        folder, texts=["a fox and a dog"], seed=0, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, vocab_size=280, max_position_embeddings=4096,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory) -> Path:
    fresh = init_adapter(Qwen2Config.from_folder(model), 2, 4, "q_proj,up_proj", jax.random.key(0))
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), fresh.weights)
    folder = tmp_path_factory.mktemp("adapters") / "policy"
    save_peft(fresh.replace_weights(weights), folder, base_model=str(model))
    return folder


def start(*arguments: object, **environment: str) -> tuple[subprocess.Popen, str]:
    """Start the command on a free port; return the process and its address."""
    command = [sys.executable, "-m", "aflow_jax.serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    line = process.stdout.readline()
    assert "serving" in line, process.stderr.read()
    return process, re.search(r"http://\S+", line)[0]


def test_a_signal_lets_what_was_begun_end_and_the_command_ends_well(model, adapter):
    arguments = ("--model", model, "--adapter", f"mine={adapter}", "--adapter", adapter, "--api-key-env", "SERVE_KEY")
    process, address = start(*arguments, "--max-model-len", 1024, "--slots", 1, SERVE_KEY=KEY)
    try:
        client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)
        assert [card.id for card in client.models.list()] == ["tiny-model", "mine", "policy"]
        stream = client.completions.create(model="mine", prompt="a fox", max_tokens=400, stream=True, temperature=0)
        first = next(stream)
        process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert [event.choices[0].finish_reason for event in (first, *rest)][-1] == "length"
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in errors
        assert KEY not in errors
    finally:
        process.kill()


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command on a user's mistake; return its one line."""
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_other_machines_are_let_in_with_a_key_only(model, capsys, monkeypatch):
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        assert "set a key with --api-key-env" in refusal(capsys, "--model", model, "--host", host, "--port", 0)
    monkeypatch.delenv("SERVE_KEY", raising=False)
    message = refusal(capsys, "--model", model, "--host", "0.0.0.0", "--port", 0, "--api-key-env", "SERVE_KEY")
    assert "export SERVE_KEY=" in message


def test_mistakes_are_named_in_one_line(model, adapter, tmp_path, capsys):
    assert "no such folder" in refusal(capsys, "--model", tmp_path / "nowhere", "--port", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "name another port" in refusal(capsys, "--model", model, "--port", port)
    arguments = ("--model", model, "--port", 0)
    assert "knows 4096 positions" in refusal(capsys, *arguments, "--max-model-len", 5000)
    assert "there is no such folder" in refusal(capsys, *arguments, "--adapter", tmp_path / "nothing")
    same = refusal(capsys, *arguments, "--adapter", adapter, "--adapter", adapter)
    assert "the name 'policy' is taken" in same
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    (tmp_path / "other" / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    assert "IA3" in refusal(capsys, *arguments, "--adapter", tmp_path / "other")
