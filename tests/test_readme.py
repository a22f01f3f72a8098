"""Every command of the README runs: for real and small where it trains, else as far as a machine without a GPU can."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aflow_jax.config import load_config
from aflow_jax.errors import UserError

REPOSITORY = Path(__file__).parent.parent
SMALL = (
    "max_steps=1 warm_start=null synthetic_data.train=30 synthetic_data.test=6 eval_every=0 prompt_max_length=384 "
    "create_model.hidden_size=32 create_model.num_hidden_layers=1 create_model.vocab_size=600 rollout_batch_size=3 "
    "num_return_sequences_in_group=2 generation_config.max_new_tokens=16 lora_target_modules=q_proj"
)
# What is asked is whether commands run: compiled code that is slow is compiled soon.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
TRAIN = "python -m aflow_jax.train --config configs/quickstart.yaml"
FOLDER = "run_dir={runs}/quickstart"

# Each command as the README has it, comments apart, and what is run in its place. {runs} is a folder of the test's.
RUN = {
    TRAIN: f"{TRAIN} {FOLDER} {SMALL}",
    f"{TRAIN} --resume latest": f"{TRAIN} --resume latest {FOLDER} {SMALL} max_steps=2",
    "pytest": "pytest --collect-only -q {tests}",
    "python -m aflow_jax.report runs/quickstart": "python -m aflow_jax.report {runs}/quickstart",
    "python -m aflow_jax.doctor --config configs/quickstart.yaml": "python -m aflow_jax.doctor --help",
    "python -m aflow_jax.doctor --config configs/training.yaml": "python -m aflow_jax.doctor --help",
    "python -m aflow_jax.memory --config configs/gpu/a100_40gb.yaml --device a100_40gb": "python -m aflow_jax.memory "
    "--config configs/quickstart.yaml --device a100_40gb",
    "python -m aflow_jax.problems check data/synthetic_test.jsonl": "python -m aflow_jax.problems check "
    "data/synthetic_test.jsonl",
    "python scripts/download_datasets.py": "python scripts/download_datasets.py --help",
    "python scripts/prepare_data.py": "python scripts/prepare_data.py --help",
    "python -m aflow_jax.evaluate --checkpoint runs/quickstart": "python -m aflow_jax.evaluate --checkpoint "
    "{runs}/quickstart --baselines single_call",
    'python -m aflow_jax.solve "What is 17 * 23?" --checkpoint runs/quickstart': "python -m aflow_jax.solve --help",
    'python -m aflow_jax.solve "What is 17 * 23?" --config configs/training.yaml --workflow \'Programmer -> Review ? '
    "Revise : done'": 'python -m aflow_jax.solve "What is 17 * 23?" --config configs/quickstart.yaml --workflow Custom',
    "python -m aflow_jax.export runs/quickstart exported/adapter": "python -m aflow_jax.export {runs}/quickstart "
    "{runs}/adapter",
    "python -m aflow_jax.export runs/quickstart exported/model --merged": "python -m aflow_jax.export --merged "
    "{runs}/quickstart {runs}/merged",
    "python -m aflow_jax.serve --model runs/quickstart/model --adapter policy=runs/quickstart --port 8000": "python -m "
    "aflow_jax.serve --help",
}
# These need a GPU or a key: their settings are loaded, and so their files and keys checked.
LOADED = {
    "python -m aflow_jax.train --config configs/training.yaml",
    "python -m aflow_jax.train --config configs/training.yaml train_dataset=mine.jsonl test_dataset=mine_test.jsonl",
    "python -m aflow_jax.train --config configs/no_api_key.yaml",
}
# pip is not run: that the extra is there is what can be wrong.
INSTALLED = re.compile(r"pip install -e (?:\.|'\.\[(\w+)\]')")
SET = {"export OPENAI_API_KEY=sk-…"}


def commands(name: str) -> list[str]:
    """Return the commands of the bash blocks of a README, without comments, in order."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(part.split()) for line in lines if line.strip() for part in line.split("&&")]


def test_every_command_is_known_and_none_of_those_known_is_gone() -> None:
    found = {command for command in commands("README.md") if not INSTALLED.fullmatch(command)}
    assert found == {*RUN, *LOADED, *SET}


def test_the_chinese_readme_has_the_same_commands_and_links() -> None:
    assert commands("README.zh-CN.md") == commands("README.md")
    links = [
        set(re.findall(r"\]\(([^)#]+)", (REPOSITORY / name).read_text())) for name in ("README.md", "README.zh-CN.md")
    ]
    assert links[0] ^ links[1] == {"README.md", "README.zh-CN.md"}


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))])
def test_every_link_leads_somewhere(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )


def test_what_pip_installs_is_an_extra_of_the_package() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for command in commands("README.md"):
        if command.startswith("pip"):
            match = INSTALLED.fullmatch(command)
            assert match, command
            assert match[1] is None or re.search(rf"^{match[1]} = \[", project, re.MULTILINE), command


def test_the_commands_run(tmp_path: Path) -> None:
    for command in (command for command in commands("README.md") if command in RUN):
        words = shlex.split(RUN[command].format(runs=tmp_path, tests=__file__))
        program = [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", *words]
        done = subprocess.run(program, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (tmp_path / "quickstart/checkpoints/step_2").is_dir()
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
    assert (tmp_path / "merged/model.safetensors").is_file()


@pytest.mark.parametrize("command", sorted(LOADED))
def test_the_settings_of_the_commands_that_need_a_gpu_load(command: str) -> None:
    _, _, _, _, path, *overrides = shlex.split(command)
    with contextlib.chdir(REPOSITORY):
        assert load_config(path, overrides).max_steps > 0
    with pytest.raises(UserError):
        load_config(REPOSITORY / path, ["no_such_key=1"])


def test_the_page_of_settings_is_what_the_settings_say() -> None:
    done = subprocess.run([sys.executable, "scripts/configuration_page.py", "--check"], cwd=REPOSITORY, timeout=60)
    assert done.returncode == 0, "run: python scripts/configuration_page.py"
