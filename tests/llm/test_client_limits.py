"""How many requests are under way, and what they wait for: slots, the account's limits, a server that asks."""

import asyncio
import time

import pytest
from client_calls import ASK, always, scripted
from scripted_server import completion, http, scripted_server

from aflow_jax.llm import LLMClient, LLMFault
from aflow_jax.llm.limits import RateLimit


def test_requests_in_flight_are_bounded():
    async def slow(number):
        await asyncio.sleep(0.02)
        return http(completion())

    async def work(client, script):
        await asyncio.gather(*[client.complete(ASK, seed=seed) for seed in range(20)])
        return script.most_in_flight, len(script.bodies)

    assert scripted(slow, work, max_concurrency=3) == (3, 20)


def test_an_endpoint_s_own_bound_of_requests_in_flight_holds():
    async def slow(number):
        await asyncio.sleep(0.02)
        return http(completion())

    async def main():
        async with scripted_server(slow) as (endpoint, script):
            client = LLMClient(endpoint.model_copy(update={"max_concurrent_calls": 2}), max_concurrency=9)
            await asyncio.gather(*[client.complete(ASK, seed=seed) for seed in range(12)])
            await client.aclose()
            return script.most_in_flight

    assert asyncio.run(main()) == 2


@pytest.mark.parametrize(
    ("limits", "requests"),
    [({"requests_per_minute": 1200.0}, 1200), ({"tokens_per_minute": 1200.0}, 80)],  # 15 tokens each, by their usage
)
def test_requests_wait_for_the_account_s_limits(limits, requests):
    """A minute's worth has passed: what comes next has to wait for its turn, at 20 a second."""

    async def main():
        async with scripted_server(always(http(completion()))) as (endpoint, _):
            client = LLMClient(endpoint.model_copy(update=limits))
            limit = client._requests if "requests_per_minute" in limits else client._tokens
            await limit.take(1200)
            start = time.monotonic()
            await client.complete([{"role": "user", "content": "x" * 40}])
            await client.complete([{"role": "user", "content": "x" * 40}])
            await client.aclose()
            return time.monotonic() - start

    units = 2 if "requests_per_minute" in limits else 15 + 10
    assert asyncio.run(main()) >= 0.9 * units / 20
    assert requests


def test_a_call_that_is_cancelled_in_the_queue_of_a_limit_leaves_its_place():
    async def main():
        limit = RateLimit(60)
        await limit.take(60)
        waiting = asyncio.create_task(limit.take(600))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(limit.take(1), 30)

    asyncio.run(main())


def test_the_wait_for_a_slot_is_not_the_call_s_time():
    """Each request takes longer than the deadline leaves to those behind it in the queue."""

    async def busy_once(number):
        await asyncio.sleep(0.15)
        return http(completion()) if number else http(b"{}", "503 Busy")

    async def work(client, script):
        return len(await asyncio.gather(*[client.complete(ASK, seed=seed) for seed in range(8)]))

    assert scripted(busy_once, work, max_concurrency=1, deadline=0.9) == 8


def test_cancelled_call_frees_its_slot_at_once():
    async def first_hangs(number):
        if number == 0:
            await asyncio.sleep(3600)
        return http(completion())

    async def work(client, script):
        hanging = asyncio.create_task(client.complete(ASK))
        while not script.bodies:
            await asyncio.sleep(0.01)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        return (await client.complete(ASK)).text

    assert scripted(first_hangs, work, max_concurrency=1) == "<answer>4</answer>"


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_retry_waits_as_long_as_the_server_asks(form):
    async def busy_once(number):
        headers = {
            "seconds": {"retry_after": "0.5"},
            "milliseconds": {"retry_after_ms": "500"},
            "date": {"retry_after": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))},
        }[form]
        return http(completion()) if number else http(b"{}", "429 Too Many Requests", **headers)

    async def work(client, script):
        start = time.monotonic()
        await client.complete(ASK)
        return time.monotonic() - start

    assert scripted(busy_once, work) >= 0.5


def test_wait_beyond_the_deadline_is_a_fault_at_once():
    async def work(client, script):
        with pytest.raises(LLMFault) as raised:
            await client.complete(ASK)
        return raised.value.kind, len(script.bodies)

    response = http(b"{}", "429 Too Many Requests", retry_after="3600")
    assert scripted(always(response), work, deadline=60) == ("RATE_LIMITED", 1)


def test_rate_limit_lets_a_minutes_worth_pass_and_then_waits():
    async def main():
        limit = RateLimit(1200)
        start = time.monotonic()
        await limit.take(1200)
        burst = time.monotonic() - start
        await asyncio.gather(limit.take(4), limit.take(4))
        return burst, time.monotonic() - start

    burst, whole = asyncio.run(main())
    assert burst < whole
    assert whole >= 0.35
