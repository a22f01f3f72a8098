"""A key is shown nowhere: not in errors, logs, replies or the cache."""

import asyncio
import logging
import traceback

import pytest
from client_calls import ASK, always, using
from scripted_server import completion, http, scripted_server

from aflow_jax.errors import UserError
from aflow_jax.llm import Endpoint, LLMClient, LLMFault, ResponseCache, start_simulator

SECRET = "sk-planted-0123456789abcdef"


def test_refused_key_is_an_error_at_once_and_is_shown_nowhere(problems_file, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    endpoint_settings = {"api_key": SECRET, "key_variable": "MY_KEY", "path": "file.yaml"}

    async def work(client):
        shown = []
        for call in (client.check, lambda: client.complete(ASK)):
            with pytest.raises(UserError, match="refused the key") as raised:
                await call()
            error = raised.value
            assert error.__cause__ is None and error.__context__ is None
            shown += [repr(error), "".join(traceback.format_exception(error)), str(vars(error))]
        return [*shown, repr(client.endpoint), str(client.metrics())]

    with start_simulator(problems_file, api_key="another-key") as guarded:
        shown = using(guarded.endpoint(**endpoint_settings), work)
    output = capfd.readouterr()
    shown += [caplog.text, output.out, output.err]
    assert "MY_KEY" in shown[0]
    assert "chat/completions" in caplog.text or "HTTP" in caplog.text
    assert not [text for text in shown if SECRET in text or SECRET[3:] in text]


def test_accepted_key_is_not_logged_and_not_kept_in_the_cache(problems_file, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)

    async def work(client):
        await client.check()
        return await client.complete(ASK)

    path = tmp_path / "replies.sqlite"
    with start_simulator(problems_file, api_key=SECRET) as guarded, ResponseCache(path) as cache:
        reply = using(guarded.endpoint(api_key=SECRET), work, cache=cache)
    assert "<answer>" in reply.text
    assert SECRET not in caplog.text
    assert not [file for file in tmp_path.iterdir() if SECRET.encode() in file.read_bytes()]


def error_of_a_keyed_call(body):
    """Return what the fault says that comes of a server's answer to a call with SECRET as key."""

    async def main():
        async with scripted_server(always(body)) as (endpoint, _):
            client = LLMClient(endpoint.model_copy(update={"api_key": _secret()}), max_retries=0)
            with pytest.raises(LLMFault) as raised:
                await client.complete(ASK)
            await client.aclose()
            return str(raised.value)

    return asyncio.run(main())


def test_key_repeated_by_the_server_is_cut_out_of_faults():
    body = http(f'{{"error": {{"message": "bad {SECRET} and sk-proj-abcdefghij"}}}}'.encode(), "500 Oops")
    text = error_of_a_keyed_call(body)
    assert SECRET not in text and "abcdefghij" not in text
    assert text.count("[key]") == 2


@pytest.mark.parametrize("echo", [SECRET[:14], SECRET[-14:], f"Bearer{SECRET}x", "my key " + SECRET[4:20] + "..."])
def test_a_part_of_the_key_is_cut_out_too(echo):
    body = http(f'{{"error": {{"message": "bad {echo}"}}}}'.encode(), "500 Oops")
    text = error_of_a_keyed_call(body)
    assert not [start for start in range(len(SECRET) - 7) if SECRET[start : start + 8] in text]


def test_a_key_inside_a_reply_is_not_handed_on(tmp_path):
    async def main():
        with ResponseCache(tmp_path / "replies.sqlite") as cache:
            async with scripted_server(always(http(completion(f"you sent {SECRET}")))) as (endpoint, _):
                client = LLMClient(endpoint.model_copy(update={"api_key": _secret()}), cache=cache)
                reply = await client.complete(ASK)
                await client.aclose()
                return reply.text

    assert asyncio.run(main()) == "you sent [key]"
    assert not [file for file in tmp_path.iterdir() if SECRET.encode() in file.read_bytes()]


def _secret():
    return Endpoint(name="x", base_url="http://h/v1", model_name="m", api_key=SECRET).api_key
