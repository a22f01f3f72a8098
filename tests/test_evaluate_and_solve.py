"""The commands that use a trained policy, and Solver: on one tiny run, with the simulator it was trained with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small_run import SMALL, write_settings

from aflow_jax import Solver
from aflow_jax.collector import RolloutCollector
from aflow_jax.errors import UserError
from aflow_jax.evaluate import main as evaluate
from aflow_jax.evaluation.names import BASELINES
from aflow_jax.problems import generate_problems, save_problems
from aflow_jax.runs import read_rollouts
from aflow_jax.solve import main as solve
from aflow_jax.solver import problem_of
from aflow_jax.train import main as train
from aflow_jax.trained import load_trained_adapter

CHANGES = {
    "synthetic_data": {"train": 30, "test": 6},
    "max_steps": 0,  # the evaluation before the first step is one, too
    "workflow_limits": {"calls": 3},
    "sampling_slots": 4,
    "eval_every": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and in it the evaluation of its held-out problems."""
    folder = tmp_path_factory.mktemp("use") / "run"
    settings = write_settings(folder.with_name("small.yaml"), **CHANGES)
    assert train(["--config", str(settings), f"run_dir={folder}"]) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    adapters, collect = [], RolloutCollector.collect

    async def recording(self, problems, **options):
        adapters.append(options["adapter"])
        return await collect(self, problems, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutCollector, "collect", recording)
        assert evaluate(["--checkpoint", str(folder)]) == 0
    # The policy is sampled with the adapter of the checkpoint, the untrained one without.
    policy, untrained = adapters
    saved = load_trained_adapter(folder).adapter.weights
    assert jax.tree.all(jax.tree.map(np.array_equal, policy.weights, saved))
    assert untrained is None
    # What the run left is as it was.
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return folder


def result_of(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def without_times(record: object) -> object:
    if isinstance(record, dict):
        return {key: without_times(value) for key, value in record.items() if "latency" not in key and key != "tables"}
    return record


def test_the_evaluation_is_the_one_inside_training_and_has_every_baseline(run: Path) -> None:
    result = result_of(run / "evaluations", "held_out_step_0")
    assert list(result["subjects"]) == ["policy", *BASELINES]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    policy = result["subjects"]["policy"]["all"]
    assert (policy["accuracy"], policy["rollouts"], policy["void"]) == (last["eval_accuracy"], 6, 0)
    assert policy["reward"] == pytest.approx(last["eval_reward"])
    trained = read_rollouts(run / "rollouts" / "eval_000000.jsonl.gz")
    again = read_rollouts(run / "evaluations" / "held_out_step_0" / "policy.jsonl.gz")
    for name in ("text", "prompt", "answer", "outcome", "correctness"):
        assert [one[name] for one in trained] == [one[name] for one in again]
    assert result["contamination"] == {"checked": 30, "exact": [], "near": [], "reason": None}
    assert {one: result["comparisons"][one]["problems"] for one in BASELINES} == dict.fromkeys(BASELINES, 6)
    # One call each, at the accuracy of the simulator's skill; a chain of thought is one call too.
    assert result["subjects"]["single_call"]["all"]["calls"] == 1
    assert result["subjects"]["chain_of_thought"]["workflows"]["math"] == "AnswerGenerate"
    assert (run / "evaluations" / "held_out_step_0.html").stat().st_size > 1e6


def test_self_consistency_costs_about_what_the_policy_costs(run: Path) -> None:
    subjects = result_of(run / "evaluations", "held_out_step_0")["subjects"]
    for domain, text in subjects["self_consistency"]["workflows"].items():
        own, one, policy = (
            subjects[name]["domains"][domain]["tokens"] for name in ("self_consistency", "chain_of_thought", "policy")
        )
        assert text.count("AnswerGenerate") == max(1, round(policy / one))
        # As near as a whole number of samples comes, replies of other lengths aside.
        assert abs(own - max(policy, one)) < 0.75 * one


def test_planted_problems_are_found_and_the_rest_is_scored_apart(run: Path, tmp_path: Path, capsys) -> None:
    trained_on = generate_problems(None, 30, SMALL["seed"], split="train")
    fresh = generate_problems(None, 4, 77, split="test")
    save_problems(tmp_path / "mixed.jsonl", [*fresh, trained_on[0]])
    arguments = ["--data", str(tmp_path / "mixed.jsonl"), "--out", str(tmp_path), "--baselines", "single_call"]
    assert evaluate(["--checkpoint", str(run), *arguments]) == 0
    assert "contamination: 1 problems equal and 0 nearly equal one of 30" in capsys.readouterr().err
    result = result_of(tmp_path, "mixed_step_0")
    assert result["contamination"]["exact"] == [trained_on[0].id]
    assert [result["subjects"]["single_call"][part]["problems"] for part in ("all", "clean")] == [5, 4]


def test_samples_give_pass_at_k_and_baselines_need_no_checkpoint(run: Path, tmp_path: Path, capsys) -> None:
    several = ["--samples", "3", "--baselines", "none", "--out", str(tmp_path), "evaluation.problems=3"]
    assert evaluate(["--checkpoint", str(run / "checkpoints" / "step_0"), *several]) == 2
    assert "error: --samples 3: at temperature 0 all samples of a problem are the same" in capsys.readouterr().err
    assert evaluate(["--checkpoint", str(run), *several, "evaluation.temperature=1.0"]) == 0
    policy = result_of(tmp_path, "held_out_step_0")["subjects"]["policy"]
    assert sorted(policy["pass_at_k"]) == ["1", "2", "3"]
    assert policy["pass_at_k"]["1"]["rate"] == pytest.approx(policy["all"]["accuracy"])
    assert policy["all"]["interval"]["method"] == "bootstrap"
    settings = ["--config", str(run.with_name("small.yaml")), "--baselines", "chain_of_thought,self_consistency"]
    assert evaluate(["--checkpoint", "none", *settings, "--out", str(tmp_path)]) == 0
    baselines = result_of(tmp_path, "held_out_baselines")
    # The same again, to the last digit.
    assert evaluate(["--checkpoint", "none", *settings, "--out", str(tmp_path)]) == 0
    assert without_times(result_of(tmp_path, "held_out_baselines")) == without_times(baselines)
    assert list(baselines["subjects"]) == ["chain_of_thought", "self_consistency"]
    assert baselines["comparisons"] == {}
    assert baselines["contamination"]["reason"] == "without a checkpoint nothing was trained"


def test_void_rollouts_are_counted_left_out_and_said(run: Path, tmp_path: Path, capsys) -> None:
    settings = ["--baselines", "single_call", "--out", str(tmp_path), "call_retries=0"]
    faults = ["simulator.faults={rate_limit: 0.4, retry_after_seconds: 0.01}"]
    assert evaluate(["--checkpoint", "none", "--config", str(run.with_name("small.yaml")), *settings, *faults]) == 3
    own = result_of(tmp_path, "held_out_baselines")["subjects"]["single_call"]
    voids = sum(own["outcomes"].get(name, 0) for name in ("RATE_LIMITED", "JUDGE_UNAVAILABLE"))
    assert own["all"]["void"] == voids > 0
    assert own["all"]["problems"] == 6 - own["all"]["void"]
    assert f"{voids} of 6 rollouts are void (" in capsys.readouterr().err


def test_of_a_run_the_newest_checkpoint_is_taken_or_the_best_and_said(run: Path, tmp_path: Path, capsys) -> None:
    later = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    step_5 = shutil.copytree(later / "checkpoints" / "step_0", later / "checkpoints" / "step_5")
    manifest = json.loads((step_5 / "manifest.json").read_text())
    accuracy = manifest["details"]["best"]["accuracy"]
    (step_5 / "manifest.json").write_text(json.dumps(manifest | {"step": 5}))
    newest = f"checkpoint: step 5, the newest of {later}; the best by evaluation is step 0 (--which best)"
    best = f"checkpoint: step 0, the best of {later} by evaluation (accuracy {accuracy:.1%})"
    for which, line, step in (([], newest, 5), (["--which", "best"], best, 0)):
        few = ["--baselines", "none", "evaluation.problems=2", *which]
        assert evaluate(["--checkpoint", str(later), *few]) == 0
        assert line in capsys.readouterr().err.splitlines()
        assert result_of(later / "evaluations", f"held_out_step_{step}")["step"] == step
        assert solve(["What is 2 + 2?", "--workflow", "Custom", "--checkpoint", str(later), *which]) == 0
        assert line in capsys.readouterr().err.splitlines()
    served = ["--model", str(later / "model"), "--adapter", f"policy={later}", "--which", "best", "--port", "0"]
    command = [sys.executable, "-m", "aflow_jax.serve", *served]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert "serving model, policy at " in server.stdout.readline()
        server.terminate()
        assert best in server.communicate(timeout=60)[1].splitlines()
        assert server.returncode == 0


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys) -> None:
    assert evaluate(["--checkpoint", str(tmp_path)]) == 2
    assert "is not a usable checkpoint" in capsys.readouterr().err
    assert evaluate(["--checkpoint", str(run), "--data", str(tmp_path / "no.jsonl")]) == 2
    assert "no.jsonl: cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        evaluate(["--checkpoint", str(run), "--baselines", "single_call,guess"])
    assert end.value.code == 2
    assert "'guess' is not one of single_call" in capsys.readouterr().err
    assert solve(["What is 2 + 2?", "--workflow", "Custom -> Guess", "--checkpoint", str(run)]) == 2
    assert "error: workflow: " in capsys.readouterr().err
    assert solve(["2 + 2?", "--workflow", "Custom", "--checkpoint", str(run), "--source", "gsm9k"]) == 2
    assert "gsm8k" in capsys.readouterr().err


def test_solve_shows_the_workflow_its_run_the_answer_and_the_cost(run: Path, capsys) -> None:
    problem = next(one for one in generate_problems(None, 6, SMALL["seed"], split="test") if one.domain == "math")
    workflow = "[Programmer, Programmer] -> ScEnsemble"
    assert solve([problem.question, "--checkpoint", str(run), "--workflow", workflow]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip().replace(".", "").lstrip("-").isdigit()
    lines = shown.err.splitlines()
    assert f"workflow: {workflow}" in lines
    assert [line.strip() for line in lines].count("Programmer starts") == 2
    assert any(line.startswith("  Programmer: ") and "calls" in line for line in lines)
    assert lines[-1].startswith("cost: ")


def test_solver_writes_and_runs_a_workflow_in_five_lines(run: Path) -> None:
    problem = generate_problems(None, 6, SMALL["seed"], split="test")[0]
    asked = {"context": problem.context, "entry_point": problem.entry_point, "source": problem.source}
    with Solver(run) as solver:
        solution = solver.solve(problem.question, **asked)
        again = solver.solve(problem.question, **asked)
        given = solver.solve("What is 2 + 2?", workflow="Custom")
        with pytest.raises(UserError, match="the question is empty"):
            solver.solve(" ")
    evaluated = read_rollouts(run / "evaluations" / "held_out_step_0" / "policy.jsonl.gz")[0]
    assert (solution.text, solution.workflow) == (evaluated["text"], evaluated["workflow"])
    assert solution.text == again.text  # greedy
    assert solution.usage.calls == sum(call.calls for call in solution.trace)
    assert (given.workflow, given.text) == ("Custom", "")
    with Solver(run, writes_workflows=False) as solver, pytest.raises(UserError, match="no policy is loaded"):
        solver.solve("What is 2 + 2?")


@pytest.mark.parametrize(
    ("asked", "source"),
    [
        ({"question": "What is 2 + 2?"}, "gsm8k"),
        ({"question": "Who wrote it?"}, "hotpotqa"),
        ({"question": "In which of the 2 years?", "context": "In 1900."}, "hotpotqa"),
        ({"question": "Double it.", "entry_point": "double"}, "mbpp"),
        ({"question": "What is x?", "source": "math"}, "math"),
    ],
)
def test_a_question_is_taken_for_a_kind(asked: dict, source: str) -> None:
    assert problem_of(**asked).source == source


def test_the_api_is_there_without_what_it_needs_being_imported() -> None:
    program = "import sys, aflow_jax; assert 'Solver' in aflow_jax.__all__; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
