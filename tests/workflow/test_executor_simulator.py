"""Workflows through the real client against the simulator, programs in the real sandbox."""

import asyncio

import pytest

from aflow_jax.llm import LLMClient, start_simulator
from aflow_jax.problems import generate_problems, save_problems
from aflow_jax.sandbox import run_tests
from aflow_jax.workflow import Executor, Outcome, operator_names, parse

WORKFLOWS = {
    "math": [
        "Programmer",
        "[AnswerGenerate, Programmer, Custom] -> ScEnsemble",
        "AnswerGenerate -> Review ? Revise : done",
    ],
    "code": ["CustomCodeGenerate -> (Test ? Revise : done)*3", "[Custom, Programmer]", "Test"],
    "qa": ["[AnswerGenerate, AnswerGenerate] -> MdEnsemble -> Format", "Custom -> Format", "Programmer -> Custom"],
}
ALWAYS, NEVER = ({domain: dict.fromkeys(operator_names(), skill) for domain in WORKFLOWS} for skill in (1.0, 0.0))


@pytest.fixture(scope="module")
def problems():
    return [problem for domain in WORKFLOWS for problem in generate_problems(domain, 2, seed=3)]


def run_all(problems, folder, **simulated):
    save_problems(folder / "problems.jsonl", problems)

    async def run(simulator):
        client = LLMClient(simulator.endpoint(), backoff=0.01)
        try:
            executor = Executor(client)
            jobs = [(problem, workflow) for problem in problems for workflow in WORKFLOWS[problem.domain]]
            runs = [executor.run(parse(workflow), problem, seed=(7, n)) for n, (problem, workflow) in enumerate(jobs)]
            executions = await asyncio.gather(*runs)
        finally:
            await client.aclose()
        return [(problem, execution) for (problem, _), execution in zip(jobs, executions, strict=True)]

    with start_simulator(folder / "problems.jsonl", **simulated) as simulator:
        return asyncio.run(run(simulator))


def is_right(problem, answer):
    if problem.domain == "code":
        return run_tests(answer, problem.entry_point, problem.test).outcome == "ok"
    return answer.lower() in [gold.strip().lower() for gold in problem.answer.split("|")]


def test_a_model_that_is_always_right_solves_every_problem_with_every_workflow(problems, tmp_path):
    for problem, execution in run_all(problems, tmp_path, skills=ALWAYS):
        assert execution.outcome == Outcome.SCORED, execution.error
        assert is_right(problem, execution.answer), (problem.question, execution)


def test_a_model_that_is_always_wrong_solves_none(problems, tmp_path):
    for problem, execution in run_all(problems, tmp_path, skills=NEVER):
        assert execution.outcome in (Outcome.SCORED, Outcome.CODE_ERROR, Outcome.CODE_TIMEOUT)
        assert execution.answer is None or not is_right(problem, execution.answer)


def test_faults_that_pass_change_no_result(problems, tmp_path):
    faults = {"server_error": 0.1, "cut": 0.1, "malformed_json": 0.1, "empty_content": 0.1}
    calm = run_all(problems, tmp_path, seed=5)
    shaken = run_all(problems, tmp_path, seed=5, faults=faults)
    assert [execution for _, execution in shaken] == [execution for _, execution in calm]


def test_an_unreachable_endpoint_voids_the_rollout(problems, tmp_path):
    save_problems(tmp_path / "problems.jsonl", problems)
    with start_simulator(tmp_path / "problems.jsonl") as simulator:
        endpoint = simulator.endpoint()

    async def run():
        client = LLMClient(endpoint, backoff=0.001, max_retries=1)
        try:
            return await Executor(client).run(parse("Custom"), problems[0], seed=(0,))
        finally:
            await client.aclose()

    assert asyncio.run(run()).outcome == Outcome.LLM_UNAVAILABLE
