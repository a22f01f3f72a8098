"""A server on a real port, for the real clients of the tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
import uvicorn

from aflow_jax.sampling import Driver
from aflow_jax.serving import ServerSettings, create_app

KEY = "sk-test-key-of-this-server"


@dataclass(frozen=True)
class Served:
    """A running server."""

    base_url: str
    driver: Driver
    settings: ServerSettings

    def client(self, **settings: Any) -> openai.OpenAI:
        """Return a client that does not retry."""
        return openai.OpenAI(base_url=self.base_url, **{"api_key": "none", "max_retries": 0, **settings})

    def async_client(self, **settings: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.base_url, **{"api_key": "none", "max_retries": 0, **settings})


@contextmanager
def serving(driver: Driver, settings: ServerSettings) -> Iterator[Served]:
    """Serve on a free port from a thread, until the end of the block."""
    config = uvicorn.Config(create_app(driver, settings), port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}/v1", driver, settings)
    finally:
        server.should_exit = True
        thread.join()
