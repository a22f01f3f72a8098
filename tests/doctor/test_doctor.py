"""The doctor on sound machines and broken ones: what is wrong is named, with its mend, and nothing stops the others."""

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import yaml

from aflow_jax.config import load_config
from aflow_jax.doctor import Subject, find_gpus, preset_for
from aflow_jax.doctor.__main__ import CHECKS, main
from aflow_jax.doctor.cards import Gpu
from aflow_jax.doctor.findings import examine
from aflow_jax.doctor.gpu import check_cuda, check_gpu
from aflow_jax.doctor.local import check_data, check_disk, check_memory, check_sandbox
from aflow_jax.doctor.network import check_executor, check_hub, check_wandb
from aflow_jax.memory import CARDS, POOL

REPOSITORY = Path(__file__).parents[2]
T4 = "Tesla T4, 550.54.15, 15360, 15100, 7.5"
SECRET = "sk-a-key-that-must-not-be-seen"


def settings(tmp_path: Path, *overrides: str, config: str = "quickstart") -> Subject:
    loaded = load_config(REPOSITORY / f"configs/{config}.yaml", [f"run_dir={tmp_path}/run", *overrides])
    return Subject(config=loaded)


def test_the_quick_start_is_well_on_this_machine(tmp_path, capsys):
    assert main(["--config", str(REPOSITORY / "configs/quickstart.yaml"), f"run_dir={tmp_path}/run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines} >= {"python", "packages", "gpu", "data", "memory", "disk", "sandbox"}
    assert all(line.startswith("ok ") for line in lines)


def test_a_check_that_breaks_down_is_reported_and_the_others_go_on(broken):
    first, *others = examine(Subject(), [broken, check_disk])
    assert (first.state, first.name) == ("warn", "that_breaks")
    assert "InvalidStateError: no such thing" in first.text
    assert [finding.name for finding in others] == ["disk"]


def test_settings_that_cannot_be_read_are_one_line_and_the_machine_is_examined_all_the_same(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("learning_rat: 1.0e-4", encoding="utf-8")
    assert main(["--config", str(file)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAIL  settings")
    assert "did you mean 'learning_rate'?" in lines[0]
    assert any(line.startswith("ok    sandbox") for line in lines)


@pytest.mark.parametrize(
    ("installed", "reported", "expected"),
    [
        ({}, T4, "pip install -e '.[cuda12]'"),
        ({}, "NVIDIA A100, 580.65.06, 40960, 40500, 8.0", "pip install -e '.[cuda13]'"),
        ({12: "0.0.1"}, T4, "jax-cuda12-plugin 0.0.1 is not of jaxlib"),
        ({12: None, 13: None}, T4, "pip uninstall jax-cuda13-plugin jax-cuda13-pjrt"),
        ({13: None}, T4, "CUDA 13 needs driver 580 or later, and 550.54.15 is installed"),
        ({13: None}, "Tesla V100, 580.65.06, 16160, 16000, 7.0", "CUDA 13 does not support compute capability 7.0"),
        ({12: None}, "Tesla T4, 470.1, 15360, 15100, 7.5", "CUDA 12 needs driver 525 or later"),
    ],
)  # fmt: skip
def test_what_of_cuda_does_not_fit_is_named(find, driver, monkeypatch, tmp_path, installed, reported, expected):
    jaxlib = __import__("jaxlib").__version__
    for cuda, version in installed.items():
        folder = tmp_path / "site" / f"jax_cuda{cuda}_plugin-{version or jaxlib}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: jax-cuda{cuda}-plugin\nVersion: {version or jaxlib}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    driver(reported)
    findings = find(check_cuda)
    assert findings[0].state == "FAIL"
    assert any(expected in str(finding) for finding in findings)


@pytest.fixture
def jax_with_libcudart(tmp_path, monkeypatch, driver):
    """A machine with a T4 whose JAX sees it once libcudart can be opened, and a folder that holds one."""
    site = tmp_path / "site"
    (site / "jax").mkdir(parents=True)
    (site / "jax/__init__.py").write_text(
        "import ctypes, os\n"
        "class Device: platform, device_kind = 'gpu', 'Tesla T4'\n"
        "def devices():\n"
        "    if 'old' in os.environ.get('LD_LIBRARY_PATH', ''): raise RuntimeError('Unable to load cuDNN')\n"
        "    if os.environ.get('NEEDS_LIBRARY'): ctypes.CDLL('libcudart.so.12')\n"
        "    return [Device()]\n"
    )
    jaxlib = __import__("jaxlib").__version__
    plugin = site / f"jax_cuda12_plugin-{jaxlib}.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text(f"Name: jax-cuda12-plugin\nVersion: {jaxlib}\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    driver(T4)
    return site


def test_jax_that_reaches_the_gpu_is_well(find, jax_with_libcudart):
    (finding,) = find(check_cuda)
    assert (finding.state, finding.text) == ("ok", "JAX sees 1 GPU: Tesla T4")


def test_libraries_that_hide_those_of_jax_are_named(find, jax_with_libcudart, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/old/cuda")
    (finding,) = find(check_cuda)
    assert finding.mend == "unset LD_LIBRARY_PATH"
    assert "/opt/old/cuda" in finding.text


def test_a_library_that_is_not_found_is_named_with_the_path_that_has_it(find, jax_with_libcudart, monkeypatch):
    monkeypatch.setenv("NEEDS_LIBRARY", "1")
    (finding,) = find(check_cuda)
    assert "libcudart.so.12 cannot be opened" in finding.text
    assert "--force-reinstall 'jax[cuda12]'" in finding.mend
    folder = jax_with_libcudart / "nvidia/cuda_runtime/lib"
    folder.mkdir(parents=True)
    shutil.copy(next(Path(sys.base_prefix).rglob("lib-dynload/_json*.so")), folder / "libcudart.so.12")
    (finding,) = find(check_cuda)
    assert finding.mend == f"export LD_LIBRARY_PATH={folder}"


@pytest.mark.parametrize("variable", ["JAX_PLATFORMS=cpu", "CUDA_VISIBLE_DEVICES="])
def test_a_variable_that_keeps_jax_from_the_gpu_is_named(find, jax_with_libcudart, monkeypatch, variable):
    monkeypatch.setenv("NEEDS_LIBRARY", "1")
    monkeypatch.setenv(*variable.split("="))
    (finding,) = find(check_cuda)
    assert finding.mend == f"unset {variable.split('=')[0]}"


def test_a_gpu_that_others_fill_is_named_and_a_preset_is_chosen(find, driver):
    driver("Tesla T4, 550.54.15, 15360, 4000, 7.5")
    gpu, preset = find(check_gpu)
    assert (gpu.state, "3.9 of 15.0 GiB free" in gpu.text) == ("warn", True)
    assert "--config gpu/t4_16gb" in preset.text
    assert find_gpus()[0].compute_capability == (7, 5)


@pytest.mark.parametrize("name", list(CARDS))
def test_each_card_gets_its_own_preset_and_a_larger_one_the_nearest_below(name):
    capability, memory = CARDS[name].compute_capability, round(CARDS[name].capacity / POOL / 2**20)
    assert preset_for(Gpu("card", "580", memory, memory, capability)) == f"gpu/{name}"
    assert preset_for(Gpu("H100 80 GB", "580", 81_559, 81_000, (9, 0))) == "gpu/a100_80gb"
    assert preset_for(Gpu("L4", "580", 23_034, 22_500, (8, 9))) == "gpu/t4_16gb"
    assert preset_for(Gpu("RTX 3060", "580", 12_288, 12_000, (8, 6))) is None


def test_a_run_that_does_not_fit_the_gpu_is_refused_with_a_preset(find, driver, tmp_path):
    driver("Tesla T4, 550.54.15, 15360, 900, 7.5")
    subject = settings(tmp_path)
    dtype, memory = find(check_memory, subject)
    assert dtype.text == "float16"
    assert memory.state == "FAIL"
    assert "out of memory" in memory.text
    assert "--config gpu/t4_16gb" in memory.mend


def test_a_missing_data_file_and_a_bad_line_are_named(find, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "1 + 1?", "answer": "2", "source": "gsm8x"}\n')
    subject = settings(tmp_path, "synthetic_data=null", f"train_dataset={tmp_path}/none.jsonl", f"test_dataset={bad}")
    missing, wrong = find(check_data, subject)
    assert missing.state == wrong.state == "FAIL"
    assert "none.jsonl: no such file" in missing.text
    assert f"{bad}:1: unknown source 'gsm8x'" in wrong.text


def test_data_files_are_counted_and_a_domain_without_problems_is_named(find, tmp_path):
    files = [f"{key}_dataset={REPOSITORY}/data/synthetic_{key}.jsonl" for key in ("train", "test")]
    train, test = find(check_data, settings(tmp_path, "synthetic_data=null", *files))
    assert train.state == test.state == "ok"
    math = tmp_path / "math.jsonl"
    math.write_text('{"question": "1 + 1?", "answer": "2", "source": "gsm8k"}\n')
    subject = settings(tmp_path, "synthetic_data=null", f"train_dataset={math}", "test_dataset=null")
    assert "domain_ratios.code is 0.333, and no problem is of that domain" in find(check_data, subject)[-1].text


def test_a_full_disk_is_refused(find, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1 << 20))
    (finding,) = find(check_disk, settings(tmp_path))
    assert finding.state == "FAIL"
    assert "0.0 GiB free" in finding.text
    assert "run_dir=" in finding.mend


def test_a_sandbox_that_this_machine_does_not_offer_is_named(find, tmp_path, monkeypatch):
    monkeypatch.setattr("aflow_jax.sandbox.backends.missing", lambda backend: "the kernel is too old")
    (finding,) = find(check_sandbox, settings(tmp_path))
    assert finding.state == "FAIL"
    assert "the kernel is too old" in finding.text
    assert "sandbox: unsafe" in finding.mend


def endpoint(tmp_path: Path, address: str) -> str:
    entry = {"base_url": f"{address}/v1", "api_key": "${DOCTOR_KEY}", "model_name": "m"}
    file = tmp_path / "llm.yaml"
    file.write_text(yaml.safe_dump({"models": {"mine": entry}}))
    return f"aflow_config_path={file}"


REPLY = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "OK"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


def test_a_key_that_is_accepted_or_refused_is_said_and_never_shown(find, tmp_path, served, monkeypatch):
    monkeypatch.setenv("DOCTOR_KEY", SECRET)
    for status, body, state, expected in (
        (200, REPLY, "ok", "key accepted"),
        (401, {"error": {"message": f"Incorrect API key provided: {SECRET}"}}, "FAIL", "refused the key (401)"),
        (429, {"error": {"message": "quota", "code": "insufficient_quota"}}, "FAIL", "quota is exhausted"),
    ):
        address = served(lambda _, status=status, body=body: (status, body))
        chosen = (endpoint(tmp_path, address), "aflow_executor_model=mine", "simulator=null")
        (finding,) = find(check_executor, settings(tmp_path, *chosen))
        assert finding.state == state
        assert expected in str(finding)
        assert SECRET not in str(finding)


def test_a_key_that_is_not_set_and_an_endpoint_out_of_reach_are_named(find, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    packaged = f"aflow_config_path={REPOSITORY}/configs/aflow_llm.yaml"
    (finding,) = find(check_executor, settings(tmp_path, packaged, "simulator=null"))
    assert "export OPENAI_API_KEY=<your key>" in finding.mend
    chosen = (endpoint(tmp_path, "http://127.0.0.1:9"), "aflow_executor_model=mine", "simulator=null")
    (finding,) = find(check_executor, settings(tmp_path, *chosen))
    assert (finding.state, "cannot be reached" in finding.text) == ("FAIL", True)


def hub(path: str) -> tuple[int, dict | bytes]:
    if path.startswith("/api/models/"):
        return 200, {"id": "Qwen/Tiny", "siblings": [{"rfilename": "model.safetensors", "size": 3_000_000_000}]}
    return 200, bytes(1 << 20)


def test_a_mirror_is_measured_and_one_out_of_reach_is_named(find, tmp_path, served):
    subject = settings(tmp_path, "create_model=null", "base_model=Qwen/Tiny")
    subject.environment["HF_ENDPOINT"] = served(hub)
    (finding,) = find(check_hub, subject)
    assert finding.state in ("ok", "warn")
    assert "3.0 GB at" in finding.text
    subject.environment["HF_ENDPOINT"] = served(lambda _: (404, {}))
    assert "does not give Qwen/Tiny to you (404)" in str(find(check_hub, subject)[0])
    subject.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    (finding,) = find(check_hub, subject)
    assert (finding.state, "cannot be reached" in finding.text) == ("FAIL", True)
    assert "HF_ENDPOINT" in finding.mend


def test_weights_and_biases_is_offline_or_its_key_is_asked(find, tmp_path, served):
    subject = settings(tmp_path, "wandb.enabled=true")
    subject.environment = {}
    (finding,) = find(check_wandb, subject)
    assert (finding.state, finding.text.startswith("offline")) == ("ok", True)
    answers = {"ok": {"data": {"viewer": {"username": "me"}}}, "warn": {"data": {"viewer": None}}}
    for state, answer in answers.items():
        address = served(lambda _, answer=answer: (200, answer))
        subject.environment = {"WANDB_API_KEY": SECRET, "WANDB_BASE_URL": address}
        (finding,) = find(check_wandb, subject)
        assert finding.state == state
        assert SECRET not in str(finding)


def test_every_check_of_the_command_has_a_name_of_its_own():
    assert len({check.__name__ for check in CHECKS}) == len(CHECKS)
    assert sys.modules["aflow_jax.doctor.__main__"].main is main
