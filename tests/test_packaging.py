"""What a stranger installs: light commands, a package that works away from its checkout, ranges for requirements."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from aflow_jax import __version__
from aflow_jax.paths import found, found_config

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMMANDS = sorted(
    {path.stem for path in (REPOSITORY / "aflow_jax").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    | {path.parent.name for path in (REPOSITORY / "aflow_jax").glob("*/__main__.py")}
)
SLOW = ("jax", "transformers", "flax", "openai", "torch")

# A Colab GPU image as its maintainers published it (googlecolab/backend-info, pip-freeze.gpu.txt, June 2026).
COLAB = {
    "jax": "0.7.2", "flax": "0.11.2", "optax": "0.2.8", "orbax-checkpoint": "0.12.0", "numpy": "2.0.2",
    "safetensors": "0.7.0", "huggingface-hub": "1.17.0", "transformers": "5.9.0", "tokenizers": "0.22.2",
    "jinja2": "3.1.6", "openai": "2.40.0", "pydantic": "2.12.3", "pyyaml": "6.0.3", "packaging": "26.2",
    "rich": "13.9.4", "sympy": "1.14.0", "starlette": "0.52.1", "uvicorn": "0.48.0", "prometheus-client": "0.25.0",
    "wandb": "0.27.0",
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_waits_for_nothing_slow(command: str, tmp_path: Path) -> None:
    program = (
        "import json, runpy, sys\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try: runpy.run_module('aflow_jax.%s', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "json.dump([code, list(sys.modules)], open(sys.argv[0] + '.json', 'w'))\n"
    ) % command  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    code, modules = json.loads((tmp_path / f"{command}.json").read_text())
    assert code == 0
    assert "example: python -m aflow_jax." in " ".join(done.stdout.split())
    assert not set(SLOW) & set(modules)


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    program = "import sys; before = set(sys.modules); import aflow_jax; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['aflow_jax']"
    assert __version__ == PROJECT["version"]


def test_settings_are_found_by_path_by_name_and_away_from_the_checkout(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = REPOSITORY / "configs"
    for name in ("quickstart", "configs/quickstart.yaml"):
        assert found_config(name).resolve() == packaged / "quickstart.yaml"
    assert found_config("gpu/t4_16gb").resolve() == packaged / "gpu/t4_16gb.yaml"
    assert found("configs/aflow_llm.yaml").resolve() == packaged / "aflow_llm.yaml"
    mine = tmp_path / "configs/quickstart.yaml"
    mine.parent.mkdir()
    mine.write_text("seed: 3")
    assert found_config("quickstart").resolve() == found_config("configs/quickstart.yaml").resolve() == mine


def test_the_wheel_holds_the_settings_the_problems_and_no_tests(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = "from hatchling.build import build_wheel; print(build_wheel(__import__('sys').argv[1]))"
    command = [sys.executable, "-c", build, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True)
    names = set(zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist())
    kept = [*(REPOSITORY / "configs").rglob("*.yaml"), REPOSITORY / "configs/operator.json"]
    kept += (REPOSITORY / "data").glob("synthetic_*.jsonl")
    assert {f"aflow_jax/{path.relative_to(REPOSITORY)}" for path in kept} <= names
    assert {name.split("/")[0] for name in names} == {"aflow_jax", f"aflow_jax-{__version__}.dist-info"}


def test_requirements_are_ranges_that_leave_everything_newer_alone() -> None:
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        operators = {specifier.operator for specifier in Requirement(text).specifier}
        assert operators <= {">=", "<"}, text
        assert not ("<" in operators and Requirement(text).name in COLAB), text


def test_what_a_colab_image_has_too_old_is_known() -> None:
    """JAX and what goes with it: the notebook installs into an environment of its own, and leaves the image alone."""
    required = [Requirement(text) for text in PROJECT["dependencies"]]
    refused = {
        requirement.name.lower().replace("_", "-")
        for requirement in required
        if (version := COLAB.get(requirement.name.lower().replace("_", "-")))
        and (requirement.marker is None or requirement.marker.evaluate({"python_version": "3.12"}))
        and not requirement.specifier.contains(version)
    }
    assert refused == {"jax", "flax", "openai"}
