"""What the HTTP server costs over the engine, and what its clients wait: 200 at once, of unequal lengths.

    python scripts/bench_server.py [--shape small | --model DIR] [--clients 200] [--requests 2] [--slots 64]

Each client is the `openai` client on an event loop of this process: it streams one completion after the other. The
server is the command `python -m aflow_jax.serve` in a process of its own, and the engine alone is given the same
requests, all at once, in another. Both have done all of it once before, so that nothing compiles while it is timed.
On a machine of few cores the clients take their share of the processor, which the engine alone has to itself.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import openai
from benchmarking import SHAPES, Worker, machine, read_shape

from aflow_jax.memory import keep_freed_memory
from aflow_jax.qwen2 import Qwen2Config, create_checkpoint, load_pretrained, load_tokenizer
from aflow_jax.sampling import Engine, Request, SamplingParams, seed_words

PACKAGES = ("jax", "flax", "starlette", "uvicorn", "openai")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One request: its prompt, its number of new tokens, its seed."""

    prompt: tuple[int, ...]
    tokens: int
    seed: int


@dataclasses.dataclass
class Served:
    """What a client saw of one request, in seconds from its start, and the tokens that it got."""

    first: float
    whole: float
    tokens: int


class EngineAlone:
    """The engine in a process of its own."""

    def __init__(self, folder: Path, slots: int, dtype: str, longest: int) -> None:
        keep_freed_memory()
        model = load_pretrained(folder, dtype=dtype)
        self.engine = Engine(model, load_tokenizer(folder), slots=slots, prompt_max_length=longest)

    def seconds(self, wanted: list[Wanted]) -> tuple[float, int]:
        """Sample everything; return the seconds and the tokens."""
        scheduler, tokens, start = self.engine.scheduler(), 0, time.perf_counter()
        for one in wanted:
            request = Request(prompt_tokens=one.prompt, seeds=((*seed_words(one.seed), 0),))
            scheduler.submit(request, SamplingParams(max_new_tokens=one.tokens))
        while not scheduler.idle:
            tokens += sum(len(progress.tokens) for progress in scheduler.step())
        return time.perf_counter() - start, tokens


def main() -> None:
    """Run both sides and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=read_shape, default=SHAPES["small"], help="random weights of this shape")
    parser.add_argument("--model", type=Path, help="a model folder, in place of random weights")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=2, help="of each client, one after the other")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompt", type=int, nargs=2, default=(16, 128), metavar=("LEAST", "MOST"), help="tokens")
    parser.add_argument("--new", type=int, nargs=2, default=(16, 128), metavar=("LEAST", "MOST"), help="tokens")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model or create(options.shape, Path(temporary) / "model")
        print(machine(PACKAGES))
        measure(options, folder)


def create(shape: Qwen2Config, folder: Path) -> Path:
    """Write random weights of a shape with a tokenizer."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    values = {name: getattr(shape, name) for name in (*sizes, "vocab_size")}
    create_checkpoint(folder, texts=["the quick brown fox jumps over the lazy dog"], seed=0, **values)
    return folder


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Time the engine alone, then the server, on the same requests."""
    generator = random.Random(0)
    wanted = [
        Wanted(tuple(generator.choices(range(256), k=generator.randint(*options.prompt))), tokens, seed)
        for seed in range(options.clients * options.requests)
        for tokens in (generator.randint(*options.new),)
    ]
    longest = options.prompt[1] + options.new[1]
    alone = Worker(EngineAlone, folder, options.slots, options.dtype, longest)
    alone.call("seconds", wanted)
    seconds, tokens = alone.call("seconds", wanted)
    alone.close()
    print(f"engine alone  {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s")
    command = [sys.executable, "-m", "aflow_jax.serve", "--model", str(folder), "--served-name", "model", "--port", "0"]
    command += ["--slots", str(options.slots), "--max-queue", str(options.clients), "--dtype", options.dtype]
    server = subprocess.Popen([*command, "--max-model-len", str(longest)], stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        asyncio.run(load(address, wanted, options.clients))
        served, wall = asyncio.run(load(address, wanted, options.clients))
    finally:
        server.terminate()
        code = server.wait()
    print_served(served, wall, tokens / seconds)
    print(f"server ended with exit code {code} after SIGTERM")


async def load(address: str, wanted: list[Wanted], clients: int) -> tuple[list[Served], float]:
    """Let the clients ask for everything; return what each request saw, and the seconds for all."""
    http = openai.DefaultAsyncHttpxClient(limits=openai.DEFAULT_CONNECTION_LIMITS, timeout=600)
    async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0, http_client=http) as client:
        start = time.perf_counter()
        rows = await asyncio.gather(*(one_client(client, wanted[at::clients]) for at in range(clients)))
        return [served for row in rows for served in row], time.perf_counter() - start


async def one_client(client: openai.AsyncOpenAI, wanted: list[Wanted]) -> list[Served]:
    served = []
    for one in wanted:
        start, first = time.perf_counter(), None
        stream = await client.completions.create(
            model="model", prompt=list(one.prompt), max_tokens=one.tokens, seed=one.seed, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        async for event in stream:
            first = first or time.perf_counter() - start
            usage = event.usage
        served.append(Served(first, time.perf_counter() - start, usage.completion_tokens))
    return served


def print_served(served: list[Served], wall: float, engine_rate: float) -> None:
    """Print the server's rate, beside the engine's, and the percentiles of what clients waited."""
    tokens = sum(one.tokens for one in served)
    rate = tokens / wall
    print(f"server        {tokens:,} tokens in {wall:.1f} s: {rate:,.0f} tokens/s, {rate / engine_rate:.0%} of it")
    for name, values in (
        ("to the first token", [one.first for one in served]),
        ("to the last token", [one.whole for one in served]),
    ):
        shares = np.percentile(values, (50, 95, 99, 100))
        print(
            f"  {name:<19} p50 {shares[0]:.2f} s, p95 {shares[1]:.2f} s, p99 {shares[2]:.2f} s, most {shares[3]:.2f} s"
        )


if __name__ == "__main__":
    main()
