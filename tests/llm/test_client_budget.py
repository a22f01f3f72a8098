"""What a client may spend."""

import asyncio

import pytest
from client_calls import ASK, always, scripted, using
from scripted_server import completion, http, scripted_server

from aflow_jax.errors import UserError
from aflow_jax.llm import Budget, BudgetExhausted, LLMClient, LLMFault, Price


def test_budget_stops_before_the_call_that_would_exceed_it(simulator):
    async def work(client):
        await client.complete(ASK)
        await client.complete(ASK)
        with pytest.raises(BudgetExhausted, match=r"budget\.calls"):
            await client.complete(ASK)
        return client.metrics()["executor/calls"]

    assert using(simulator.endpoint(), work, budget=Budget(calls=2)) == 2


def test_a_budget_of_calls_is_exact_however_many_are_in_flight():
    async def slow(number):
        await asyncio.sleep(0.02)
        return http(completion())

    async def work(client, script):
        ends = await asyncio.gather(*[client.complete(ASK, seed=s) for s in range(20)], return_exceptions=True)
        return len(script.bodies), sum(isinstance(end, BudgetExhausted) for end in ends)

    assert scripted(slow, work, budget=Budget(calls=7)) == (7, 13)


def test_a_server_that_states_no_usage_does_not_escape_a_budget_in_dollars():
    budget = Budget(usd=1e-5)

    async def main():
        async with scripted_server(always(http(completion("y" * 40, usage=None)))) as (endpoint, _):
            priced = endpoint.model_copy(update={"price": Price(input=1.0, output=1.0)})
            client = LLMClient(priced, budget=budget)
            reply = await client.complete(ASK)
            with pytest.raises(BudgetExhausted, match=r"budget\.usd"):
                await client.complete(ASK)
            await client.aclose()
            return reply.usd, client.metrics()

    usd, metrics = asyncio.run(main())
    assert usd is None and "executor/usd" not in metrics
    assert budget.spent_usd > 1e-5


def test_unusable_replies_are_paid_for_all_the_same():
    budget = Budget()

    async def work(client, script):
        with pytest.raises(LLMFault):
            await client.complete(ASK)
        return client.metrics()

    cut = {"message": {"content": "half an ans"}, "finish_reason": "length"}
    metrics = scripted(always(http(completion(choices=[cut]))), work, budget=budget)
    assert (metrics["executor/calls"], metrics["executor/faults"], metrics["executor/tokens"]) == (0, 1, 15)
    assert (budget.spent_calls, budget.spent_tokens) == (1, 15)


def test_budget_in_dollars_needs_a_known_price(simulator):
    with pytest.raises(UserError, match="price"):
        LLMClient(simulator.endpoint(), budget=Budget(usd=1.0))
