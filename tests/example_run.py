"""A run folder as the trainer leaves it, of any size and without training; some of its texts are hostile."""

from __future__ import annotations

import json
import random
from pathlib import Path

from aflow_jax.runs import MetricsFile, write_rollouts
from aflow_jax.workflow import format as format_workflow
from aflow_jax.workflow import graph_record, parse

HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    "</script><svg onload=\"document.title = 'taken'\"></svg><!-- ${document.title} {{title}}"
)
WORKFLOWS = (
    "Programmer",
    "AnswerGenerate -> Review ? Revise : done -> Format",
    "[AnswerGenerate, Programmer, Custom] -> ScEnsemble",
    "CustomCodeGenerate -> (Test ? Revise : done) * 3",
    f"Custom({json.dumps(HOSTILE)}) -> AnswerGenerate",
)
SOURCES = {"math": "gsm8k", "code": "humaneval", "qa": "hotpotqa"}


def make_run(
    folder: Path, *, steps: int, problems: int = 2, group: int = 4, characters: int = 40, seed: int = 0
) -> Path:
    """Write a run of `steps` steps of `problems` × `group` rollouts, each text about `characters` long."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        f"exp_name: example\nseed: {seed}\nbase_model: Qwen/Qwen2.5-7B-Instruct\naflow_executor_model: gpt-4o-mini\n"
        f"max_steps: {steps}\nrollout_batch_size: {problems}\nnum_return_sequences_in_group: {group}\neval_every: 5\n"
    )
    metrics = MetricsFile(folder / "metrics.jsonl", first_step=0)
    for step in range(steps + 1):
        skill = 0.3 + 0.5 * step / max(steps, 1)
        rollouts = [
            record
            for problem in range(problems)
            for record in _group(chance, step * problems + problem, group, skill, characters)
        ]
        if step:
            write_rollouts(folder / "rollouts", f"step_{step:06d}", rollouts)
        if step % 5 == 0:
            write_rollouts(folder / "rollouts", f"eval_{step:06d}", rollouts)
        metrics.write(step, _metrics(chance, step, skill))
    return folder


def _metrics(chance: random.Random, step: int, skill: float) -> dict[str, float]:
    evaluation = {"eval_accuracy": skill, "eval_reward": skill, "eval_accuracy/math": skill, "eval_time": 2.0}
    if step == 0:
        return evaluation
    accuracy = skill + chance.uniform(-0.1, 0.1)
    return {
        "reward": accuracy,
        "reward_std": 0.2,
        "accuracy": accuracy,
        "accuracy/math": accuracy + 0.05,
        "accuracy/code": accuracy - 0.05,
        "accuracy/qa": accuracy,
        "workflow/parse_rate": 0.9,
        "workflow/unique_ratio": 0.7,
        "workflow/operators/Programmer": 0.5,
        "workflow/operators/Revise": 0.3,
        "kl": 0.01 * step,
        "entropy": 1.0 / step,
        "completions/mean_length": 100 + step,
        "executor/usd": 0.002,
        "executor/calls": 30,
        "step_time": 9.0,
        "time/sample": 4.0,
        "time/execute": 5.0,
        "time/update": 2.0,
        "time/wait": 1.0,
    } | (evaluation if step % 5 == 0 else {})


def _group(chance: random.Random, number: int, size: int, skill: float, characters: int) -> list[dict]:
    domain = tuple(SOURCES)[number % 3]
    question = f"Problem {number}: {HOSTILE if number == 0 else words(chance, characters)}"
    return [_record(chance, domain, question, skill, characters) for _ in range(size)]


def _record(chance: random.Random, domain: str, question: str, skill: float, characters: int) -> dict:
    parsed = chance.random() < 0.9
    graph = parse(chance.choice(WORKFLOWS)) if parsed else None
    right = parsed and chance.random() < skill
    reward = 0.9 + 0.1 * chance.random() if right else 0.1 * chance.random()
    trace = _trace(chance, graph, characters) if parsed else []
    return {
        "problem": {"id": None, "source": SOURCES[domain], "domain": domain},
        "question": question,
        "gold": "42",
        "prompt": f"Write a workflow. {question}",
        "text": f"<workflow>{format_workflow(graph)}</workflow>" if parsed else HOSTILE,
        "tokens": chance.randrange(10, 200),
        "finish_reason": "stop",
        "workflow": format_workflow(graph) if parsed else None,
        "graph": graph_record(graph),
        "fault": None if parsed else f"PARSE: expected an operator, found {HOSTILE}",
        "outcome": "SCORED" if parsed else "PARSE",
        "error": None,
        "answer": ("42" if right else HOSTILE) if parsed else None,
        "trace": trace,
        "usage": {"calls": len(trace), "prompt_tokens": 90, "completion_tokens": 30, "usd": 0.0001 * len(trace)},
        "correctness": float(right),
        "components": {"correctness": float(right), "efficiency": 0.5 * right, "format": 1.0},
        "reward": reward,
        "judged": False,
        "advantage": chance.uniform(-1, 1),
    }


def _trace(chance: random.Random, graph, characters: int) -> list[dict]:
    """Return one call for each operator at the top of the graph."""
    calls = [(at, stage) for at, stage in enumerate(graph.stages) if hasattr(stage, "operator")]
    return [
        {
            "operator": stage.operator,
            "instruction": stage.instruction,
            "inputs": {"solution": HOSTILE, "candidates": [words(chance, characters), HOSTILE]},
            "outputs": {"thought": words(chance, 2 * characters), "answer": HOSTILE},
            "solution_before": "",
            "solution_after": words(chance, characters),
            "calls": 1,
            "prompt_tokens": 90,
            "completion_tokens": 30,
            "usd": 0.0001,
            "latency": chance.uniform(0.5, 9.0),
            "error": None,
            "place": [at],
        }
        for at, stage in calls
    ]


def words(chance: random.Random, characters: int) -> str:
    """Return words of random letters, which compress as text does and no better."""
    text = ""
    while len(text) < characters:
        text += "".join(chance.choices("etaoinshrdlucm", k=chance.randrange(2, 9))) + " "
    return text
