"""From a checked request to its reply: submitted, collected or streamed, and cancelled when the client leaves."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aflow_jax.errors import UserError
from aflow_jax.sampling import (
    Completion,
    DeviceFailure,
    Driver,
    QueueFull,
    Request,
    SamplingParams,
    ShuttingDown,
    Stream,
    seed_words,
)
from aflow_jax.serving.errors import RequestError
from aflow_jax.serving.metrics import Metrics, Stopwatch
from aflow_jax.serving.protocol import MAX_CHOICES, ChatRequest, CompletionRequest
from aflow_jax.serving.replies import Replies, Usage
from aflow_jax.serving.settings import ServerSettings

Body = ChatRequest | CompletionRequest
Prompts = Sequence[tuple[int, ...]]
Result = TypeVar("Result")


class Generator:
    """Answers requests with what the driver samples."""

    def __init__(self, driver: Driver, settings: ServerSettings, metrics: Metrics) -> None:
        self._driver = driver
        self._settings = settings
        self._metrics = metrics

    async def respond(self, request: HTTPRequest, body: Body, prompts: Prompts) -> Response:
        """Return the reply to a request whose prompts are encoded.

        Raises:
            RequestError: it does not fit the context, the queue is full, or the server fails or is about to end.
            ClientDisconnect: the client left, and what was sampled for it is dropped.
        """
        params = body.sampling_params(self._room(body, prompts))
        stopwatch = Stopwatch(self._metrics)
        stream = self._submit(_requests(body, prompts), params, body.model)
        reply = _Reply(stream, self._replies(body), stopwatch, prompts)
        if body.stream:
            return _EventStream(reply.events(with_usage=body.wants_usage), stream)
        async with stream:
            return JSONResponse(await _unless_gone(request, reply.whole()))

    def _room(self, body: Body, prompts: Prompts) -> int:
        """Return the tokens that a completion may have."""
        longest, most = max(map(len, prompts)), self._settings.max_model_len
        bound = max(1, most - longest) if body.bound is None else body.bound
        if longest + bound > most:
            message = (
                f"This model's maximum context length is {most} tokens. However, you requested {longest + bound} "
                f"tokens ({longest} in the prompt, {bound} in the completion). Please shorten either."
            )
            param = "messages" if isinstance(body, ChatRequest) else "prompt"
            raise RequestError(400, message, param=param, code="context_length_exceeded")
        return bound

    def _submit(self, requests: Sequence[Request], params: SamplingParams, model: str) -> Stream:
        try:
            return self._driver.submit(requests, params, self._settings.adapters[model])
        except (QueueFull, ShuttingDown, DeviceFailure) as error:
            raise _refusal(error) from error

    def _replies(self, body: Body) -> Replies:
        return Replies(
            kind="chat" if isinstance(body, ChatRequest) else "text",
            model=body.model,
            samples=body.choices,
            tokenizer=self._settings.tokenizer,
            end_tokens=frozenset(self._settings.tokenizer.eos_token_ids),
            with_logprobs=body.wants_logprobs,
        )


class _Reply:
    """One reply as it comes into being."""

    def __init__(self, stream: Stream, replies: Replies, stopwatch: Stopwatch, prompts: Prompts) -> None:
        self._stream = stream
        self._replies = replies
        self._stopwatch = stopwatch
        self._prompts = prompts

    async def whole(self) -> dict[str, Any]:
        """Return the body of a reply that is not streamed."""
        completions: list[Completion] = []
        try:
            async for progress in self._stream:
                self._stopwatch.progress()
                if progress.completion is not None:
                    completions.append(progress.completion)
        except (UserError, ShuttingDown, DeviceFailure) as error:
            raise _refusal(error) from error
        return self._replies.whole(completions, self._end(sum(len(one.tokens) for one in completions)))

    async def events(self, *, with_usage: bool) -> AsyncIterator[bytes]:
        """Yield the events of a streamed reply; an error after the first one is an event too."""
        drawn = 0
        try:
            for event in self._replies.opening(len(self._prompts)):
                yield _event(event)
            async for progress in self._stream:
                self._stopwatch.progress()
                drawn += len(progress.tokens)
                for event in self._replies.progress(progress):
                    yield _event(event)
        except (UserError, ShuttingDown, DeviceFailure) as error:
            yield _event(_refusal(error).body())
            return
        usage = self._end(drawn)
        if with_usage:
            yield _event(self._replies.closing(usage))
        yield b"data: [DONE]\n\n"

    def _end(self, drawn: int) -> Usage:
        usage = Usage(sum(map(len, self._prompts)), drawn)
        self._stopwatch.end(usage)
        return usage


class _EventStream(StreamingResponse):
    """Server-sent events. However sending ends, the stream is closed: also where not one event was sent."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], stream: Stream) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache"})
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


def _requests(body: Body, prompts: Prompts) -> list[Request]:
    """Return the driver's requests; the noise of a choice follows from the seed and its index."""
    if len(prompts) * body.choices > MAX_CHOICES:
        message = f"At most {MAX_CHOICES} choices a request: found {len(prompts)} prompts with {body.choices} each."
        raise RequestError(400, message, param="n", code="invalid_value")
    words = seed_words(secrets.randbits(63) if body.seed is None else body.seed)
    return [
        Request(
            prompt_tokens=prompt,
            seeds=tuple((*words, at * body.choices + sample) for sample in range(body.choices)),
        )
        for at, prompt in enumerate(prompts)
    ]


async def _unless_gone(request: HTTPRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of some work, or end it with ClientDisconnect when the client leaves before."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, gone = asyncio.create_task(work), asyncio.create_task(leaving())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


def _refusal(error: Exception) -> RequestError:
    """Return what a client is told when the driver cannot serve it."""
    if isinstance(error, QueueFull):
        return RequestError(503, f"The server is busy: {error}. Please retry later.", code="queue_full")
    if isinstance(error, ShuttingDown):
        return RequestError(503, "The server is shutting down.", code="shutting_down")
    if isinstance(error, UserError):
        return RequestError(400, str(error), code="invalid_value")
    return RequestError(500, "The server's sampling engine has failed.", code="engine_failed")


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
