"""Calls through a client, on a loop of their own: of an endpoint, or of a scripted server."""

import asyncio
import socket

from scripted_server import scripted_server
from simulated_prompts import messages

from aflow_jax.llm import LLMClient

ASK = messages("AnswerGenerate", "What is 6 times 7?")


def using(endpoint, work, **settings):
    """Run `await work(client)` on a loop of its own, and see that nothing is left on it."""

    async def main():
        client = LLMClient(endpoint, **{"backoff": 0.01, "timeout": 20.0, **settings})
        try:
            return await work(client)
        finally:
            await client.aclose()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left

    return asyncio.run(main())


def scripted(answer, work, **settings):
    """The same against a scripted server; `await work(client, script)`."""

    async def main():
        async with scripted_server(answer) as (endpoint, script):
            client = LLMClient(endpoint, **{"backoff": 0.01, "timeout": 20.0, **settings})
            try:
                return await work(client, script)
            finally:
                await client.aclose()

    return asyncio.run(main())


def always(response):
    async def answer(number):
        return response

    return answer


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
