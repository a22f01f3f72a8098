"""Solve one question: python -m aflow_jax.solve "question" --checkpoint RUN [--context TEXT] [--workflow TEXT] …

Shows the workflow, its run as it goes on, the answer and what it cost. The answer goes to stdout, the rest to stderr.

Exit codes: 0 an answer came out; 1 none did, by the workflow's fault; 2 a mistake that the user can mend; 3 the
executor or the sandbox failed, or the budget is spent; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from aflow_jax.commands import BOUND_REACHED, add_which, exit_code


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.solve",
        description="Solve one question with the workflow that a trained policy writes for it, or with a given one.",
        epilog='example: python -m aflow_jax.solve "What is 17 * 23?" --checkpoint runs/quickstart',
    )
    parser.add_argument("question", help="what is asked")
    parser.add_argument("--checkpoint", type=Path, metavar="RUN", help="a run folder, or a checkpoints/step_N folder")
    add_which(parser)
    parser.add_argument("--workflow", metavar="TEXT", help="run this one; no policy is loaded")
    parser.add_argument("--context", metavar="TEXT", help="passages to answer from")
    parser.add_argument("--entry-point", metavar="NAME", help="the function to write; makes it a question of code")
    parser.add_argument("--source", metavar="NAME", help="a row of configs/datasets.yaml; guessed without")
    parser.add_argument("--config", metavar="FILE", help="settings; without it the run's own, or the preset training")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    options = parser.parse_intermixed_args(arguments)
    if options.checkpoint is None and options.workflow is None:
        parser.error("give --checkpoint RUN for a policy that writes the workflow, or --workflow TEXT")
    return options


if __name__ == "__main__":
    _options(None)  # --help and mistakes are answered before the imports below, which take seconds

from rich.console import Console

from aflow_jax.live_run import LiveRun, readable
from aflow_jax.llm import BudgetExhausted
from aflow_jax.memory import claim_gpu_memory, keep_freed_memory
from aflow_jax.solver import Solution, Solver
from aflow_jax.workflow import Usage


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _options(arguments)
    return exit_code(lambda: _run(options), bound_reached=BudgetExhausted)


def _run(options: argparse.Namespace) -> int:
    claim_gpu_memory()
    keep_freed_memory()
    console = Console(stderr=True, highlight=False, markup=False)
    with (
        Solver(
            options.checkpoint,
            which=options.which,
            config=options.config,
            overrides=options.overrides,
            writes_workflows=options.workflow is None,
            say=lambda line: console.print(line, soft_wrap=True),
        ) as solver,
        LiveRun(console) as live,
    ):
        solution = solver.solve(
            options.question,
            context=options.context,
            entry_point=options.entry_point,
            source=options.source,
            workflow=options.workflow,
            wrote=lambda workflow: live.say(f"workflow: {workflow}"),
            watcher=live,
        )
    return _show(solution, console)


def _show(solution: Solution, console: Console) -> int:
    """Show how it ended; return the exit code."""
    if solution.workflow is None:
        console.print(f"the policy wrote no workflow: {readable(solution.text)}", soft_wrap=True)
    if solution.answer is not None:
        console.print("answer:")
        print(readable(solution.answer))
    else:
        console.print(f"no answer: {solution.outcome}: {readable(solution.error or '')}", soft_wrap=True)
    console.print(_cost(solution.usage))
    if solution.outcome.is_void:
        return BOUND_REACHED
    return 0 if solution.answer is not None else 1


def _cost(usage: Usage) -> str:
    usd = "price unknown" if usage.usd is None else f"${usage.usd:.5f}"
    return f"cost: {usage.calls} calls, {usage.prompt_tokens} + {usage.completion_tokens} tokens, {usd}"


if __name__ == "__main__":
    sys.exit(main())
