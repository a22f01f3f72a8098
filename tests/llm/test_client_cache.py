"""Which replies a client takes from its cache, and what they cost."""

import asyncio

import pytest
from client_calls import ASK, always, scripted, using
from scripted_server import completion, http, scripted_server

from aflow_jax.llm import Budget, LLMClient, Price, ResponseCache, TooLong, start_simulator


def test_cached_replies_are_free_equal_and_survive_the_server(problems_file, tmp_path):
    budget = Budget(usd=1.0)
    price = Price(input=1.0, output=1.0)

    async def work(client):
        replies = [await client.complete(ASK, temperature=0.7, seed=seed) for seed in (1, 2, 1)]
        return replies, client.metrics()

    with ResponseCache(tmp_path / "replies.sqlite") as cache:
        with start_simulator(problems_file) as running:
            endpoint = running.endpoint(price=price)
            (first, other, again), metrics = using(endpoint, work, cache=cache, budget=budget)
        (later, *_), later_metrics = using(endpoint, work, cache=cache, budget=budget)
    assert (first.cached, other.cached, again.cached, later.cached) == (False, False, True, True)
    for kept in (again, later):
        assert (kept.text, kept.prompt_tokens, kept.completion_tokens, kept.usd) == (
            first.text, first.prompt_tokens, first.completion_tokens, first.usd,
        )  # fmt: skip
    assert metrics["executor/cache_hit_ratio"] == pytest.approx(1 / 3)
    assert metrics["executor/usd"] == pytest.approx(first.usd + other.usd)
    assert later_metrics["executor/cache_hit_ratio"] == 1.0
    assert later_metrics["executor/usd"] == 0.0
    assert budget.spent_calls == 2


def test_of_equal_requests_in_flight_the_first_reply_is_everybody_s(tmp_path):
    """An endpoint that answers the same request differently: what all got is what a resumed step will get."""
    gate = asyncio.Event()

    async def answer(number):
        if number == 1:
            gate.set()
        await gate.wait()
        return http(completion(f"reply {number}"))

    async def main():
        with ResponseCache(tmp_path / "replies.sqlite") as cache:
            async with scripted_server(answer) as (endpoint, script):
                client = LLMClient(endpoint, cache=cache)
                texts = [reply.text for reply in await asyncio.gather(*[client.complete(ASK) for _ in range(2)])]
                texts.append((await client.complete(ASK)).text)
                await client.aclose()
                return texts, len(script.bodies), client.counters.tokens

    texts, requests, tokens = asyncio.run(main())
    assert len(set(texts)) == 1
    assert (requests, tokens) == (2, 30)


def test_a_reply_that_was_cut_comes_from_the_cache_as_one(tmp_path):
    cut = {"message": {"content": "half an ans"}, "finish_reason": "length"}

    async def work(client, script):
        for _ in range(2):
            with pytest.raises(TooLong):
                await client.complete(ASK)
        return len(script.bodies)

    with ResponseCache(tmp_path / "replies.sqlite") as cache:
        assert scripted(always(http(completion(choices=[cut]))), work, cache=cache) == 1


def test_a_request_sampled_without_a_seed_is_never_answered_from_the_cache(tmp_path):
    async def work(client, script):
        for _ in range(2):
            await client.complete(ASK, temperature=0.7)
        return len(script.bodies)

    with ResponseCache(tmp_path / "replies.sqlite") as cache:
        assert scripted(always(http(completion())), work, cache=cache) == 2


@pytest.mark.parametrize("change", [{"temperature": 0.1}, {"seed": 2}, {"max_tokens": 50}])
def test_cache_tells_requests_apart_by_everything_that_matters(simulator, tmp_path, change):
    async def work(client):
        await client.complete(ASK, **{"temperature": 0.7, "seed": 1, **change})
        return (await client.complete(ASK, temperature=0.7, seed=1)).cached

    with ResponseCache(tmp_path / "replies.sqlite") as cache:
        assert using(simulator.endpoint(), work, cache=cache) is False
