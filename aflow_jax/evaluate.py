"""Evaluate a checkpoint: python -m aflow_jax.evaluate --checkpoint RUN|STEP_FOLDER|none [--data FILE] [key=value …]

Accuracy, cost and latency of the policy beside baselines, on the same problems and by the same executor: tables in the
terminal, one JSON file with everything, a chart, and every rollout.

Exit codes: 0 done; 2 a mistake that the user can mend; 3 the budget is spent, or more rollouts are void than
void_limit.ratio (the results are written and say so); 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from aflow_jax.commands import BOUND_REACHED, add_which, exit_code
from aflow_jax.errors import UserError
from aflow_jax.evaluation.names import BASELINES, UNTRAINED


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.evaluate",
        description="Evaluate a trained policy beside baselines, on the same problems and by the same executor.",
        epilog="example: python -m aflow_jax.evaluate --checkpoint runs/quickstart --samples 1 evaluation.problems=40",
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN|STEP_FOLDER|none",
        help="a run folder (see --which), a checkpoints/step_N folder, or none: baselines alone",
    )  # fmt: skip
    add_which(parser)
    parser.add_argument("--data", type=Path, metavar="FILE", help="JSONL of problems; the run's held-out ones without")
    parser.add_argument("--config", metavar="FILE", help="settings; without it the run's own")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go; RUN/evaluations without")
    parser.add_argument(
        "--baselines", type=_baselines, metavar="A,B",
        help=f"of {', '.join(BASELINES)}; all without, and `none` for none",
    )  # fmt: skip
    parser.add_argument("--samples", type=_positive, default=1, metavar="N", help="workflows for each problem; 1")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    return parser.parse_intermixed_args(arguments)


def _baselines(text: str) -> tuple[str, ...]:
    names = [] if text == "none" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(BASELINES)}")
    return tuple(names)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    _options(None)  # --help and mistakes are answered before the imports below, which take seconds

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from aflow_jax.assembly import ProblemSets, RunParts, load_problem_sets, open_execution, open_parts, sound_problems
from aflow_jax.config import Config
from aflow_jax.evaluation.chart import write_chart
from aflow_jax.evaluation.contamination import Contamination, find_contamination
from aflow_jax.evaluation.result import Result, Table
from aflow_jax.evaluation.run import Evaluation
from aflow_jax.evaluation.scores import Subject
from aflow_jax.llm import BudgetExhausted
from aflow_jax.memory import claim_gpu_memory, keep_freed_memory
from aflow_jax.paths import found
from aflow_jax.problems import Problem, load_problems
from aflow_jax.rollout import as_record
from aflow_jax.runs import write_rollouts
from aflow_jax.settings_for_use import Settings, settings_for_use


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _options(arguments)
    return exit_code(lambda: asyncio.run(_run(options)), bound_reached=BudgetExhausted)


async def _run(options: argparse.Namespace) -> int:
    claim_gpu_memory()
    keep_freed_memory()
    settings, place = _settings(options)
    config = settings.config
    _check_samples(config, options.samples)
    trained_on, problems, reason = _problems(settings, options.data)
    if options.data or not config.synthetic_data:
        problems = await sound_problems(config, problems[: config.evaluation.problems], _say)
    contamination = Contamination(None, reason=reason)
    if trained_on and settings.adapter is not None:
        contamination = find_contamination(trained_on, problems)
    _say(contamination.summary)
    baselines = options.baselines
    if baselines is None:
        baselines = tuple(name for name in BASELINES if settings.adapter is not None or name != UNTRAINED)
    subjects, prompt = await _subjects(settings, trained_on, problems, baselines, options.samples)
    about = {
        "title": _title(settings, options),
        "checkpoint": options.checkpoint,
        "step": settings.step,
        "data": str(options.data) if options.data else "the held-out problems of the settings",
        "problems": len(problems),
        "samples": options.samples,
        "temperature": config.evaluation.temperature,
        "seed": config.seed,
        "executor": "simulator" if config.simulator else config.aflow_executor_model,
    }
    record = Result(about, config.seed, subjects, contamination).as_record()
    _show(record)
    _write(record, subjects, prompt, place)
    return _voids(subjects, config)


def _settings(options: argparse.Namespace) -> tuple[Settings, Path]:
    """Return the settings, and the folder of this evaluation: its JSON and chart lie beside it under the same name."""
    checkpoint = None if options.checkpoint == "none" else Path(options.checkpoint)
    settings = settings_for_use(
        checkpoint, options.config, options.overrides, Path("evaluations"), which=options.which, say=_say
    )
    data = options.data.stem if options.data else "held_out"
    which = "baselines" if settings.run is None else f"step_{settings.step}"
    place = (options.out or (settings.run or Path()) / "evaluations") / f"{data}_{which}"
    return replace(settings, config=settings.config.model_copy(update={"run_dir": str(place)})), place


def _check_samples(config: Config, samples: int) -> None:
    if samples > 1 and config.evaluation.temperature == 0:
        raise UserError(
            f"--samples {samples}: at temperature 0 all samples of a problem are the same: add "
            "evaluation.temperature=1.0, or take one"
        )


def _problems(settings: Settings, data: Path | None) -> tuple[list[Problem], list[Problem], str]:
    """Return the problems trained on, those to evaluate, and why the former are missing, if they are."""
    try:
        own = load_problem_sets(settings.config, lambda _: None)
    except UserError as error:
        if data is None:
            raise
        return [], load_problems(found(data)), str(error)
    problems = load_problems(found(data)) if data else own.test
    if not problems:
        raise UserError("test_dataset is null, so there is nothing to evaluate on: give problems with --data FILE")
    return own.train, problems, "without a checkpoint nothing was trained"


async def _subjects(
    settings: Settings, trained_on: list[Problem], problems: list[Problem], baselines: Sequence[str], samples: int
) -> tuple[list[Subject], Callable[[Sequence[int]], str]]:
    """Return the subjects, and what makes a text of the tokens of a prompt."""
    config = settings.config
    # The simulator of a run knows here what it knew in training, so that it says the same.
    needs_policy = settings.adapter is not None or UNTRAINED in baselines
    opened = (
        open_parts(config, ProblemSets(trained_on, problems), _say)
        if needs_policy
        else open_execution(config, [*trained_on, *problems], _say)
    )
    async with opened as parts:
        subjects = await Evaluation(config, parts, problems, samples, _say).subjects(settings.adapter, baselines)
        return subjects, parts.policy.prompt_text if isinstance(parts, RunParts) else lambda tokens: ""


def _title(settings: Settings, options: argparse.Namespace) -> str:
    what = "Baselines" if settings.run is None else f"{settings.config.exp_name}, step {settings.step}"
    return f"{what} on {options.data.name if options.data else 'held-out problems'}"


def _show(record: dict) -> None:
    """Show the tables; a file gets them as wide as they are."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for table in record["tables"]:
        console.print(_terminal(table))
        console.print()


def _write(record: dict, subjects: Sequence[Subject], prompt: Callable[[Sequence[int]], str], place: Path) -> None:
    """Write JSON, chart and rollouts; say where they are."""
    result, chart = (place.with_name(place.name + suffix) for suffix in (".json", ".html"))
    try:
        place.mkdir(parents=True, exist_ok=True)
        partial = result.with_name(result.name + ".partial")
        partial.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        partial.replace(result)
        for subject in subjects:
            rollouts = [rollout for group in subject.groups for rollout in group]
            write_rollouts(
                place,
                subject.name,
                (as_record(one, prompt(one.completion.prompt_tokens), 0.0) for one in rollouts),
            )
        write_chart(record, chart)
    except OSError as error:
        raise UserError(f"--out {place.parent}: cannot be written ({error.strerror}): give another place") from None
    _say(f"everything: {result}; chart: {chart}; rollouts: {place}/")


def _terminal(table: Table) -> TerminalTable:
    shown = TerminalTable(
        title=table["title"], caption=table["note"], title_justify="left", caption_justify="left", show_edge=False
    )
    for position, column in enumerate(table["columns"]):
        shown.add_column(Text(column), justify="right" if position else "left")
    for row in table["rows"]:
        shown.add_row(*map(Text, row))
    return shown


def _voids(subjects: Sequence[Subject], config: Config) -> int:
    """Return the exit code, and say which subjects have too many void rollouts to be trusted."""
    code = 0
    for subject in subjects:
        rollouts = [rollout for group in subject.groups for rollout in group]
        voids = [rollout for rollout in rollouts if rollout.outcome.is_void]
        if len(voids) > config.void_limit.ratio * len(rollouts):
            error = voids[0].execution.error
            _say(f"{subject.name}: {len(voids)} of {len(rollouts)} rollouts are void ({voids[0].outcome}: {error})")
            code = BOUND_REACHED
    return code


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
