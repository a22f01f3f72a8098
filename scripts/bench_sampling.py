"""Sampling against transformers and Tunix, and against the memory bandwidth.

    python scripts/bench_sampling.py [--shape small|0.5B] --tunix-python PATH
    python scripts/bench_sampling.py --peers none --shape 7B --dtype bfloat16 --prompts 5 --samples 2
    python scripts/bench_sampling.py --peers none --shape 7B --dtype bfloat16 --prompts 32 --samples 2

Each side lives in a process of its own, loads the same random checkpoint, and draws all tokens at temperature 1 without
filters or end tokens; the sides take turns. Two loads: prompts of one length with several samples of each, and ragged,
one sample each of prompts from 16 to 512 tokens. The peers get padded prompts, each repeated for its samples.

A decode step's time is that of a whole run less that of a run of one token, by the tokens between, and the prefill's
that of a run of one token less a step. A step's limit is the
weights and the cache that it must read, at the bandwidth of reading a large array with all cores (CPU), or of
summing one (elsewhere). KV memory is the cache allocated over what prompts and new tokens need, at its peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import threading
import time
from typing import Any

import numpy as np
from benchmarking import JsonProcess, Worker, alternate, cores, jax_rate, machine, read_shape, require_tokens

Prompts = list[list[int]]

# Tokens of the shortest and the longest prompt of the ragged load.
RAGGED = 16, 512


class PlainTokenizer:
    """What the engine asks of a tokenizer, without text: the peers make none either."""

    eos_token_ids = ()

    def decode(self, tokens: list[int]) -> str:
        return ""


class Ours:
    """This project's engine."""

    def __init__(self, config: Any, folder: str | None, dtype: str, slots: int, samples: int, longest: int) -> None:
        import jax

        from aflow_jax.memory import keep_freed_memory
        from aflow_jax.qwen2 import init_random, load_pretrained
        from aflow_jax.sampling import Engine

        keep_freed_memory()
        model = load_pretrained(folder, dtype) if folder else init_random(config, jax.random.key(0), dtype)
        self._model = model
        self._cache_tokens = (0, 0)
        self._engine = Engine(model, PlainTokenizer(), slots=slots, prompt_max_length=longest, prompt_readers=samples)

    def seconds(self, prompts: Prompts, samples: int, new_tokens: int) -> float:
        """Return how long all completions take."""
        from aflow_jax.sampling import Request, SamplingParams

        requests = [
            Request(prompt_tokens=tuple(prompt), seeds=tuple((at, sample) for sample in range(samples)))
            for at, prompt in enumerate(prompts)
        ]
        params = SamplingParams(max_new_tokens=new_tokens, stop_token_ids=())
        start, count = time.perf_counter(), 0
        scheduler = self._engine.scheduler()
        for request in requests:
            scheduler.submit(request, params)
        while not scheduler.idle:
            count += sum(len(progress.tokens) for progress in scheduler.step())
            if not scheduler.idle:
                self._cache_tokens = max(self._cache_tokens, scheduler.cache_tokens, key=lambda tokens: tokens[1])
        seconds = time.perf_counter() - start
        require_tokens(count, len(prompts) * samples * new_tokens)
        return seconds

    def cache_ratio(self) -> float:
        """Return the cache allocated over the cache needed since the last call, when most was needed."""
        (allocated, needed), self._cache_tokens = self._cache_tokens, (0, 0)
        return allocated / needed

    def bytes_per_step(self, length: int, rows: int) -> float:
        """Return the bytes of weights and cache that a decode step of so many rows must read."""
        import jax

        layers = sum(leaf.nbytes for leaf in jax.tree.leaves(self._model.layer_weights()))
        config, width = self._model.config, self._model.dtype.itemsize
        cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width
        return layers + self._model.output_weight().nbytes + rows * length * cached

    def bandwidth(self) -> float:
        """Return bytes/s of reading a large array, the best of several."""
        import jax
        import jax.numpy as jnp

        if jax.default_backend() == "cpu":
            return _host_bandwidth()
        array = jnp.ones(2**31, jnp.float32)  # large enough that starting the program does not count
        total = jax.jit(jnp.sum)
        return array.nbytes / _best(lambda: total(array).block_until_ready())

    def matrix_rate(self, dtype: str) -> float:
        """Return FLOP/s of a large square product."""
        return jax_rate(dtype)

    def device(self) -> str:
        import jax

        return jax.local_devices()[0].device_kind


class Transformers:
    """transformers' generate: sdpa attention, all threads, padded on the left, the quicker of its two caches."""

    def __init__(self, folder: str, dtype: str, caches: tuple[str, ...]) -> None:
        import torch
        from transformers import Qwen2ForCausalLM

        torch.set_num_threads(cores())
        self._torch, self._device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        model = Qwen2ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        self._model = model.to(self._device)
        self._caches = caches
        self._quicker: dict[tuple[int, int], str] = {}

    def seconds(self, prompts: Prompts, samples: int, new_tokens: int) -> float:
        """Return how long all completions take, with the cache that was quicker in the first run."""
        rows = [prompt for prompt in prompts for _ in range(samples)]
        shape = (len(rows), max(map(len, rows)))
        if shape not in self._quicker:
            tried = {kind: self._run(rows, new_tokens, kind) for kind in self._caches}
            self._quicker[shape] = min(tried, key=tried.get)
            return min(tried.values())
        return self._run(rows, new_tokens, self._quicker[shape])

    def _run(self, rows: Prompts, new_tokens: int, cache: str) -> float:
        longest = max(map(len, rows))
        padded = self._torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=self._device)
        mask = self._torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self._device)
        start = time.perf_counter()
        with self._torch.inference_mode():
            output = self._model.generate(
                padded,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=new_tokens,
                eos_token_id=None,
                pad_token_id=0,
                cache_implementation=cache,
            )
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        require_tokens(output[:, longest:].numel(), len(rows) * new_tokens)
        return seconds


class Tunix:
    """Tunix's vanilla sampler, in an environment of its own."""

    def __init__(self, python: str, folder: str) -> None:
        self._process = JsonProcess(python, "tunix_sampler.py", folder)
        self.versions = self._process.versions

    def seconds(self, prompts: Prompts, samples: int, new_tokens: int) -> float:
        """Return how long all completions take."""
        rows = [prompt for prompt in prompts for _ in range(samples)]
        answer = self._process.ask(prompts=rows, new_tokens=new_tokens)
        require_tokens(answer["tokens"], len(rows) * new_tokens)
        return answer["seconds"]


def main() -> None:
    """Run both loads and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=read_shape, default="small", help="small, 0.5B, 7B, or a folder of config.json")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--length", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--ragged", type=int, default=32, help="prompts of the ragged load; 0: none")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--peers", choices=["all", "none"], default="all")
    parser.add_argument("--caches", nargs="+", default=["dynamic", "static"], help="those that transformers tries")
    parser.add_argument("--folder", help="where the checkpoint is written and removed again; default: the system's")
    parser.add_argument("--tunix-python", help="of an environment with google-tunix; without it Tunix is left out")
    options = parser.parse_args()
    config = dataclasses.replace(options.shape, tie_word_embeddings=options.shape.hidden_size < 2048)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        peers = options.peers != "none"
        slots = max(options.prompts * options.samples, options.ragged)
        longest = max(options.length, max(RAGGED) if options.ragged else 0)
        if peers:
            worker = Worker(_save, config, folder, options.dtype)
            worker.close()
        # On a GPU both sides hold their models at once: ours takes half of the memory, and no more.
        half = {"XLA_CLIENT_MEM_FRACTION": "0.5"} if peers else {}
        load = slots, options.samples, longest
        ours = Worker(Ours, config, folder if peers else None, options.dtype, *load, environment=half)
        sides: dict[str, Any] = {"ours": lambda *work: ours.call("seconds", *work)}
        if peers:
            transformers = Worker(Transformers, folder, options.dtype, tuple(options.caches))
            sides["transformers"] = lambda *work: transformers.call("seconds", *work)
        if peers and options.tunix_python:
            tunix = Tunix(options.tunix_python, folder)
            print(f"Tunix's environment: {tunix.versions}")
            sides["Tunix"] = tunix.seconds
        print(machine(("jax", "jaxlib", "torch", "transformers")), f"; {ours.call('device')}; {options.dtype}")
        _report(options, config, ours, sides)


def _report(options: argparse.Namespace, config: Any, ours: Worker, sides: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)

    def prompts_of(lengths: Any) -> Prompts:
        return [generator.integers(1, config.vocab_size, int(length)).tolist() for length in lengths]

    even = prompts_of([options.length] * options.prompts)
    whole = _compare("even", even, options.samples, options, sides)
    print(f"KV memory allocated over needed: {ours.call('cache_ratio'):.2f}")
    first = min(ours.call("seconds", even, options.samples, 1) for _ in range(options.repetitions + 1))
    step = (whole - first) / (options.new_tokens - 1)
    rows = options.prompts * options.samples
    read = ours.call("bytes_per_step", options.length + options.new_tokens // 2, rows)
    bandwidth = ours.call("bandwidth")
    print(
        f"decode step of {rows} rows {step * 1e3:.2f} ms, {rows / step:.0f} tokens/s: {read / step / 1e9:.1f} GB/s of "
        f"{bandwidth / 1e9:.1f} GB/s, {read / step / bandwidth:.0%} of the limit"
    )
    rate, spent = ours.call("matrix_rate", options.dtype), _prefill_flops(config, options.prompts, options.length)
    prefill = first - step
    print(f"prefill {prefill:.3f} s, {spent / prefill / rate:.0%} of the matrix rate {rate / 1e9:.0f} GFLOP/s")
    if options.ragged:
        ours.call("cache_ratio")
        _compare("ragged", prompts_of(np.linspace(*RAGGED, options.ragged)), 1, options, sides)
        print(f"KV memory allocated over needed: {ours.call('cache_ratio'):.2f}")


def _compare(name: str, prompts: Prompts, samples: int, options: argparse.Namespace, sides: dict[str, Any]) -> float:
    """Print each side's tokens/s; return our seconds."""
    work = (prompts, samples, options.new_tokens)
    for side in sides.values():
        side(*work)
    seconds = alternate({name: lambda side=side: side(*work) for name, side in sides.items()}, options.repetitions)
    count = len(prompts) * samples * options.new_tokens
    rates = ", ".join(f"{side} {count / at:.1f}" for side, at in seconds.items())
    ratio = f"; {min(list(seconds.values())[1:]) / seconds['ours']:.2f} x the better peer" if len(seconds) > 1 else ""
    print(f"{name}: {len(prompts)} prompts x {samples}, tokens/s: {rates}{ratio}", flush=True)
    return seconds["ours"]


def _prefill_flops(config: Any, prompts: int, length: int) -> float:
    heads = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    layer = config.hidden_size * (heads + 3 * config.intermediate_size)
    attention = 2 * length * config.num_attention_heads * config.head_dim
    return prompts * length * config.num_hidden_layers * (2 * layer + attention)


class _save:
    """Make the checkpoint in a process of its own, which so holds no memory later."""

    def __init__(self, config: Any, folder: str, dtype: str) -> None:
        import jax

        from aflow_jax.qwen2 import init_random, save_pretrained

        save_pretrained(init_random(config, jax.random.key(0), jax.numpy.dtype(dtype)), folder)


def _host_bandwidth() -> float:
    arrays = [np.ones(2**26, np.float32) for _ in range(cores())]

    def read_all() -> None:
        threads = [threading.Thread(target=array.max) for array in arrays]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return sum(array.nbytes for array in arrays) / _best(read_all)


def _best(run: Any, times: int = 6) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
