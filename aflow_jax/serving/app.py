"""The HTTP side of the server: OpenAI's protocol over the sampling driver."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from aflow_jax.sampling import Driver
from aflow_jax.serving.errors import RequestError, unreadable
from aflow_jax.serving.generation import Generator
from aflow_jax.serving.metrics import CountRequests, Metrics
from aflow_jax.serving.protocol import ChatRequest, CompletionRequest
from aflow_jax.serving.settings import ServerSettings

_BODY_SECONDS = 60.0
_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"})

Body = TypeVar("Body", ChatRequest, CompletionRequest)
Argument = TypeVar("Argument")


def create_app(driver: Driver, settings: ServerSettings) -> Starlette:
    """Return the ASGI application; `driver` is running, and stays the caller's to end."""
    metrics = Metrics(driver)
    server = _Server(driver, settings, metrics)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
            Route("/v1/completions", server.completions, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/v1/models/{name:path}", server.model),
            Route("/health", server.health),
            Route("/metrics", server.metrics_page),
        ],
        middleware=[
            Middleware(CountRequests, metrics=metrics, paths=_PATHS),
            Middleware(_RequireKey, api_key=settings.api_key),
        ],
        exception_handlers={
            RequestError: _request_error,
            HTTPException: _routing_error,
            ClientDisconnect: _client_left,
            Exception: _unexpected,
        },
    )


class _Server:
    def __init__(self, driver: Driver, settings: ServerSettings, metrics: Metrics) -> None:
        self._driver = driver
        self._settings = settings
        self._metrics = metrics
        self._generator = Generator(driver, settings, metrics)
        self._started = int(time.time())
        # One thread: long texts are encoded off the event loop, and one at a time.
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")

    async def chat_completions(self, request: HTTPRequest) -> Response:
        body = await self._read(request, ChatRequest)
        messages = [message.as_template_message() for message in body.messages]
        prompt = await self._off_loop(self._settings.tokenizer.encode_chat, messages)
        return await self._generator.respond(request, body, [tuple(prompt)])

    async def completions(self, request: HTTPRequest) -> Response:
        body = await self._read(request, CompletionRequest)
        return await self._generator.respond(request, body, [await self._tokens(prompt) for prompt in body.prompt])

    async def models(self, request: HTTPRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._settings.adapters]})

    async def model(self, request: HTTPRequest) -> Response:
        name = request.path_params["name"]
        self._require_model(name)
        return JSONResponse(self._card(name))

    async def health(self, request: HTTPRequest) -> Response:
        if self._driver.failure is not None:
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "draining"}, 503) if self._driver.draining else JSONResponse({"status": "ok"})

    async def metrics_page(self, request: HTTPRequest) -> Response:
        return Response(self._metrics.page(), media_type="text/plain; version=0.0.4")

    async def _read(self, request: HTTPRequest, kind: type[Body]) -> Body:
        """Read and check the body; a server that is about to end takes none."""
        if self._driver.draining:
            raise RequestError(503, "The server is shutting down.", code="shutting_down")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError(400, "The header Content-Type must be application/json.", code="invalid_content_type")
        try:
            body = kind.model_validate_json(await self._content(request))
        except ValidationError as error:
            raise unreadable(error) from None
        self._require_model(body.model)
        return body

    async def _content(self, request: HTTPRequest) -> bytes:
        """Return the body, bounded in size and time."""
        content = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > self._settings.max_body_bytes:
                        message = f"The body is larger than {self._settings.max_body_bytes} bytes."
                        raise RequestError(413, message, code="request_too_large")
        except TimeoutError:
            message = f"The body did not arrive within {_BODY_SECONDS:g} seconds."
            raise RequestError(408, message, code="request_timeout") from None
        return bytes(content)

    async def _tokens(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            prompt = tuple(await self._off_loop(self._settings.tokenizer.encode_text, prompt))
            if not prompt:
                raise RequestError(400, "A prompt must not be empty.", param="prompt", code="invalid_value")
        elif max(prompt) >= self._settings.vocab_size:
            message = f"Invalid token id {max(prompt)}: the model knows ids below {self._settings.vocab_size}."
            raise RequestError(400, message, param="prompt", code="invalid_value")
        return prompt

    async def _off_loop(self, encode: Callable[[Argument], list[int]], argument: Argument) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._encoding, encode, argument)

    def _require_model(self, name: str) -> None:
        if name not in self._settings.adapters:
            message = f"The model '{name}' does not exist: this server has {', '.join(self._settings.adapters)}."
            raise RequestError(404, message, param="model", code="model_not_found")

    def _card(self, name: str) -> dict[str, Any]:
        base = next(iter(self._settings.adapters))
        card = {"id": name, "object": "model", "created": self._started, "owned_by": "aflow_jax"}
        return {**card, "root": base, "parent": None if name == base else base}


class _RequireKey:
    """ASGI middleware: where a key is set, everything but /health needs it."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._api_key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._api_key is None or scope["type"] != "http" or scope["path"] == "/health":
            return await self._app(scope, receive, send)
        scheme, _, given = HTTPRequest(scope).headers.get("authorization", "").partition(" ")
        # In constant time, so that the time of a refusal tells nothing of the key.
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._api_key.encode()):
            return await self._app(scope, receive, send)
        refusal = RequestError(401, "Incorrect API key provided, or none.", code="invalid_api_key")
        return await refusal.response()(scope, receive, send)


async def _request_error(request: HTTPRequest, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    return error.response()


async def _routing_error(request: HTTPRequest, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 405:
        message, code = f"{request.method} is not allowed for {request.url.path}.", "method_not_allowed"
    else:
        message, code = f"Unknown request URL: {request.method} {request.url.path}.", "unknown_url"
    return RequestError(error.status_code, message, code=code).response()


async def _unexpected(request: HTTPRequest, error: Exception) -> Response:
    """Say no more than that something broke; the log has the rest."""
    return RequestError(500, "The server had an error while processing the request.", code="internal_error").response()


async def _client_left(request: HTTPRequest, error: Exception) -> Response:
    return Response(status_code=499)  # for the metrics: nobody reads it
