"""Faults that the simulator commits at set rates."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from aflow_jax.errors import UserError
from aflow_jax.llm.simulator.draws import uniform

# In the order in which they are drawn; the first that comes up is committed.
FAULTS = (
    "rate_limit",
    "server_error",
    "unavailable",
    "hang",
    "cut",
    "truncated_json",
    "malformed_json",
    "empty_content",
    "null_content",
    "no_choices",
    "wrong_schema",
    "refusal",
    "length",
    "html",
    "stall",
    "slow_drip",
    "huge_body",
    "no_usage",
    "quota",
)
_SECONDS = {"retry_after_seconds": 1.0, "stall_seconds": 30.0}


@dataclass(frozen=True)
class Faults:
    """Rates by name, each in [0, 1], and two durations.

    Attributes:
        rates: the chance of each of FAULTS, drawn independently for each attempt at each request.
        retry_after_seconds: what a rate limit asks to wait.
        stall_seconds: the pause in the middle of a body.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    retry_after_seconds: float = 1.0
    stall_seconds: float = 30.0

    @classmethod
    def from_mapping(cls, values: Mapping[str, float] | None) -> Self:
        """Read `{fault: rate, …}`, which may also hold `retry_after_seconds` and `stall_seconds`.

        Raises:
            UserError: an unknown name, or a rate outside [0, 1].
        """
        rates: dict[str, float] = {}
        seconds = dict(_SECONDS)
        for name, value in (values or {}).items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name in _SECONDS and number and value >= 0:
                seconds[name] = float(value)
            elif name not in FAULTS:
                raise UserError(f"simulator.faults: unknown fault {name!r}; known: {', '.join((*FAULTS, *_SECONDS))}")
            elif not number or not 0 <= value <= 1:
                raise UserError(f"simulator.faults.{name}: must be a rate from 0 to 1, not {value!r}")
            else:
                rates[name] = float(value)
        return cls(rates=rates, **seconds)

    def draw(self, *key: object) -> str | None:
        """Return the fault to commit, or None."""
        for name in FAULTS:
            if name in self.rates and uniform(name, *key) < self.rates[name]:
                return name
        return None


@dataclass(frozen=True)
class BrokenBody:
    """An ASGI response that announces `body`, sends `sent` of it, waits, and then sends the rest or hangs up."""

    body: bytes
    sent: int
    pause: float = 0.0
    hangs_up: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body[: self.sent], "more_body": True})
        await asyncio.sleep(self.pause)
        if not self.hangs_up:  # a server closes the connection of an application that returns without having ended
            await send({"type": "http.response.body", "body": self.body[self.sent :], "more_body": False})


@dataclass(frozen=True)
class EndlessBody:
    """An ASGI response that sends `chunk` every `interval` seconds until the client leaves."""

    chunk: bytes
    interval: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        left = asyncio.ensure_future(_disconnected(receive))
        while not left.done():
            await send({"type": "http.response.body", "body": self.chunk, "more_body": True})
            await asyncio.wait([left], timeout=self.interval)


class Hang:
    """An ASGI response that never begins."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _disconnected(receive)


def error_response(status: int, message: str, *, kind: str, code: str | None = None, **headers: str) -> JSONResponse:
    """Return an error in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
