"""What the quick start learns: held-out accuracy before and after training, over several seeds.

    python scripts/quickstart_study.py --seeds 1 2 3 4 5 --out docs/quickstart_study.md

Each seed has its own problems, model, simulator and noise.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

NAMES = ("accuracy", "accuracy/math", "accuracy/code", "accuracy/qa", "workflow/parse_rate")
REPOSITORY = Path(__file__).parent.parent
INTRODUCTION = """\
`{config}` with {seeds} seeds: accuracy on held-out problems after the warm start, before GRPO, and after {steps} steps
of it. Each seed has its own problems, model and simulator. The executor LLM is the simulator, which knows the gold
answers and gets them right with a chance that depends on domain and operator. So the table shows that the policy learns
which workflow fits which problem; it says nothing about a real LLM."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, help="Markdown file to write; the table is printed anyway")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for every run")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(options.config, seed, Path(folder) / str(seed), options.overrides) for seed in options.seeds]
    text = report(options.config, options.overrides, runs)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def run(config: str, seed: int, folder: Path, overrides: list[str]) -> dict[str, float]:
    """Train with one seed; return the first and the last evaluation."""
    command = [sys.executable, "-m", "aflow_jax.train", "--config", config, f"seed={seed}", f"run_dir={folder}"]
    subprocess.run([*command, *overrides], cwd=REPOSITORY, check=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "eval_accuracy" in line]
    result = {"seed": seed, "steps": lines[-1]["step"]}
    for name in NAMES:
        result[f"before {name}"] = evaluations[0][f"eval_{name}"]
        result[f"after {name}"] = evaluations[-1][f"eval_{name}"]
    return result


def report(config: str, overrides: list[str], runs: list[dict[str, float]]) -> str:
    """Return the study as Markdown."""
    rises = [run["after accuracy"] - run["before accuracy"] for run in runs]
    rows = [
        f"| {run['seed']} | "
        + " | ".join(f"{run[f'before {name}']:.1%} → {run[f'after {name}']:.1%}" for name in NAMES)
        + f" | {100 * rise:+.1f} |"
        for run, rise in zip(runs, rises, strict=True)
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "numpy"))
    seeds = " ".join(str(run["seed"]) for run in runs)
    command = " ".join(["python scripts/quickstart_study.py --seeds", seeds, *overrides])
    machine = f"{len(os.sched_getaffinity(0))} cores of {_processor()}, {_memory_gb():.0f} GB"
    return "\n".join(
        [
            "# What the quick start learns",
            "",
            INTRODUCTION.format(config=config, seeds=len(runs), steps=runs[0]["steps"]),
            "",
            "| seed | accuracy | math | code | qa | parse rate | points |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Mean rise {100 * statistics.fmean(rises):+.1f} points, least {100 * min(rises):+.1f}.",
            "",
            f"Made by `{command}` on {machine}; Python {platform.python_version()}, {packages}.",
            "",
        ]
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


if __name__ == "__main__":
    main()
