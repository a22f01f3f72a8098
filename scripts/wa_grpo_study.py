"""Plain GRPO, WA-GRPO and dynamic sampling on the quick start, at K = 2 and K = 8, over several seeds.

    python scripts/wa_grpo_study.py --folder runs/wa_grpo_study --seeds 1 2 3 4 5

Every arm samples the same number of rollouts a step. The arms of a seed start from one warm start: the same problems,
base model, simulator and adapter. Each result is kept in FOLDER/results.json as soon as it is there; the same command
goes on where it was stopped, and --report-only writes the tables from what is there.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarking import machine

from aflow_jax.runs import read_rollouts

REPOSITORY = Path(__file__).resolve().parent.parent
ROLLOUTS = 48
SIZES = (2, 8)
METHODS = {
    "plain GRPO": ("wa_grpo.alpha=0.0",),
    "WA-GRPO": ("wa_grpo.alpha=0.12",),
    "dynamic sampling": ("wa_grpo.alpha=0.0", "dynamic_sampling.max_rounds=2"),
}
ARMS = {
    f"{method}, K = {size}": (
        *settings,
        f"num_return_sequences_in_group={size}",
        f"rollout_batch_size={ROLLOUTS // size}",
    )
    for size in SIZES
    for method, settings in METHODS.items()
}
MEASURES = {
    "accuracy": "accuracy on held-out problems",
    "parse": "parse rate on held-out problems",
    "tied": "groups whose rewards are all equal",
    "same": "groups all right or all wrong",
    "silent": "groups whose advantages are all 0",
    "decided": "groups that only a tie-break tells apart",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--folder", type=Path, default=Path("runs/wa_grpo_study"), help="runs and results.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for every run")
    options = parser.parse_intermixed_args()
    study = Study(options.config, options.folder.resolve(), options.overrides)
    if not options.report_only:
        for seed in options.seeds:
            for arm in options.arms:
                study.train(seed, arm)
    print(report(study, " ".join(sys.argv[1:])))


class Study:
    """Runs of the training command, and what came of them.

    Attributes:
        results: seed → arm, or "warm start" → the measures, the commit, the number of rollouts sampled.
    """

    def __init__(self, config: str, folder: Path, overrides: list[str]) -> None:
        self.config, self.folder, self.overrides = config, folder, overrides
        self.path = folder / "results.json"
        self.results: dict[str, dict[str, dict]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def train(self, seed: int, arm: str) -> None:
        """Train one arm from the seed's warm start, unless its result is there.

        Runs are deterministic, and WA-GRPO acts only on tied groups of different workflows: where the run of plain GRPO
        met none, WA-GRPO's run is the same to the last bit, and is not made again.
        """
        start = self.folder / f"seed_{seed}" / "warm"
        if "warm start" not in self.results.get(str(seed), {}):
            self._run(seed, start, "max_steps=0")
            self._keep(seed, "warm start", _last_evaluation(start))
        if arm in self.results[str(seed)]:
            return
        plain = "plain GRPO, " + arm.partition(", ")[2]
        if arm.startswith("WA-GRPO") and not _breaks_ties(start.parent / _file_name(plain)):
            self._keep(seed, arm, self.results[str(seed)][plain] | {"equals": plain})
            return
        run = start.parent / _file_name(arm)
        settings = ("create_model=null", f"base_model={start / 'model'}", *ARMS[arm])
        self._run(seed, run, "--resume", str(start / "checkpoints" / "step_0"), *settings)
        self._keep(seed, arm, _last_evaluation(run) | _signal(run))
        shutil.rmtree(run / "checkpoints")

    def _run(self, seed: int, folder: Path, *arguments: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "aflow_jax.train", "--config", self.config, f"seed={seed}"]
        # Programs are the same in every run: compile each once.
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache")}
        subprocess.run(
            [*command, f"run_dir={folder}", *self.overrides, *arguments],
            cwd=REPOSITORY,
            check=True,
            env=os.environ | cache,
            stdout=subprocess.DEVNULL,
        )

    def _keep(self, seed: int, name: str, result: dict) -> None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True, text=True
        )
        result |= {"commit": commit.stdout.strip()}
        self.results.setdefault(str(seed), {})[name] = result
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.results, indent=1))
        partial.replace(self.path)
        print(f"seed {seed}, {name}: {result}", flush=True)


def _last_evaluation(folder: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "eval_accuracy" in line][-1]
    return {"steps": last["step"], "accuracy": last["eval_accuracy"], "parse": last["eval_workflow/parse_rate"]}


def _breaks_ties(plain: Path) -> bool:
    """Return whether the run met a tied group of different workflows: whether a tie-break could have acted."""
    return any(len({rollout["workflow"] for rollout in group}) > 1 for group in _groups(plain) if _is_tied(group))


def _groups(folder: Path) -> list[list[dict]]:
    """Return the training rollouts of a run, problem by problem and step by step."""
    groups: list[list[dict]] = []
    for path in sorted(folder.glob("rollouts/step_*.jsonl.gz")):
        by_problem: dict[str, list[dict]] = {}
        for rollout in read_rollouts(path):
            by_problem.setdefault(rollout["problem"]["id"], []).append(rollout)
        groups.extend(by_problem.values())
    return groups


def _signal(folder: Path) -> dict[str, float]:
    """Return how many groups of the training rollouts had something to learn from, and how many rollouts there were."""
    groups = _groups(folder)
    decided = [group for group in groups if _is_tied(group) and any(rollout["advantage"] for rollout in group)]
    return {
        "tied": _share_of_groups(groups, "reward"),
        "same": _share_of_groups(groups, "correctness"),
        "silent": statistics.fmean(all(rollout["advantage"] == 0 for rollout in group) for group in groups),
        "decided": len(decided) / len(groups),
        "tie-break": _mean_size(decided),
        "others": _mean_size([group for group in groups if not _is_tied(group)]),
        "rollouts": sum(map(len, groups)),
    }


def _file_name(arm: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in arm)


def _is_tied(group: list[dict]) -> bool:
    return len({rollout["reward"] for rollout in group}) == 1


def _mean_size(groups: list[list[dict]]) -> float:
    """Return the mean absolute advantage of the groups' rollouts, 0 where there are none."""
    return statistics.fmean([abs(rollout["advantage"]) for group in groups for rollout in group] or [0.0])


def _share_of_groups(groups: list[list[dict]], name: str) -> float:
    return statistics.fmean(len({rollout[name] for rollout in group}) == 1 for group in groups)


def report(study: Study, arguments: str) -> str:
    """Return the tables as Markdown, one section a group size, each of the seeds that have all the arms made of it."""
    sections = [line for size in SIZES for line in _section(study, f"K = {size}")]
    commits = sorted({run["commit"] for runs in study.results.values() for run in runs.values()})
    made = f"Made by `python scripts/wa_grpo_study.py {arguments}` at commit {', '.join(commits)} on "
    return "\n".join([*sections, made + machine(("jax", "flax", "optax", "numpy")) + ".", ""])


def _section(study: Study, size: str) -> list[str]:
    arms = [arm for arm in ARMS if arm.endswith(size) and any(arm in runs for runs in study.results.values())]
    seeds = [
        seed for seed in sorted(study.results, key=int) if arms and all(arm in study.results[seed] for arm in arms)
    ]
    runs = [study.results[seed] for seed in seeds]
    if not runs:
        return [f"## {size}", "", "No seed has all its arms yet.", ""]
    warm, parsed = ([run["warm start"][name] for run in runs] for name in ("accuracy", "parse"))
    return [
        f"## {size}",
        "",
        f"Seeds {', '.join(seeds)}; {runs[0][arms[0]]['steps']} steps of {ROLLOUTS} rollouts. Mean over seeds ± sample "
        "standard deviation.",
        "",
        "| | " + " | ".join(MEASURES.values()) + " | mean size of the advantages: tie-breaks, others | rollouts |",
        "|---|" + "---|" * (len(MEASURES) + 2),
        f"| after the warm start | {_spread(warm)} | {_spread(parsed)} | | | | | | |",
        *(_row(arm, [run[arm] for run in runs]) for arm in arms),
        "",
        "Held-out accuracy of each seed, and the difference to plain GRPO with the same seed, in points:",
        "",
        "| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean difference ± deviation | better, worse |",
        "|---|" + "---|" * (len(seeds) + 2),
        "| after the warm start | " + " | ".join(f"{value:.1%}" for value in warm) + " | | |",
        *(_compared(arm, runs) for arm in arms),
        "",
    ]


def _row(arm: str, results: list[dict]) -> str:
    cells = [_spread([result[name] for result in results]) for name in MEASURES]
    ties, others = (statistics.fmean(result[name] for result in results) for name in ("tie-break", "others"))
    cells += [f"{ties:.4f}, {others:.4f}", f"{statistics.fmean(result['rollouts'] for result in results):.0f}"]
    return f"| {arm} | " + " | ".join(cells) + " |"


def _compared(arm: str, runs: list[dict]) -> str:
    accuracies = [run[arm]["accuracy"] for run in runs]
    plain = "plain GRPO, " + arm.partition(", ")[2]
    row = f"| {arm} | " + " | ".join(f"{value:.1%}" for value in accuracies)
    if arm == plain:
        return f"{row} | | |"
    gains = [100 * (value - run[plain]["accuracy"]) for value, run in zip(accuracies, runs, strict=True)]
    deviation = f" ± {statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return f"{row} | {statistics.fmean(gains):+.1f}{deviation} | {better}, {worse} |"


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1%}" + (f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
