"""Serve a model over HTTP, in OpenAI's protocol: python -m aflow_jax.serve --model DIR|NAME [--adapter [NAME=]PATH …]

Exit codes: 0 stopped by SIGTERM or Ctrl-C, with all that was asked for before finished; 1 the sampling engine failed;
2 a mistake that the user can mend.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import socket
import sys
from pathlib import Path
from types import FrameType

from aflow_jax.commands import add_which, exit_code
from aflow_jax.errors import UserError


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aflow_jax.serve",
        description="Serve a Qwen2.5 model and its adapters over HTTP, in OpenAI's protocol.",
        epilog="example: python -m aflow_jax.serve --model Qwen/Qwen2.5-7B-Instruct --adapter policy=runs/training",
    )
    parser.add_argument("--model", required=True, metavar="DIR|NAME", help="model folder, or Hugging Face name")
    parser.add_argument("--served-name", metavar="NAME", help="what clients call it (default: as given, or the folder)")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="[NAME=]PATH",
        help="an adapter to serve beside it: a run, a checkpoints/step_N folder or a PEFT folder; may be repeated",
    )  # fmt: skip
    add_which(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--api-key-env", metavar="VARIABLE", help="environment variable with the key to demand")
    parser.add_argument(
        "--slots", type=_positive, default=64, help="completions that decode together (default: %(default)s)"
    )
    parser.add_argument(
        "--max-queue", type=_positive, default=256, help="completions that wait beyond them (default: %(default)s)"
    )
    parser.add_argument("--max-model-len", type=_positive, metavar="TOKENS", help="prompt and completion together")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--quantization", choices=("int8", "nf4"), help="weight-only quantisation")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    _options(None)  # --help and mistakes are answered before the imports below, which take seconds

import uvicorn

from aflow_jax.memory import keep_freed_memory
from aflow_jax.qwen2 import Adapter, Qwen2, load_peft, load_pretrained, load_tokenizer, resolve_model
from aflow_jax.sampling import Driver, Engine
from aflow_jax.serving import ServerSettings, create_app
from aflow_jax.trained import load_trained_adapter

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75
# For clients to read the end of their replies, once the last token is drawn.
_GRACE_SECONDS = 30
# Longer contexts are possible, but their cache is memory that a user should decide on.
_DEFAULT_MODEL_LEN = 8192


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; return the exit code."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    api_key = _api_key(options.api_key_env)
    with _listen(options.host, options.port, api_key) as listener:
        return _serve(options, api_key, listener)


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(f"--api-key-env: {variable} holds no key in the environment; run: export {variable}=<your key>")
    return key


def _listen(host: str, port: int, api_key: str | None) -> socket.socket:
    """Open the port: before the model loads, so that a port in use costs nothing."""
    if api_key is None and not _is_loopback(host):
        raise UserError(
            f"--host {host}: other machines could use the model: set a key with --api-key-env VARIABLE, or listen on "
            "127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error}); name another port") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(options: argparse.Namespace, api_key: str | None, listener: socket.socket) -> int:
    keep_freed_memory()
    folder = resolve_model(options.model)
    model = load_pretrained(folder, dtype=options.dtype, quantization=options.quantization)
    tokenizer = load_tokenizer(folder)
    max_model_len = _max_model_len(options.max_model_len, model)
    settings = ServerSettings(
        adapters=_adapters(options, folder, model),
        tokenizer=tokenizer,
        vocab_size=model.config.vocab_size,
        max_model_len=max_model_len,
        api_key=api_key,
    )
    engine = Engine(model, tokenizer, slots=options.slots, prompt_max_length=max_model_len)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    with Driver(engine, max_waiting=options.max_queue) as driver:
        server = _Server(uvicorn.Config(
            create_app(driver, settings), log_level="warning", access_log=False, lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        ), driver, f"serving {', '.join(settings.adapters)} at {address}")  # fmt: skip
        asyncio.run(server.serve(sockets=[listener]))
        if driver.failure is not None:
            print(f"error: the sampling engine failed: {driver.failure!r}", file=sys.stderr)
            return 1
    return 0


def _max_model_len(wanted: int | None, model: Qwen2) -> int:
    known = model.config.max_position_embeddings
    if wanted is not None and wanted > known:
        raise UserError(f"--max-model-len {wanted}: the model knows {known} positions; give at most that")
    return min(known, _DEFAULT_MODEL_LEN) if wanted is None else wanted


def _adapters(options: argparse.Namespace, folder: Path, model: Qwen2) -> dict[str, Adapter | None]:
    """Return what is served, by name: the base first."""
    base = options.served_name or (folder.resolve().name if Path(options.model).is_dir() else options.model)
    adapters: dict[str, Adapter | None] = {base: None}
    for text in options.adapter:
        name, equals, path = text.partition("=")
        if not equals or os.sep in name:  # a path may hold an equals sign too
            name, path = "", text
        name = name or Path(path).resolve().name
        if name in adapters:
            raise UserError(f"--adapter {text}: the name {name!r} is taken; give another one, as in other={path}")
        adapters[name] = _load_adapter(Path(path), folder, model, options.which)
    return adapters


def _load_adapter(path: Path, folder: Path, model: Qwen2, which: str) -> Adapter:
    if (path / "adapter_config.json").is_file():
        return load_peft(path, model.config)
    return load_trained_adapter(path, base=str(folder), which=which, say=_say).adapter


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Server(uvicorn.Server):
    """A server that, on the first signal, finishes what it has begun and answers 503 to the rest, and then ends."""

    def __init__(self, config: uvicorn.Config, driver: Driver, greeting: str) -> None:
        super().__init__(config)
        self._driver = driver
        self._greeting = greeting
        self._drain: asyncio.Task[None] | None = None
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so: whoever reads it may send a signal at once, and finds it handled."""
        await super().startup(sockets)
        print(self._greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the first one drains, the second one ends at once."""
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end; asked ten times a second."""
        if self._signals and self._drain is None:
            self._drain = asyncio.create_task(self._driver.drain())
        drained = self._drain is not None and self._drain.done()
        return await super().on_tick(counter) or drained or self._driver.failure is not None


if __name__ == "__main__":
    sys.exit(main())
