"""Each fault of the simulator, committed always, and what the client makes of it."""

import asyncio

import pytest
from simulated_prompts import PROBLEMS, messages

from aflow_jax.errors import UserError
from aflow_jax.llm import LLMClient, LLMFault, Price, TooLong, start_simulator
from aflow_jax.llm.simulator.faults import FAULTS

ASK = messages("AnswerGenerate", "What is 6 times 7?")
RETRIES = 2


def outcome(running, **settings):
    """Return how one call ends, and how often it was sent again."""

    async def main():
        endpoint = running.endpoint(price=Price(input=1.0, output=1.0))
        client = LLMClient(endpoint, **{"timeout": 10.0, "backoff": 0.01, "max_retries": RETRIES, **settings})
        try:
            end = await client.complete(ASK)
        except (LLMFault, UserError) as error:
            end = error
        retries = client.counters.retries
        await client.aclose()
        return end, retries

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("rate_limit", "RATE_LIMITED", "rate limit"),
        ("server_error", "LLM_UNAVAILABLE", "500"),
        ("unavailable", "LLM_UNAVAILABLE", "503"),
        ("cut", "LLM_UNAVAILABLE", "connection"),
        ("truncated_json", "LLM_UNAVAILABLE", "not JSON"),
        ("malformed_json", "LLM_UNAVAILABLE", "not JSON"),
        ("html", "LLM_UNAVAILABLE", "HTML page"),
        ("empty_content", "LLM_UNAVAILABLE", "without content"),
        ("null_content", "LLM_UNAVAILABLE", "without content"),
        ("no_choices", "LLM_UNAVAILABLE", "without choices"),
        ("wrong_schema", "LLM_UNAVAILABLE", "not a chat completion"),
        ("refusal", "LLM_UNAVAILABLE", "refused"),
    ],
)
def test_passing_faults_are_retried_and_then_reported(problems_file, fault, kind, words):
    with start_simulator(problems_file, faults={fault: 1.0, "retry_after_seconds": 0.01}) as running:
        error, retries = outcome(running)
    assert isinstance(error, LLMFault)
    assert error.kind == kind
    assert words in str(error) and "3 attempts" in str(error)
    assert retries == RETRIES


@pytest.mark.parametrize("fault", ["hang", "stall", "slow_drip"])
def test_the_deadline_ends_what_never_ends(problems_file, fault):
    with start_simulator(problems_file, faults={fault: 1.0, "stall_seconds": 60}) as running:
        error, retries = outcome(running, timeout=0.3, max_retries=1)
    assert isinstance(error, LLMFault)
    assert error.kind == "LLM_UNAVAILABLE"
    assert "no complete reply within 0.3 s" in str(error)
    assert retries == 1


def test_a_body_without_end_is_cut_off(problems_file):
    with start_simulator(problems_file, faults={"huge_body": 1.0}) as running:
        error, _ = outcome(running, max_retries=0, max_body_bytes=300_000)
    assert isinstance(error, LLMFault)
    assert "above 300000 bytes" in str(error)


def test_a_reply_cut_at_its_bound_is_too_long_and_is_not_retried(problems_file):
    with start_simulator(problems_file, faults={"length": 1.0}) as running:
        error, retries = outcome(running)
    assert isinstance(error, TooLong)
    assert "max_tokens" in str(error)
    assert error.reply.usd > 0
    assert retries == 0


def test_an_exhausted_quota_is_never_retried(problems_file):
    with start_simulator(problems_file, faults={"quota": 1.0}) as running:
        error, retries = outcome(running)
    assert isinstance(error, UserError)
    assert "quota" in str(error)
    assert retries == 0


def test_a_reply_without_usage_has_no_price(problems_file):
    with start_simulator(problems_file, faults={"no_usage": 1.0}) as running:
        reply, _ = outcome(running)
    assert "<answer>" in reply.text
    assert reply.usage_estimated and reply.usd is None


def test_replies_that_come_through_all_faults_at_once_equal_the_fault_free_ones(problems_file, simulator):
    rates = dict.fromkeys(set(FAULTS) - {"quota", "length", "hang", "slow_drip", "huge_body", "no_usage"}, 0.1)
    prompts = [messages("AnswerGenerate", row["question"], context=row.get("context", "-")) for row in PROBLEMS]

    async def replies(running):
        client = LLMClient(running.endpoint(), backoff=0.01, max_backoff=0.05, timeout=2.0, max_retries=40)
        calls = [client.complete(prompt, temperature=0.7, seed=seed) for seed in range(3) for prompt in prompts]
        texts = [reply.text for reply in await asyncio.gather(*calls)]
        retries = client.counters.retries
        await client.aclose()
        return texts, retries

    faults = {**rates, "hang": 0.02, "stall_seconds": 0.1, "retry_after_seconds": 0.05}
    with start_simulator(problems_file, seed=1, faults=faults) as running:
        texts, retries = asyncio.run(replies(running))
    assert retries > 0
    assert texts == asyncio.run(replies(simulator))[0]
