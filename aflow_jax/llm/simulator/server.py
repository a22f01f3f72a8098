"""The simulator's HTTP side: OpenAI's protocol, with usage and errors as the real one gives them."""

import asyncio
import hmac
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from aflow_jax.llm.simulator.draws import digest, lognormal
from aflow_jax.llm.simulator.faults import BrokenBody, EndlessBody, Faults, Hang, error_response
from aflow_jax.llm.simulator.mind import Mind

MODEL = "simulator"
_HEADERS = {"x-simulated": "true"}
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the server behaves.

    Attributes:
        seed: of latencies and faults.
        models: the names that it answers to; replies always carry the name "simulator".
        latency: median and 95th percentile of a reply's seconds (lognormal), or None: at once.
        faults: what goes wrong, how often.
        api_key: the key to demand, or None.
    """

    seed: int = 0
    models: tuple[str, ...] = (MODEL,)
    latency: tuple[float, float] | None = None
    faults: Faults = field(default_factory=Faults)
    api_key: str | None = None


def create_app(mind: Mind, problems: int, settings: Settings) -> Starlette:
    """Return the ASGI application."""
    server = _Server(mind, problems, settings)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/health", server.health),
        ]
    )


class _Server:
    def __init__(self, mind: Mind, problems: int, settings: Settings) -> None:
        self._mind = mind
        self._problems = problems
        self._settings = settings
        self._attempts: Counter[str] = Counter()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "simulated": True, "problems": self._problems}, headers=_HEADERS)

    async def models(self, request: Request) -> Response:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        data = [{"id": name, "object": "model", "created": 0, "owned_by": MODEL} for name in self._settings.models]
        return JSONResponse({"object": "list", "data": data}, headers=_HEADERS)

    async def chat_completions(self, request: Request) -> ASGIApp:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _bad_request("We could not parse the JSON body of your request.")
        if (problem := _problem_with(body)) is not None:
            return _bad_request(problem)
        if body.get("model") not in self._settings.models:
            message = f"The model `{body.get('model')}` does not exist or you do not have access to it."
            return error_response(404, message, kind="invalid_request_error", code="model_not_found")
        return await self._answer(body)

    async def _answer(self, body: dict[str, Any]) -> ASGIApp:
        settings = self._settings
        # Latency and faults follow from the request and how often it has come, whatever else is asked meanwhile.
        key: tuple[object, ...] = ()
        if settings.latency or settings.faults.rates:
            content = digest(settings.seed, json.dumps(body, sort_keys=True))
            self._attempts[content] += 1
            key = (content, self._attempts[content])
        if settings.latency:
            median, p95 = settings.latency
            await asyncio.sleep(lognormal(median, p95, "latency", *key))
        completion = self._completion(body)
        fault = settings.faults.draw(*key) if key else None
        return JSONResponse(completion, headers=_HEADERS) if fault is None else self._spoil(fault, completion)

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        temperature = float(body.get("temperature", 1.0))
        text = self._mind.reply(body["messages"], temperature=temperature, seed=body.get("seed"))
        bound = (body.get("max_completion_tokens") or body.get("max_tokens") or 1 << 30) * _CHARACTERS_PER_TOKEN
        prompt_tokens = sum(approximate_tokens(message["content"]) for message in body["messages"])
        completion_tokens = approximate_tokens(text[:bound])
        return {
            "id": f"chatcmpl-simulated-{digest(text)[:12]}",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "system_fingerprint": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text[:bound], "refusal": None},
                    "logprobs": None,
                    "finish_reason": "length" if len(text) > bound else "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }

    def _spoil(self, fault: str, completion: dict[str, Any]) -> ASGIApp:
        """Return the response of a fault, made of what would have been the answer."""
        faults = self._settings.faults
        if fault == "rate_limit":
            wait = {"retry_after": f"{faults.retry_after_seconds:g}"}
            return error_response(429, "Rate limit reached.", kind="requests", code="rate_limit_exceeded", **wait)
        if fault == "quota":
            return error_response(
                429, "You exceeded your current quota.", kind="insufficient_quota", code="insufficient_quota"
            )
        if fault == "server_error":
            # Careless gateways repeat the key; so does this one, for clients to show that they do not pass it on.
            said = "The server had an error while processing your request."
            return error_response(500, f"{said} {self._settings.api_key or ''}".strip(), kind="server_error")
        if fault == "unavailable":
            return error_response(503, "The engine is currently overloaded.", kind="server_error")
        if fault == "html":
            return HTMLResponse("<html><body>Bad gateway</body></html>")
        if fault == "hang":
            return Hang()
        if fault == "slow_drip":
            return EndlessBody(b" ", 0.05)
        if fault == "huge_body":
            return EndlessBody(b" " * 65536, 0.0)
        return self._spoil_body(fault, completion)

    def _spoil_body(self, fault: str, completion: dict[str, Any]) -> ASGIApp:
        choice = completion["choices"][0]
        if fault == "empty_content":
            choice["message"]["content"] = ""
        elif fault == "null_content":
            choice["message"]["content"] = None
        elif fault == "refusal":
            choice["message"] |= {"content": None, "refusal": "I'm sorry, but I can't help with that."}
        elif fault == "length":
            text = choice["message"]["content"]
            choice["message"]["content"] = text[: len(text) // 2]
            choice["finish_reason"] = "length"
        elif fault == "no_choices":
            completion["choices"] = []
        elif fault == "no_usage":
            del completion["usage"]
        elif fault == "wrong_schema":
            completion = {"result": "OK", "data": [completion["id"]]}
        body = json.dumps(completion).encode()
        if fault == "truncated_json":
            return Response(body[: len(body) // 2], media_type="application/json")
        if fault == "malformed_json":
            return Response(body.replace(b":", b"=", 3), media_type="application/json")
        if fault == "cut":
            return BrokenBody(body, len(body) // 2, hangs_up=True)
        if fault == "stall":
            return BrokenBody(body, len(body) // 2, pause=self._settings.faults.stall_seconds)
        return Response(body, media_type="application/json", headers=_HEADERS)

    def _unauthorized(self, request: Request) -> Response | None:
        if self._settings.api_key is None:
            return None
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), self._settings.api_key.encode()):
            return None
        message = f"Incorrect API key provided: {given}."
        return error_response(401, message, kind="invalid_request_error", code="invalid_api_key")


def approximate_tokens(text: str) -> int:
    """Return characters / 4, rounded up: the simulator has no tokenizer."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def _problem_with(body: Any) -> str | None:
    """Return what is wrong with a request, or None."""
    if not isinstance(body, dict):
        return "The body must be a JSON object."
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "'messages' must be a list of at least one message."
    for message in messages:
        fields = [message.get("role"), message.get("content")] if isinstance(message, dict) else [None]
        if not all(isinstance(field, str) for field in fields):
            return "Each message must have a 'role' and a text 'content'."
    if body.get("stream") or body.get("n", 1) != 1:
        return "The simulator neither streams nor samples several choices."
    return _problem_with_numbers(body)


def _problem_with_numbers(body: dict[str, Any]) -> str | None:
    temperature, seed = body.get("temperature", 1.0), body.get("seed")
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 <= temperature <= 2:
        return "'temperature' must be a number from 0 to 2."
    if seed is not None and (type(seed) is not int or not -(2**63) <= seed < 2**63):
        return "'seed' must be a 64-bit integer."
    for name in ("max_tokens", "max_completion_tokens"):
        bound = body.get(name)
        if bound is not None and (type(bound) is not int or bound < 1):
            return f"'{name}' must be an integer of at least 1."
    return None


def _bad_request(message: str) -> Response:
    return error_response(400, message, kind="invalid_request_error")
