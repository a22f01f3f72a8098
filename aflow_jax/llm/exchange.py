"""One HTTP exchange with an endpoint through the `openai` client: bounded in time and size, never retried."""

import asyncio
import email.utils
import re
import ssl
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from aflow_jax.errors import UserError
from aflow_jax.llm.endpoint import Endpoint
from aflow_jax.llm.reply import LLMFault, TooLong

_CONNECT_SECONDS = 15.0
_SHORTEST_KEY = 6  # a local server's dummy may be a letter of its every word
_KEY_PART = 8  # so many characters of a key in a row give it away
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
# OpenAI's code; vLLM, DeepSeek and others say it in words only.
_TOO_LONG_CODE = "context_length_exceeded"
_TOO_LONG = re.compile(r"maximum context length|context[ _](length|window|size)", re.IGNORECASE)


class Exchange:
    """Posts requests to one endpoint.

    Each request in flight has a client with one connection of its own: the usual shared pool looks at every connection
    whenever a request starts or ends, which at 256 in flight costs more than the exchange itself.
    """

    def __init__(self, endpoint: Endpoint, *, max_body_bytes: int) -> None:
        self._endpoint = endpoint
        self._max_body_bytes = max_body_bytes
        self._idle: list[AsyncOpenAI] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._tls = httpx2.create_ssl_context() if endpoint.address.startswith("https") else False

    async def post(self, path: str, body: dict[str, Any], *, timeout: float) -> bytes:
        """Return the body of a successful answer, after `timeout` seconds at most. The key, should it be there, is not.

        Raises:
            LLMFault: no connection, no complete answer in time, a body above the bound, or an error status.
            TooLong: the prompt does not fit the model.
            UserError: the endpoint refuses the key, the quota is exhausted, or it does not know the model.
        """
        client = self._idle.pop() if self._idle else self._open()
        healthy = False
        try:
            async with asyncio.timeout(timeout):
                response = await client.post(path, cast_to=httpx2.Response, body=body)
            healthy = True
            return _without_key(self._endpoint, response.content)
        except APIStatusError as error:
            healthy = True
            failure = _status_failure(self._endpoint, error)
        except (OpenAIError, httpx2.HTTPError, ssl.SSLError, _BodyRefused) as error:
            failure = _transport_failure(self._endpoint, error)
        except TimeoutError:
            failure = LLMFault("LLM_UNAVAILABLE", f"no complete reply within {timeout:g} s")
        finally:
            if healthy:
                self._idle.append(client)
            else:  # after a cancelled or broken exchange, nothing is known about the connection
                self._discard(client)
        # Outside the handlers, so that no request or header hangs on the error as its context.
        raise failure

    async def aclose(self) -> None:
        """Close every connection."""
        for client in self._idle:
            self._discard(client)
        self._idle.clear()
        while self._closing:
            await asyncio.gather(*self._closing)

    def _open(self) -> AsyncOpenAI:
        key = self._endpoint.api_key
        http_client = DefaultAsyncHttpxClient(
            verify=self._tls,
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30.0),
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),  # the total is bounded by `post`
            trust_env=not self._endpoint.is_loopback,  # proxies are for other machines
            follow_redirects=False,
            event_hooks={"response": [self._bound_body]},
        )
        return AsyncOpenAI(
            base_url=self._endpoint.base_url,
            api_key=key.get_secret_value() if key else "no-key-needed",
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            http_client=http_client,
            default_headers={"Accept-Encoding": "identity"},  # a small compressed body can unfold into any size
        )

    def _discard(self, client: AsyncOpenAI) -> None:
        task = asyncio.get_running_loop().create_task(client.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _bound_body(self, response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _BodyRefused("a compressed body, though none was asked for")
        if not isinstance(response.stream, httpx2.AsyncByteStream):
            raise TypeError(f"an async client handed on a {type(response.stream).__name__}")
        response.stream = _BoundedStream(response.stream, self._max_body_bytes)


class _BodyRefused(Exception):
    """A body that is not read to its end."""


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in self._stream:
            received += len(chunk)
            if received > self._max_bytes:
                raise _BodyRefused(f"a body above {self._max_bytes} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _status_failure(endpoint: Endpoint, error: APIStatusError) -> LLMFault | UserError:
    status = error.status_code
    where = f"{endpoint.name} at {endpoint.address}"
    file = endpoint.path or "the endpoints' file"
    said = _excerpt(endpoint, error.message)
    if status in (401, 403):
        source = f"the environment variable {endpoint.key_variable}" if endpoint.key_variable else f"api_key in {file}"
        return UserError(f"{where} refused the key ({status}); check {source}")
    if status == 402 or error.code in _QUOTA_CODES or error.type in _QUOTA_CODES:
        return UserError(f"{where}: the account's quota is exhausted ({status}); add credit, or name another endpoint")
    if status == 404:
        return UserError(
            f"{where}: model {endpoint.model_name!r} or the address is unknown ({said}); correct it in {file}"
        )
    if status in (400, 413, 422) and (error.code == _TOO_LONG_CODE or _TOO_LONG.search(error.message)):
        return TooLong(f"the prompt is too long: {said}")
    if status == 429:
        return LLMFault("RATE_LIMITED", f"rate limit: {said}", retry_after=_retry_after(error.response.headers))
    return LLMFault(
        "LLM_UNAVAILABLE",
        f"HTTP {status} {_phrase(status)}: {said}",
        retriable=status >= 500 or status in (408, 409, 425),
        retry_after=_retry_after(error.response.headers),
    )


def _transport_failure(endpoint: Endpoint, error: Exception) -> LLMFault:
    cause = error.__cause__ or error
    detail = _excerpt(endpoint, str(cause)) or type(cause).__name__
    if isinstance(error, _BodyRefused):
        return LLMFault("LLM_UNAVAILABLE", f"refused {detail}")
    unreachable = isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout))
    what = "cannot be reached" if unreachable else "the connection broke"
    retriable = isinstance(error, (APIConnectionError, httpx2.HTTPError))
    return LLMFault("LLM_UNAVAILABLE", f"{what} ({detail})", retriable=retriable, unreachable=unreachable)


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Return the seconds of `retry-after-ms` or `Retry-After` (RFC 9110 §10.2.3: seconds or a date), None without."""
    milliseconds = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d{1,9}(\.\d+)?", milliseconds):
        return float(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    date = email.utils.parsedate_tz(value)
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None


def _excerpt(endpoint: Endpoint, text: str) -> str:
    """Return the server's words on one short line, without any part of the key or anything that looks like a key."""
    text = " ".join(text.split())[:2000]
    key = endpoint.api_key.get_secret_value() if endpoint.api_key else ""
    if len(key) >= _SHORTEST_KEY:
        parts = {key[start : start + _KEY_PART] for start in range(max(1, len(key) - _KEY_PART + 1))}
        found = {place + i for part in parts for place in _places(part, text) for i in range(len(part))}
        marked = "".join("\0" if place in found else letter for place, letter in enumerate(text))
        text = re.sub("\0+", "[key]", marked)
    return re.sub(r"\b(sk|pk|key)-[\w*-]{6,}", "[key]", text)[:200]


def _places(part: str, text: str) -> list[int]:
    return [match.start() for match in re.finditer(f"(?={re.escape(part)})", text)]


def _without_key(endpoint: Endpoint, body: bytes) -> bytes:
    """Return a reply's body, in which some gateways repeat the request's headers, without the key."""
    key = endpoint.api_key.get_secret_value().encode() if endpoint.api_key else b""
    return body.replace(key, b"[key]") if len(key) >= _SHORTEST_KEY else body


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown status"
