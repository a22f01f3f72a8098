"""The base model behind the client of the executor LLM: the same checks, counts and bounds as for an endpoint."""

import asyncio

import jax
import numpy as np
import pytest
from answering_model import create_answering_model

from aflow_jax.llm import Budget, BudgetExhausted, Endpoint, LLMClient, LLMFault, ResponseCache
from aflow_jax.llm.local import LocalExchange
from aflow_jax.local_executor import BaseModel
from aflow_jax.problems import Problem
from aflow_jax.qwen2 import init_adapter, load_pretrained, load_tokenizer
from aflow_jax.rewards import Judge, JudgeUnavailable
from aflow_jax.sampling import DeviceFailure, Driver, Engine, Request, SamplingParams

REPLY = "<solution>\n7</solution>"
ASK = [{"role": "user", "content": "6 + 1?"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    folder = tmp_path_factory.mktemp("base") / "model"
    words = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.\nsystem\nuser\nassistant\n6 + 1?"
    create_answering_model(folder, [words] * 9, REPLY, vocab_size=420)
    # Prompts of the policy are bounded to a few tokens here; the executor's are not.
    return Engine(
        load_pretrained(folder, "float32"), load_tokenizer(folder), slots=2, prompt_max_length=8, chunk_length=4
    )


def connect(driver: Driver, engine: Engine, **settings) -> LLMClient:
    endpoint = Endpoint(name="local", api_type="local", model_name="base", path="file.yaml")
    return LLMClient(endpoint, generate=BaseModel(driver, engine.model, engine.tokenizer), **settings)


def run(engine: Engine, work, **settings):
    async def main():
        with Driver(engine) as driver:
            return await work(connect(driver, engine, **settings))

    return asyncio.run(main())


def test_a_reply_is_counted_and_free(engine):
    async def work(client):
        return await client.complete(ASK), client.counters.take().metrics()

    reply, metrics = run(engine, work)
    assert reply.text == REPLY
    prompt = engine.tokenizer.encode_chat(ASK)
    assert (reply.prompt_tokens, reply.completion_tokens) == (len(prompt), len(engine.tokenizer.encode_text(REPLY)) + 1)
    assert (reply.usd, reply.usage_estimated) == (0.0, False)
    assert metrics["executor/calls"] == 1
    assert metrics["executor/tokens"] == reply.prompt_tokens + reply.completion_tokens
    assert metrics["executor/usd"] == 0


def test_a_reply_follows_from_conversation_and_seed_whatever_is_sampled_beside_it(engine):
    adapter = init_adapter(engine.model.config, 2, 2, "q_proj", jax.random.key(0))
    hot = {"messages": ASK, "temperature": 2.0, "top_p": 1.0, "max_tokens": 30}
    bodies = [hot | {"seed": 1}, hot | {"seed": 2}, hot, hot | {"seed": 1}, hot]

    async def main(sampling: bool):
        with Driver(engine) as driver:
            exchange = LocalExchange(BaseModel(driver, engine.model, engine.tokenizer))
            policy = [Request(prompt_tokens=(5, 6, 7), seeds=((1,), (2,), (3,)))] if sampling else []
            async with driver.submit(policy, SamplingParams(max_new_tokens=40, stop_token_ids=()), adapter) as stream:
                asked = asyncio.gather(*(exchange.post("", body, timeout=100) for body in bodies))
                sampled = [completion async for completion in stream.completions()]
                return await asked, len(sampled)

    alone, nothing = asyncio.run(main(sampling=False))
    in_company, sampled = asyncio.run(main(sampling=True))
    assert (nothing, sampled) == (0, 3)
    assert alone == in_company
    assert alone[0] == alone[3] and alone[2] == alone[4]
    assert len(set(alone)) == 3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_tokens": 3}, "the reply was cut at max_tokens"),
        ({"messages": [{"role": "user", "content": "6" * 40_000}]}, "the model knows 32768 positions"),
    ],
)
def test_a_reply_that_is_cut_or_a_prompt_that_does_not_fit_is_a_fault_and_not_asked_for_again(
    engine, settings, expected
):
    async def work(client):
        with pytest.raises(LLMFault, match=expected) as fault:
            await client.complete(**{"messages": ASK, **settings})
        return fault.value, client.counters.take()

    fault, counters = run(engine, work)
    assert str(fault).startswith("local at this process: ")
    assert (counters.faults, counters.retries, counters.calls) == (1, 0, 0)


@pytest.mark.parametrize(
    ("ruling", "right"), [("<true_false>True</true_false>", True), ("<true_false>False</true_false>", False)]
)
def test_the_base_model_judges(tmp_path, ruling, right):
    create_answering_model(tmp_path, ["system\nuser\nassistant\nA question of quality?"], ruling, vocab_size=420)
    judging = Engine(load_pretrained(tmp_path, "float32"), load_tokenizer(tmp_path), slots=2, prompt_max_length=8)
    problem = Problem(question="Who wrote it?", answer="Ada Lovelace", source="hotpotqa", domain="qa")

    async def work(client):
        ruled = await Judge(client).is_right(problem, "the Countess of Lovelace")
        return ruled, client.counters.take().metrics()["executor/calls"]

    assert run(judging, work) == (right, 1)


def test_a_base_model_that_gives_no_ruling_leaves_the_answer_ungraded_after_a_second_try(engine):
    async def work(client):
        with pytest.raises(JudgeUnavailable, match="twice"):
            await Judge(client).is_right(
                Problem(question="6 + 1?", answer="7", source="gsm8k", domain="math"), "seven or so"
            )
        return client.counters.take().metrics()["executor/calls"]

    assert run(engine, work) == 2


def test_a_timeout_frees_the_slot(engine):
    async def main():
        driver = Driver(engine)  # not started: it cannot answer in time
        client = connect(driver, engine, timeout=0.05)
        with pytest.raises(LLMFault, match=r"no complete reply within 0\.05 s"):
            await client.complete(ASK)
        with driver:
            reply = await connect(driver, engine).complete(ASK)
            return reply.text, driver.unfinished

    assert asyncio.run(main()) == (REPLY, 0)


def test_a_budget_bounds_calls_and_tokens(engine):
    for budget in (Budget(calls=2), Budget(tokens=60), Budget(calls=2, usd=1.0)):

        async def work(client):
            for _ in range(2):
                await client.complete(ASK)
            with pytest.raises(BudgetExhausted):
                await client.complete(ASK)

        run(engine, work, budget=budget)
        assert (budget.spent_calls, budget.spent_usd) == (2, 0.0)


def test_replies_are_cached_under_the_model_that_gave_them(engine, tmp_path):
    async def work(client):
        return [(await client.complete(ASK)).cached for _ in range(2)]

    with ResponseCache(tmp_path / "cache.sqlite") as cache:
        assert run(engine, work, cache=cache) == [False, True]


def test_a_fault_of_the_device_is_no_fault_of_a_reply(engine):
    """It ends the run, as a fault while sampling does, instead of making rollout after rollout void."""
    adapter = init_adapter(engine.model.config, 2, 2, "q_proj", jax.random.key(0))
    foreign = adapter.replace_weights(jax.tree.map(lambda leaf: np.asarray(leaf)[:, :-1], adapter.weights))

    async def main():
        with Driver(engine) as driver:
            params = SamplingParams(max_new_tokens=4)
            driver.submit([Request(prompt_tokens=(5,), seeds=((1,),))], params, foreign)
            with pytest.raises(DeviceFailure):
                await connect(driver, engine).complete(ASK)

    asyncio.run(main())
