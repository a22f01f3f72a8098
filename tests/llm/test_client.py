import asyncio
import gzip
import logging
import socket
import time
import traceback

import pytest
from scripted_server import completion, http, scripted_server
from simulated_prompts import messages

from aflow_jax.errors import UserError
from aflow_jax.llm import (
    Budget,
    BudgetExhausted,
    Endpoint,
    FallbackClient,
    LLMClient,
    LLMFault,
    Price,
    ResponseCache,
    TooLong,
    start_simulator,
)
from aflow_jax.llm.counters import nearest_rank
from aflow_jax.llm.limits import RateLimit

SECRET = "sk-planted-0123456789abcdef"
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


def test_percentiles_are_values_of_the_sample():
    assert nearest_rank([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert nearest_rank([float(value) for value in range(1, 101)], 0.95) == 95.0
    assert nearest_rank([7.0], 0.95) == 7.0
