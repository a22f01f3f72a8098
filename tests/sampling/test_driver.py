"""The driver: one device thread for many callers, who can leave at any time and are never left waiting."""

import asyncio
import contextlib

import jax
import pytest

from aflow_jax.errors import UserError
from aflow_jax.sampling import (
    DeviceFailure,
    Driver,
    Engine,
    QueueFull,
    Request,
    SamplingParams,
    ShuttingDown,
)

SLOTS = 2
LONG = 900


@pytest.fixture(scope="module")
def engine(model, tokenizer) -> Engine:
    return Engine(model, tokenizer, slots=SLOTS, prompt_max_length=128, chunk_length=2)


@pytest.fixture(scope="module")
def prompts(prompts):
    """Of one length, so that they share their compiled programs."""
    return [prompt[:20] for prompt in prompts if len(prompt) >= 20]


def params(tokens: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=tokens, stop_token_ids=())


def requests(prompts, samples: int = 1) -> list[Request]:
    return [
        Request(prompt_tokens=prompt, seeds=tuple((7, place, sample) for sample in range(samples)))
        for place, prompt in enumerate(prompts)
    ]


async def gone_quiet(driver: Driver) -> None:
    """Return once nothing is left to do; a driver that never gets there fails the test by its timeout."""
    async with asyncio.timeout(30):
        while driver.unfinished:
            await asyncio.sleep(0.005)


def by_place(completions) -> dict:
    return {(one.request, one.sample): one.tokens for one in completions}


async def collected(driver, wanted, tokens, adapter=None) -> dict:
    async with driver.submit(wanted, params(tokens), adapter) as stream:
        return by_place([completion async for completion in stream.completions()])


def test_callers_side_by_side_get_what_the_engine_gives_each_alone(engine, adapter, prompts):
    wanted = requests(prompts[:3], 2)
    expected = {
        name: by_place(engine.generate(wanted, params(9), given)) for name, given in (("base", None), ("own", adapter))
    }

    async def main():
        with Driver(engine) as driver:
            return await asyncio.gather(
                collected(driver, wanted, 9), collected(driver, wanted, 9, adapter), collected(driver, wanted, 9)
            )

    assert asyncio.run(main()) == [expected["base"], expected["own"], expected["base"]]


def test_the_steps_of_a_completion_are_its_tokens_and_its_text(engine, prompts):
    async def main():
        with Driver(engine) as driver:
            async with driver.submit(requests(prompts[:2]), params(12)) as stream:
                return [progress async for progress in stream]

    steps = asyncio.run(main())
    for place in (0, 1):
        own = [progress for progress in steps if progress.request == place]
        (completion,) = [progress.completion for progress in own if progress.completion]
        assert len(own) > 1
        assert completion.tokens == sum((progress.tokens for progress in own), ())
        assert completion.text == "".join(progress.text for progress in own)


def test_a_stream_that_is_closed_frees_its_slots(engine, prompts):
    async def main():
        with Driver(engine) as driver:
            async with driver.submit(requests(prompts[:1], SLOTS), params(LONG)) as stream:
                await anext(stream)
                waiting = asyncio.create_task(collected(driver, requests(prompts[1:2]), 6))
                await asyncio.sleep(0)
                assert driver.unfinished == SLOTS + 1
            return await waiting, driver.unfinished

    assert asyncio.run(main()) == (by_place(engine.generate(requests(prompts[1:2]), params(6))), 0)


def test_a_cancelled_task_frees_its_slots(engine, prompts):
    async def main():
        with Driver(engine) as driver:
            task = asyncio.create_task(collected(driver, requests(prompts[:1], SLOTS), LONG))
            await asyncio.sleep(0)
            assert driver.unfinished == SLOTS
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return await collected(driver, requests(prompts[1:2]), 6)

    assert len(asyncio.run(main())) == 1


@pytest.mark.parametrize("same_lane", [True, False])
def test_a_short_request_submitted_late_ends_before_a_long_one(engine, adapter, prompts, same_lane):
    """Whether or not it shares the long one's adapter."""
    ended = []

    async def ask(driver, name, tokens, given):
        await collected(driver, requests(prompts[:1]), tokens, given)
        ended.append(name)

    async def main():
        with Driver(engine) as driver:
            short = ask(driver, "short", 6, None if same_lane else adapter)
            await asyncio.gather(ask(driver, "long", 40, None), short)

    asyncio.run(main())
    assert ended == ["short", "long"]


def test_slots_are_given_in_the_order_of_submission(engine, prompts):
    first: list[int] = []

    async def ask(driver, number):
        async with driver.submit(requests(prompts[:1]), params(6)) as stream:
            await anext(stream)
            first.append(number)
            async for _ in stream:
                pass

    async def main():
        with Driver(engine) as driver:
            await asyncio.gather(*(ask(driver, number) for number in range(40)))

    asyncio.run(main())
    # Those that share the slots are told together; nobody is ever passed by more than a slot's worth.
    assert all(abs(number - place) < 2 * SLOTS for place, number in enumerate(first))


def test_a_full_queue_refuses_and_takes_again_once_there_is_room(engine, prompts):
    async def main():
        with Driver(engine, max_waiting=2) as driver:
            with driver_streams(driver, requests(prompts[:1]), count=SLOTS + 2) as streams:
                with pytest.raises(QueueFull, match="2 completions wait already"):
                    driver.submit(requests(prompts[:1]), params(6))
                streams[0].close()
                async with asyncio.timeout(30):
                    while driver.waiting == 2:
                        await asyncio.sleep(0.005)
                driver.submit(requests(prompts[:1]), params(6)).close()
            await gone_quiet(driver)

    asyncio.run(main())


@contextlib.contextmanager
def driver_streams(driver, wanted, *, count):
    with contextlib.ExitStack() as stack:
        streams = [driver.submit(wanted, params(LONG)) for _ in range(count)]
        for stream in streams:
            stack.callback(stream.close)
        yield streams


def test_draining_ends_what_was_taken_and_refuses_the_rest(engine, prompts):
    async def main():
        with Driver(engine) as driver:
            running = asyncio.create_task(collected(driver, requests(prompts[:2]), 30))
            await asyncio.sleep(0)
            await driver.drain()
            with pytest.raises(ShuttingDown):
                driver.submit(requests(prompts[:1]), params(6))
            return await running

    assert len(asyncio.run(main())) == 2


def test_a_fault_of_the_device_reaches_everyone_who_waits_and_everyone_who_comes(engine, adapter, prompts):
    """The fault here: an adapter made for a wider model."""
    foreign = adapter.replace_weights(jax.tree.map(lambda leaf: leaf[:, :-1], adapter.weights))
    driver = Driver(engine)

    async def main():
        with driver:
            streams = [driver.submit(requests(prompts[:1]), params(LONG)) for _ in range(3)]
            await anext(streams[0])
            streams.append(driver.submit(requests(prompts[:1]), params(6), foreign))
            for stream in streams:
                with pytest.raises(DeviceFailure, match="the sampling thread has failed: TypeError"):
                    async with asyncio.timeout(30):
                        async for _ in stream:
                            pass
            with pytest.raises(DeviceFailure):
                driver.submit(requests(prompts[:1]), params(6))

    asyncio.run(main())
    assert isinstance(driver.failure, TypeError)
    assert driver.unfinished == 0


def test_closing_the_driver_ends_whoever_still_waits(engine, prompts):
    async def main():
        driver = Driver(engine)
        with driver:
            stream = driver.submit(requests(prompts[:1]), params(LONG))
        with pytest.raises(ShuttingDown):
            async with asyncio.timeout(30):
                async for _ in stream:
                    pass

    asyncio.run(main())


def test_a_request_that_cannot_be_served_is_refused_alone(engine, prompts):
    async def main():
        with Driver(engine) as driver:
            bad = [Request(prompt_tokens=(1,) * 129, seeds=((0,),))]
            good, refused = await asyncio.gather(
                collected(driver, requests(prompts[:1]), 6),
                collected(driver, [*requests(prompts[:1]), *bad], 6),
                return_exceptions=True,
            )
            await gone_quiet(driver)
            return good, refused

    good, refused = asyncio.run(main())
    assert len(good) == 1
    assert isinstance(refused, UserError)
    assert "129 tokens, prompt_max_length is 128" in str(refused)


def test_no_requests_make_a_stream_that_is_at_its_end(engine):
    async def main():
        with Driver(engine) as driver:
            return await collected(driver, [], 6)

    assert asyncio.run(main()) == {}
