"""What a client sends, what it makes of the answers, and which endpoint it asks next."""

import asyncio
import gzip

import pytest
from client_calls import ASK, always, free_port, scripted, using
from scripted_server import completion, http, scripted_server

from aflow_jax.errors import UserError
from aflow_jax.llm import Endpoint, FallbackClient, LLMClient, LLMFault, Price, TooLong
from aflow_jax.llm.counters import nearest_rank


def test_reply_carries_text_usage_price_and_counts(simulator):
    endpoint = simulator.endpoint(price=Price(input=1.0, output=10.0))

    async def work(client):
        reply = await client.complete(ASK)
        return reply, client.metrics(), client.metrics()

    reply, metrics, afterwards = using(endpoint, work)
    assert "<answer>" in reply.text
    assert reply.usd == pytest.approx((reply.prompt_tokens + 10 * reply.completion_tokens) / 1e6)
    assert not reply.cached
    assert metrics["executor/calls"] == 1
    assert metrics["executor/tokens"] == reply.prompt_tokens + reply.completion_tokens > 0
    assert metrics["executor/usd"] == reply.usd
    assert metrics["executor/latency_p50"] == metrics["executor/latency_p95"] == reply.latency > 0
    assert afterwards["executor/calls"] == 0


def test_unknown_price_is_none_and_left_out_of_the_metrics(simulator):
    async def work(client):
        return (await client.complete(ASK)).usd, client.metrics()

    usd, metrics = using(simulator.endpoint(), work)
    assert usd is None
    assert "executor/usd" not in metrics


def test_request_holds_settings_and_seed():
    async def work(client, script):
        await client.complete(ASK, temperature=0.7, seed=123, max_tokens=99)
        await client.complete(ASK)
        return script.bodies

    first, second = scripted(always(http(completion())), work)
    assert first == {"model": "m", "messages": ASK, "temperature": 0.7, "top_p": 1.0, "max_tokens": 99, "seed": 123}
    assert second == {"model": "m", "messages": ASK, "temperature": 0.0, "top_p": 1.0, "max_tokens": 4096}


def test_lone_surrogates_neither_break_the_request_nor_come_back():
    prompt = [{"role": "user", "content": "a \ud800 b"}]

    async def work(client, script):
        return (await client.complete(prompt)).text, script.bodies[0]["messages"][0]["content"]

    assert scripted(always(http(completion("x \udc00 y"))), work) == ("x \ufffd y", "a \ufffd b")


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (http(b"{}", "302 Found", location="http://127.0.0.1:1/v1"), "LLM_UNAVAILABLE"),
        (http(b'{"error": {"message": "too long"}}', "400 Bad Request"), "LLM_UNAVAILABLE"),
    ],
)
def test_refused_requests_are_faults_without_retries(response, kind):
    async def work(client, script):
        with pytest.raises(LLMFault) as raised:
            await client.complete(ASK)
        return raised.value.kind, len(script.bodies)

    assert scripted(always(response), work) == (kind, 1)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "too many tokens", "code": "context_length_exceeded"}}',
        b'{"error": {"message": "This model\'s maximum context length is 4096 tokens.", "code": 400}}',
    ],
)
def test_a_prompt_that_does_not_fit_is_too_long_and_is_not_sent_again(body):
    async def work(client, script):
        with pytest.raises(TooLong) as raised:
            await client.complete(ASK)
        return raised.value.reply, len(script.bodies)

    assert scripted(always(http(body, "400 Bad Request")), work) == (None, 1)


@pytest.mark.parametrize(
    "response",
    [
        http(b'{"error": {"message": "Insufficient Balance"}}', "402 Payment Required"),
        http(b'{"error": {"code": "insufficient_quota"}}', "429 Too Many Requests"),
        http(b'{"error": {"type": "insufficient_quota"}}', "429 Too Many Requests"),
    ],
)
def test_exhausted_quota_stops_at_once(response):
    async def work(client, script):
        with pytest.raises(UserError, match="quota"):
            await client.complete(ASK)
        return len(script.bodies)

    assert scripted(always(response), work) == 1


def test_compressed_bodies_are_refused():
    bomb = gzip.compress(completion("x" * 1_000_000))

    async def work(client, script):
        with pytest.raises(LLMFault, match="compressed"):
            await client.complete(ASK)
        assert "accept-encoding: identity" in script.headers[0].lower()

    scripted(always(http(bomb, content_encoding="gzip")), work, max_retries=0)


def test_error_bodies_are_bounded_too():
    async def work(client, script):
        with pytest.raises(LLMFault, match="above 1000 bytes"):
            await client.complete(ASK)

    scripted(always(http(b"x" * 5000, "500 Internal Server Error")), work, max_retries=0, max_body_bytes=1000)


@pytest.mark.parametrize("choice", [{"message": None}, {"message": {"content": [1]}}, {}, None, 3])
def test_choices_of_another_shape_are_faults(choice):
    async def work(client, script):
        with pytest.raises(LLMFault):
            await client.complete(ASK)

    scripted(always(http(completion(choices=[choice]))), work, max_retries=0)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": "7"}, 5])
def test_usage_that_is_not_stated_is_estimated_and_its_price_unknown(usage):
    async def work(client, script):
        return await client.complete([{"role": "user", "content": "x" * 40}])

    reply = scripted(always(http(completion("y" * 9, usage=usage))), work)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.usage_estimated, reply.usd) == (10, 3, True, None)


def test_unreachable_endpoint_is_a_fault_for_a_call_and_a_one_line_error_for_the_check():
    endpoint = Endpoint(name="gone", base_url=f"http://127.0.0.1:{free_port()}/v1", model_name="m", path="file.yaml")

    async def work(client):
        with pytest.raises(LLMFault) as fault:
            await client.complete(ASK)
        with pytest.raises(UserError) as error:
            await client.check()
        return fault.value.kind, str(error.value)

    kind, text = using(endpoint, work, max_retries=1)
    assert kind == "LLM_UNAVAILABLE"
    assert all(word in text for word in (endpoint.base_url, "reached", "file.yaml", "models.gone"))
    assert "\n" not in text


def test_check_passes_on_a_working_endpoint_and_names_an_unknown_model(simulator):
    async def work(client):
        await client.check()

    using(simulator.endpoint(), work)
    with pytest.raises(UserError, match="'gpt-9'"):
        using(simulator.endpoint(model_name="gpt-9"), work)


def test_fallback_answers_when_the_first_endpoint_is_down_and_then_passes_it_over(simulator):
    gone = Endpoint(name="gone", base_url=f"http://127.0.0.1:{free_port()}/v1", model_name="m")

    async def main():
        clients = [LLMClient(gone, max_retries=0), LLMClient(simulator.endpoint())]
        client = FallbackClient(clients)
        replies = [await client.complete(ASK) for _ in range(3)]
        metrics = client.metrics()
        await client.aclose()
        return replies, metrics

    replies, metrics = asyncio.run(main())
    assert all("<answer>" in reply.text for reply in replies)
    assert (metrics["executor/calls"], metrics["executor/faults"]) == (3, 1)


def test_a_request_that_is_refused_for_what_it_holds_puts_no_endpoint_aside(simulator):
    filtered = http(completion(choices=[{"message": {"content": ""}, "finish_reason": "content_filter"}]))

    async def filters_first(number):
        return http(completion("from the first")) if number else filtered

    async def main():
        async with scripted_server(filters_first) as (endpoint, _):
            client = FallbackClient([LLMClient(endpoint), LLMClient(simulator.endpoint())])
            texts = [(await client.complete(ASK)).text for _ in range(2)]
            await client.aclose()
            return texts

    other, first = asyncio.run(main())
    assert "<answer>" in other and first == "from the first"


def test_percentiles_are_values_of_the_sample():
    assert nearest_rank([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert nearest_rank([float(value) for value in range(1, 101)], 0.95) == 95.0
    assert nearest_rank([7.0], 0.95) == 7.0
