"""Many clients at once, clients that leave, a queue that is full, an end that is asked for."""

import asyncio
import contextlib
import dataclasses

import httpx2
import jax
import openai
import pytest
from served import serving

from aflow_jax.sampling import Driver

SHORT, LONG = 2, 250


def request(tokens, **settings):
    messages = [{"role": "user", "content": "a fox"}]
    return {"model": "base", "messages": messages, "max_tokens": tokens, "temperature": 0, **settings}


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def held(engine, settings, **bounds):
    """A server whose device thread is started by the test, so that what waits is known before anything runs."""
    driver = Driver(engine, **bounds)
    with serving(driver, settings) as served:
        try:
            yield served
        finally:
            with contextlib.suppress(RuntimeError):  # where the test has started it
                driver.start()
            driver.close()


def test_two_hundred_clients_are_served_and_a_short_late_one_ends_before_long_early_ones(wide_engine, wide_settings):
    ended = []

    async def ask(client, name, tokens):
        reply = await client.chat.completions.create(**request(tokens))
        ended.append(name)
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == tokens
        return reply.choices[0].message.content

    async def main():
        with held(wide_engine, wide_settings) as server:
            async with server.async_client(timeout=120) as client:
                long = [asyncio.create_task(ask(client, "long", LONG)) for _ in range(4)]
                await until(lambda: server.driver.unfinished == 4)
                short = [asyncio.create_task(ask(client, "short", SHORT)) for _ in range(195)]
                await until(lambda: server.driver.unfinished == 199)
                late = asyncio.create_task(ask(client, "late", SHORT))
                await until(lambda: server.driver.unfinished == 200)
                server.driver.start()
                return await asyncio.gather(*long, *short, late)

    texts = asyncio.run(main())
    # Greedy replies to one prompt: whatever the company, the same.
    assert len({text[: len(texts[-1])] for text in texts}) == 1
    assert ended.count("short") == 195
    assert ended.index("late") < ended.index("long")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(wide_engine, wide_settings, stream):
    async def main(server):
        url = server.base_url.removesuffix("/v1") + "/metrics"
        async with httpx2.AsyncClient() as client:
            with contextlib.suppress(httpx2.ReadTimeout):
                body = request(LONG, n=8, stream=stream)
                async with client.stream(
                    "POST", server.base_url + "/chat/completions", json=body, timeout=httpx2.Timeout(60, read=0.3)
                ) as response:
                    async for _ in response.aiter_bytes():
                        pass
            assert server.driver.unfinished == 8
            server.driver.start()
            await until(lambda: not server.driver.unfinished)
            return (await client.get(url)).text

    with held(wide_engine, wide_settings) as server:
        metrics = asyncio.run(main(server))
    assert "aflow_generation_seconds_count 0.0" in metrics, "nothing was generated to its end"


def test_a_full_queue_answers_503_with_the_time_to_come_back(wide_engine, wide_settings):
    async def main():
        with held(wide_engine, wide_settings, max_waiting=2) as server:
            async with server.async_client(timeout=120) as client:
                taken = [asyncio.create_task(client.chat.completions.create(**request(SHORT))) for _ in range(10)]
                await until(lambda: server.driver.waiting == 2)
                with pytest.raises(openai.InternalServerError) as refused:
                    await client.chat.completions.create(**request(SHORT, stream=True))
                server.driver.start()
                await asyncio.gather(*taken)
                return refused.value

    error = asyncio.run(main())
    assert (error.status_code, error.code) == (503, "queue_full")
    assert int(error.response.headers["retry-after"]) >= 1


def test_a_client_that_retries_gets_through_a_full_queue(wide_engine, wide_settings):
    """The client's own retries, as Retry-After asks for them."""

    async def main():
        with held(wide_engine, wide_settings, max_waiting=1) as server:
            async with server.async_client(timeout=120, max_retries=4) as client:
                asked = [asyncio.create_task(client.chat.completions.create(**request(SHORT))) for _ in range(12)]
                await until(lambda: server.driver.waiting == 1)
                server.driver.start()
                return await asyncio.gather(*asked)

    assert len(asyncio.run(main())) == 12


def test_draining_finishes_what_was_begun_and_refuses_the_rest(wide_engine, wide_settings):
    async def main():
        with held(wide_engine, wide_settings) as server:
            async with server.async_client(timeout=120) as client:
                running = asyncio.create_task(client.chat.completions.create(**request(SHORT)))
                await until(lambda: server.driver.unfinished == 1)
                draining = asyncio.create_task(server.driver.drain())
                await asyncio.sleep(0)
                with pytest.raises(openai.InternalServerError) as refused:
                    await client.chat.completions.create(**request(SHORT))
                health = httpx2.get(server.base_url.removesuffix("/v1") + "/health")
                server.driver.start()
                await draining
                return refused.value, health, await running

    refused, health, reply = asyncio.run(main())
    assert (refused.status_code, refused.code) == (503, "shutting_down")
    assert "retry-after" in refused.response.headers
    assert (health.status_code, health.json()) == (503, {"status": "draining"})
    assert reply.usage.completion_tokens == SHORT


def test_a_fault_of_the_engine_is_told_to_those_who_wait_and_to_health(wide_engine, wide_settings):
    """The fault here: an adapter made for a wider model."""
    adapter = wide_settings.adapters["policy"]
    foreign = adapter.replace_weights(jax.tree.map(lambda leaf: leaf[:, :-1], adapter.weights))
    settings = dataclasses.replace(wide_settings, adapters={"base": None, "foreign": foreign})

    async def main():
        with held(wide_engine, settings) as server:
            async with server.async_client(timeout=60) as client:
                stream = await client.chat.completions.create(**request(LONG, stream=True))
                whole = asyncio.create_task(client.chat.completions.create(**request(LONG)))
                await until(lambda: server.driver.unfinished == 2)
                broken = asyncio.create_task(client.chat.completions.create(**request(SHORT, model="foreign")))
                await until(lambda: server.driver.unfinished == 3)
                server.driver.start()
                errors = []
                for waiting in (whole, broken):
                    with pytest.raises(openai.InternalServerError) as failed:
                        await waiting
                    errors.append(failed.value.code)
                with pytest.raises(openai.APIError) as failed:
                    async for _ in stream:
                        pass
                errors.append(failed.value.code)
                return errors, httpx2.get(server.base_url.removesuffix("/v1") + "/health").json()

    assert asyncio.run(main()) == (["engine_failed"] * 3, {"status": "failed"})
