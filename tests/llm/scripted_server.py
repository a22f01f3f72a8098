"""A small HTTP server whose answers a test writes byte by byte."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

from aflow_jax.llm import Endpoint


def completion(text: str = "<answer>4</answer>", **changes: object) -> bytes:
    """Return a chat completion's body."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage, **changes}).encode()


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """Return a whole HTTP response."""
    fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


class Script:
    """What the server saw: the bodies, the headers, and the most requests that were in flight at once."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.headers: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0


@asynccontextmanager
async def scripted_server(answer: Callable[[int], Awaitable[bytes]]):
    """Serve `answer(number of the request)`; gives the endpoint and the script."""
    script = Script()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                script.headers.append(head.decode())
                script.bodies.append(json.loads(await reader.readexactly(length)))
                script.in_flight += 1
                script.most_in_flight = max(script.most_in_flight, script.in_flight)
                response = await answer(len(script.bodies) - 1)
                script.in_flight -= 1
                writer.write(response)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield (
            Endpoint(name="scripted", base_url=f"http://127.0.0.1:{port}/v1", model_name="m", path="file.yaml"),
            script,
        )
    finally:
        server.close()
