"""The executor's settings as a run has them: fallbacks, budgets, a cache that makes a step free, keys shown nowhere."""

import asyncio
import gzip
import json
import runpy
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml

from aflow_jax.clients import ClientSet, spending
from aflow_jax.config import Config
from aflow_jax.errors import UserError
from aflow_jax.llm import FallbackClient, start_simulator
from aflow_jax.problems import generate_problems, save_problems
from aflow_jax.train import main

SECRET = "planted-0123456789abcdef"
ASK = [{"role": "user", "content": "Say something."}]
TINY = {
    "exp_name": "tiny",
    "create_model": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 700},
    "synthetic_data": {"train": 12, "test": 3},
    "aflow_executor_model": "gated",
    "aflow_operators": ["Custom", "AnswerGenerate", "Review", "Revise", "ScEnsemble"],
    "constrained_sampling": True,
    "workflow_limits": {"calls": 3, "nesting": 1},
    "prompt_style": "short",
    "prompt_max_length": 512,
    "generation_config": {"max_new_tokens": 40},
    "temperature_schedule": {"enabled": False, "initial": 1.0},
    "lora_rank": 4,
    "rollout_batch_size": 3,
    "num_return_sequences_in_group": 3,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "sampling_slots": 9,
    "max_steps": 2,
    "eval_every": 0,
    "void_limit": {"ratio": 1.0},
}


@pytest.fixture
def problems_file(tmp_path: Path) -> Path:
    save_problems(tmp_path / "problems.jsonl", generate_problems(None, 12, 42, split="train"))
    return tmp_path / "problems.jsonl"


def settings(tmp_path: Path, endpoints: dict[str, dict], **changes: object) -> dict:
    """Return settings for these endpoints, written to a file."""
    path = tmp_path / "endpoints.yaml"
    path.write_text(yaml.safe_dump({"models": endpoints}))
    return {**TINY, "aflow_config_path": str(path), **changes}


def simulated(simulator, **changes: object) -> dict:
    return {"base_url": simulator.base_url, "model_name": "simulator", **changes}


def trained(tmp_path: Path, name: str, values: dict) -> tuple[Path, list[dict]]:
    """Train as a user does; return the run's folder and its metrics."""
    config, folder = tmp_path / f"{name}.yaml", tmp_path / name
    config.write_text(yaml.safe_dump(values))
    assert main(["--config", str(config), f"run_dir={folder}"]) == 0
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][1:]


def test_a_run_repeated_over_the_same_cache_makes_no_call(problems_file, tmp_path) -> None:
    with start_simulator(problems_file) as simulator:
        values = settings(
            tmp_path,
            {"gated": simulated(simulator, price={"input": 1, "output": 1})},
            response_cache={"path": str(tmp_path / "shared.sqlite")},
        )
        _, first = trained(tmp_path, "first", values)
        _, again = trained(tmp_path, "again", values)
    assert sum(line["executor/calls"] for line in first) > 0
    for paid, free in zip(first, again, strict=True):
        assert (paid["executor/calls"], paid["reward"]) == (free["executor/calls"], free["reward"])
        assert (free["executor/tokens"], free["executor/usd"]) == (0, 0.0)
        assert free.get("executor/cache_hit_ratio", 1.0) == 1.0


def test_a_key_is_nowhere_in_what_a_run_leaves_though_the_endpoint_repeats_it(
    problems_file, tmp_path, monkeypatch, capfd, caplog
) -> None:
    monkeypatch.setenv("TEST_LLM_KEY", SECRET)
    caplog.set_level("DEBUG")
    with start_simulator(problems_file, seed=2, api_key=SECRET, faults={"server_error": 0.4}) as simulator:
        values = settings(tmp_path, {"gated": simulated(simulator, api_key="${TEST_LLM_KEY}")}, call_retries=1)
        folder, metrics = trained(tmp_path, "run", values)
    files = [path for path in folder.rglob("*") if path.is_file()]
    written = {
        path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in files
    }
    assert {"config.yaml", "training.log", "replies.sqlite", "metrics.jsonl"} <= written.keys()
    errors = b"".join(written[name] for name in written if name.startswith("step_"))
    assert any(line["void_ratio"] > 0 for line in metrics) and b"while processing your request. [key]" in errors
    output = capfd.readouterr()
    shown = [*written.values(), output.out.encode(), output.err.encode(), caplog.text.encode()]
    assert not [text for text in shown if SECRET.encode() in text]


def test_under_every_fault_at_once_no_rollout_is_lost_and_no_unaffected_one_ends_otherwise(tmp_path) -> None:
    """Two steps of what scripts/fault_run.py does for twenty."""
    measure = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "fault_run.py"))["measure"]
    config = tmp_path / "faults.yaml"
    config.write_text(yaml.safe_dump({**TINY, "simulator": {}}))
    overrides = [f"run_dir={tmp_path / 'run'}", "call_timeout=2", "call_retries=3", "seed=5"]
    result = measure(config, 2, 0.1, overrides)
    assert (result.steps, result.rollouts, result.differing) == (2, result.expected, [])
    assert result.counted_voids == result.voids < result.rollouts
    assert result.retries > 0


def test_the_next_executor_answers_while_the_first_is_down(problems_file, tmp_path) -> None:
    async def work() -> None:
        with start_simulator(problems_file) as first, start_simulator(problems_file) as second:
            endpoints = {"first": simulated(first, max_concurrent_calls=2), "second": simulated(second)}
            values = settings(
                tmp_path,
                endpoints,
                aflow_executor_model="first",
                aflow_executor_fallbacks=["second"],
                call_retries=0,
                run_dir=str(tmp_path / "run"),
            )
            said: list[str] = []
            async with AsyncExitStack() as stack:
                clients_of = ClientSet(Config(**values), said.append, stack)
                await clients_of.connect([])
                clients = clients_of.complete(None)
                assert isinstance(clients.executor, FallbackClient) and clients.judge is clients.executor
                first.stop()
                assert (await clients.executor.complete(ASK)).text
                metrics = spending([clients.take()])
                assert (metrics["executor/calls"], metrics["executor/faults"]) == (1, 1)
                assert "executor/usd" not in metrics
            assert sum("price unknown" in line for line in said) == 2

    asyncio.run(work())


def test_a_judge_of_its_own_is_counted_apart_and_shares_the_budget(problems_file, tmp_path) -> None:
    async def work() -> None:
        with start_simulator(problems_file) as simulator:
            endpoints = {"gated": simulated(simulator), "judge": simulated(simulator)}
            values = settings(
                tmp_path, endpoints, judge_model="judge", run_dir=str(tmp_path / "run"), budget={"calls": 9}
            )
            async with AsyncExitStack() as stack:
                clients_of = ClientSet(Config(**values), lambda line: None, stack)
                await clients_of.connect([])
                clients = clients_of.complete(None)
                await clients.executor.complete(ASK)
                await clients.judge.complete(ASK, seed=1)
                metrics = spending([clients.take()])
                assert (metrics["executor/calls"], metrics["judge/calls"]) == (1, 1)
                assert clients.budget.spent_calls == 4  # each was also asked once at the start

    asyncio.run(work())


def test_a_budget_in_dollars_needs_the_price_of_every_executor(problems_file, tmp_path) -> None:
    async def work() -> None:
        with start_simulator(problems_file) as simulator:
            endpoints = {"gated": simulated(simulator, price={"input": 1, "output": 1}), "free": simulated(simulator)}
            values = settings(
                tmp_path,
                endpoints,
                aflow_executor_fallbacks=["free"],
                budget={"usd": 1.0},
                run_dir=str(tmp_path / "run"),
            )
            async with AsyncExitStack() as stack:
                with pytest.raises(UserError, match=r"budget\.usd: the price of free is not known"):
                    await ClientSet(Config(**values), lambda line: None, stack).connect([])

    asyncio.run(work())
