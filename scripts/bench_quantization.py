"""What weight-only quantisation costs: in quality against float32, and in time and memory against 16 or 32 bit.

    python scripts/bench_quantization.py quality [--text data/synthetic_train.jsonl …]
    python scripts/bench_quantization.py speed [--shape small] [--rows 4] [--length 128]
    python scripts/bench_quantization.py --device cuda speed --shape 7B --rows 10 --length 2048 --dtype bfloat16

quality: a small model is trained on text by the project's own supervised learner, through an adapter of full rank that
is then merged into the weights. Its projections are quantised by this project, and by bitsandbytes where that is
installed: row-wise int8 as in LLM.int8, and NF4 with double quantisation as in QLoRA. Each is measured on held-out
text against the float32 model: relative error of the logits, divergence of the next token's distribution, and change
of the perplexity.

speed: a random model of a shape, with each kind of weights: bytes of its parameters, and time of one product of the
largest matrix, of the forward pass, and of a decode step.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarking import alternate, machine, read_shape

from aflow_jax.grpo import Learner, LearnerSettings
from aflow_jax.qwen2 import (
    TARGETS,
    Qwen2,
    create_checkpoint,
    decode_step,
    empty_cache,
    export_merged,
    init_adapter,
    init_random,
    load_pretrained,
    load_tokenizer,
)
from aflow_jax.qwen2.matmul import matmul
from aflow_jax.qwen2.quantize import QUANTIZATIONS

DEFAULT_TEXT = Path(__file__).parent.parent / "data" / "synthetic_train.jsonl"


def main() -> None:
    options = parse_options()
    if options.device:
        jax.config.update("jax_platforms", options.device)
    print(f"{jax.local_devices()[0].device_kind}; {machine(('jax', 'numpy', 'bitsandbytes', 'torch'))}")
    (quality if options.what == "quality" else speed)(options)


def quality(options: argparse.Namespace) -> None:
    """Train, quantise in every way, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = train(options, Path(folder))
        trained = Path(folder) / "trained"
        exact = load_pretrained(trained, "float32")
        figures = {"float32": evaluate(exact, exact, rows)}
        for kind in QUANTIZATIONS:
            figures[f"{kind}, ours"] = evaluate(exact, load_pretrained(trained, "float32", kind), rows)
            if (reference := bitsandbytes_model(exact, kind)) is not None:
                figures[f"{kind}, bitsandbytes"] = evaluate(exact, reference, rows)
    print("| weights | perplexity | change | relative logit error | divergence, nats |\n|---|---|---|---|---|")
    perplexity = figures["float32"][0]
    for name, (found, error, divergence) in figures.items():
        print(f"| {name} | {found:.3f} | {found / perplexity - 1:+.3%} | {error:.5f} | {divergence:.2e} |")


def train(options: argparse.Namespace, folder: Path) -> np.ndarray:
    """Write the trained model to `folder`/trained; return the held-out text [N, T] in its tokens."""
    texts = read_texts(options.text)
    random.Random(0).shuffle(texts)
    held = len(texts) // 10
    create_checkpoint(
        folder / "start",
        texts=texts[held:],
        seed=0,
        hidden_size=options.width,
        intermediate_size=3 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        num_key_value_heads=options.width // 64,
        vocab_size=options.vocabulary,
    )
    tokenizer, model = load_tokenizer(folder / "start"), load_pretrained(folder / "start", "float32")

    def rows(texts: list[str]) -> np.ndarray:
        tokens = [token for text in texts for token in (*tokenizer.encode_text(text), tokenizer.eos_token_ids[0])]
        count = len(tokens) // options.length
        return np.array(tokens[: count * options.length], np.int32).reshape(count, -1)

    settings = LearnerSettings(
        learning_rate=options.learning_rate,
        max_steps=options.steps,
        warmup_steps=options.steps // 20,
        weight_decay=0.0,
        microbatch_size=options.batch,
        remat="none",
    )
    adapter = init_adapter(model.config, options.width, options.width, TARGETS, jax.random.key(0))
    learner = Learner(model, adapter, settings)
    training = rows(texts[held:])
    for step, batch in zip(range(options.steps), batches(training, options.batch), strict=False):
        learned = np.broadcast_to(np.arange(options.length) > 0, batch.shape)
        metrics = learner.supervised_update(batch, np.full(len(batch), options.length), learned)
        if step % (options.steps // 10 or 1) == 0:
            print(f"step {step}: loss {metrics['loss']:.3f}", flush=True)
    export_merged(folder / "start", learner.adapter, folder / "trained")
    evaluated = rows(texts[:held])[: options.evaluated]
    print(
        f"width {options.width}, {options.layers} layers, {options.steps} steps of {options.batch} x {options.length} "
        f"of {training.size} tokens; {evaluated.size} held-out tokens"
    )
    return evaluated


def batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Draw batches for ever, each pass in another order."""
    generator = np.random.default_rng(0)
    while True:
        order = generator.permutation(len(rows))
        yield from (rows[order[at : at + size]] for at in range(0, len(rows) - size + 1, size))


def read_texts(paths: list[Path]) -> list[str]:
    """Return context, question and answer of each line, as far as it has them."""
    # Not splitlines, which cuts at separators that a text may hold.
    lines = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").strip().split("\n")]
    keys = ("context", "question", "problem", "prompt", "answer", "solution")
    return ["\n".join(str(line[key]) for key in keys if line.get(key)) for line in lines]


def evaluate(exact: Qwen2, model: Qwen2, rows: np.ndarray, batch: int = 8) -> tuple[float, float, float]:
    """Return perplexity, relative error of the logits, and mean divergence from the exact distribution."""
    sums = np.zeros(4)
    for at in range(0, len(rows), batch):
        sums += np.array(_sums(exact, model, rows[at : at + batch]), np.float64)
    loss, error, size, divergence = sums
    count = rows[:, 1:].size
    return math.exp(loss / count), math.sqrt(error / size), divergence / count


@jax.jit
def _sums(exact: Qwen2, model: Qwen2, rows: jax.Array) -> tuple[jax.Array, ...]:
    logits, expected = model.logits(rows)[:, :-1], exact.logits(rows)[:, :-1]
    found, right = jax.nn.log_softmax(logits), jax.nn.log_softmax(expected)
    loss = -jnp.take_along_axis(found, rows[:, 1:, None], axis=-1).sum()
    divergence = (jnp.exp(right) * (right - found)).sum()
    return loss, jnp.square(logits - expected).sum(), jnp.square(expected).sum(), divergence


def bitsandbytes_model(model: Qwen2, kind: str) -> Qwen2 | None:
    """Return the model with its projections through bitsandbytes and back; None where that is not installed."""
    try:
        import torch
        from bitsandbytes import functional
    except ImportError:
        return None

    def through(matrix: np.ndarray) -> np.ndarray:
        weight = torch.tensor(matrix)
        if kind == "nf4":
            codes, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=64, compress_statistics=True)
            return functional.dequantize_4bit(codes, state).numpy()
        codes, largest, _ = functional.int8_vectorwise_quant(weight)
        return (codes.float() * largest[:, None] / 127).numpy()

    layers = {
        name: np.stack([through(matrix) for matrix in np.asarray(stack)]) if name in TARGETS else stack
        for name, stack in model.layer_weights().items()
    }
    return Qwen2(
        model.config,
        embedding=model.embedding.get_value(),
        layers={name: jnp.asarray(stack) for name, stack in layers.items()},
        final_norm=model.final_norm.get_value(),
        lm_head=None if model.lm_head is None else model.lm_head.get_value(),
    )


def speed(options: argparse.Namespace) -> None:
    """Time each kind of weights, one kind in memory at a time, and print a table."""
    print(
        f"{options.rows} rows of {options.length} tokens; decoding {options.decoded} rows with {options.cache} places, "
        f"{options.dtype}\n| weights | parameters, GB | product | forward | decode step |\n|---|---|---|---|---|"
    )
    base: dict[str, float] = {}
    for kind in (None, *QUANTIZATIONS):
        before = bytes_in_use()
        model = jax.block_until_ready(init_random(options.shape, jax.random.key(0), jnp.dtype(options.dtype), kind))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(model)) / 1e9
        measured = "" if before is None else f", {(bytes_in_use() - before) / 1e9:.2f} measured"
        medians = alternate(works(options, model), options.repetitions)
        base = base or medians
        shown = " | ".join(f"{1e3 * value:.2f} ms, {value / base[name]:.2f} x" for name, value in medians.items())
        print(f"| {kind or options.dtype} | {size:.2f}{measured} | {shown} |", flush=True)
        del model


def works(options: argparse.Namespace, model: Qwen2) -> dict[str, Callable[[], float]]:
    """Return what is timed, compiled: each returns its seconds."""
    config, generator = options.shape, np.random.default_rng(0)
    tokens = generator.integers(0, config.vocab_size, (options.rows, options.length), np.int32)
    matrix = jax.tree.map(lambda stack: stack[0], model.layer_weights()["gate_proj"])
    inputs = jnp.ones((options.rows * options.length, config.hidden_size), options.dtype)
    first = jnp.asarray(tokens.reshape(-1)[: options.decoded])
    cache = empty_cache(config, options.decoded, options.cache, model.dtype)

    def decode(model: Qwen2, tokens: jax.Array, cache: Any) -> jax.Array:
        weights = model.unstacked(None)

        def step(at: jax.Array, state: tuple) -> tuple:
            hidden, cache = decode_step(weights, state[0], jnp.full_like(tokens, at), state[1])
            return jnp.argmax(weights.unembed(hidden), axis=-1).astype(jnp.int32), cache

        return jax.lax.fori_loop(0, options.cache, step, (tokens, cache))[0]

    return {
        "product": timed(matmul, inputs, matrix),
        "forward": timed(lambda model, tokens: model.hidden(tokens), model, tokens),
        "decode step": timed(decode, model, first, cache, count=options.cache),
    }


def timed(work: Callable[..., jax.Array], *arguments: Any, count: int = 1) -> Callable[[], float]:
    """Compile; return what runs it and returns its seconds, divided by `count`."""
    program = jax.jit(work)
    program(*arguments).block_until_ready()

    def run() -> float:
        start = time.perf_counter()
        program(*arguments).block_until_ready()
        return (time.perf_counter() - start) / count

    return run


def bytes_in_use() -> int | None:
    """Return the bytes that the device holds; None where it does not say."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats["bytes_in_use"]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu or cuda; default: JAX's own choice")
    commands = parser.add_subparsers(dest="what", required=True)
    command = commands.add_parser("quality")
    command.add_argument("--text", type=Path, nargs="+", default=[DEFAULT_TEXT], help="JSONL of problems")
    command.add_argument("--width", type=int, default=256, help="a multiple of 64")
    command.add_argument("--layers", type=int, default=4)
    command.add_argument("--vocabulary", type=int, default=4096)
    command.add_argument("--steps", type=int, default=300)
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--length", type=int, default=128)
    command.add_argument("--learning-rate", type=float, default=2e-3)
    command.add_argument("--evaluated", type=int, default=256, help="rows of held-out text, at most")
    command = commands.add_parser("speed")
    command.add_argument("--shape", type=read_shape, default="small", help="tiny, small, 0.5B, 7B, or a model's folder")
    command.add_argument("--rows", type=int, default=4)
    command.add_argument("--length", type=int, default=128)
    command.add_argument("--decoded", type=int, default=8, help="rows of a decode step")
    command.add_argument("--cache", type=int, default=32, help="places of the cache, and steps that are timed")
    command.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    command.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
