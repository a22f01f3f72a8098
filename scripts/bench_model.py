"""Forward, and forward + backward of a LoRA adapter, against transformers + peft, and against the matrix rate.

    python scripts/bench_model.py [--shape small] [--rows 4] [--length 512]
    python scripts/bench_model.py --peers none --shape 7B --rows 10 --length 2048 --dtype bfloat16 --remat full \\
        --quantization none,int8,nf4

Both sides load one random checkpoint and one adapter (rank 64 on q, k, v, o), and their logits and gradients are
compared before anything is timed. The loss is the mean cross-entropy of all tokens but each row's first. The matrix
rate is the best that any of JAX, torch and numpy reaches on a large square product. With `--peers none` the model is
made on the device, and torch is not needed.

Model FLOPs count products only, a multiply-add as two, with N tokens in rows of T, W the numbers in the layers'
matrices, V·D the head's, R the adapter's, A = H·h the width of all heads, L layers:

    causal attention   = 2 · N · T · A · L           scores and sums over half of the T keys on average
    forward            = 2 · N · (W + V·D) + attention          (without V·D for hidden states)
    forward + backward = 2 · N · (2·W + 2·V·D + 3·R) + 3 · attention

The backward pass of a frozen matrix is one product, not two: that is 2/3 of the usual 6 · N · parameters.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarking import (
    Worker,
    alternate,
    cores,
    device_peak_memory,
    jax_rate,
    machine,
    numpy_rate,
    peak_memory,
    read_shape,
    square_rate,
)

from aflow_jax.grpo import token_logprobs
from aflow_jax.memory import keep_freed_memory
from aflow_jax.qwen2 import (
    Qwen2Config,
    init_adapter,
    init_random,
    load_peft,
    load_pretrained,
    parameter_count,
    save_peft,
    save_pretrained,
)
from aflow_jax.qwen2.layers import layer_shapes

TARGETS = "q_proj,k_proj,v_proj,o_proj"
RANK = 64
WORKS = ("hidden", "logits", "gradient")
LABELS = {"hidden": "forward, hidden states", "logits": "forward, logits", "gradient": "forward + backward"}


class Ours:
    """This project's model."""

    def __init__(self, config: Qwen2Config, folder: str | None, dtype: str, quantization: str | None, remat: str):
        keep_freed_memory()
        if folder is None:
            self.model, self.adapter = random_model(config, dtype, quantization)
        else:
            self.model = load_pretrained(folder, dtype, quantization)
            self.adapter = load_peft(Path(folder) / "adapter", config)

        def loss(weights: dict, model: Any, tokens: jax.Array) -> jax.Array:
            logprobs = token_logprobs(model, self.adapter.replace_weights(weights), tokens, None, remat=remat)
            return -logprobs[:, 1:].mean()

        self._programs = {
            "hidden": jax.jit(lambda weights, model, tokens: model.hidden(tokens)),
            "logits": jax.jit(lambda weights, model, tokens: model.logits(tokens)),
            "gradient": jax.jit(jax.value_and_grad(loss)),
        }

    def seconds(self, work: str, tokens: np.ndarray) -> float:
        """Return how long one run takes, until its results are there."""
        start = time.perf_counter()
        jax.block_until_ready(self._programs[work](self.adapter.weights, self.model, tokens))
        return time.perf_counter() - start

    def results(self, tokens: np.ndarray) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
        """Return logits, the loss, and its gradient by "target/a|b", stacked over layers."""
        logits = self._programs["logits"](self.adapter.weights, self.model, tokens)
        loss, slopes = self._programs["gradient"](self.adapter.weights, self.model, tokens)
        gradients = {f"{name}/{side}": np.asarray(value) for name in slopes for side, value in slopes[name].items()}
        return np.asarray(logits), float(loss), gradients

    def matrix_rate(self, size: int, dtype: str) -> float:
        """Return FLOP/s of a square product."""
        return jax_rate(dtype, [size])

    def peak_memory(self) -> float:
        return device_peak_memory()

    def device(self) -> str:
        return jax.local_devices()[0].device_kind


class Peft:
    """transformers + peft, at their best: sdpa attention, inference mode where nothing is learned."""

    def __init__(self, folder: str, dtype: str):
        import peft
        import torch
        from transformers import Qwen2ForCausalLM

        torch.set_num_threads(cores())
        self._torch, self._device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        base = Qwen2ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        self.base = base.to(self._device)
        self.model = peft.PeftModel.from_pretrained(self.base, f"{folder}/adapter", is_trainable=True)

    def seconds(self, work: str, tokens: np.ndarray) -> float:
        """Return how long one run takes, until its results are there."""
        rows = self._torch.tensor(tokens, dtype=self._torch.long, device=self._device)
        start = time.perf_counter()
        getattr(self, f"_{work}")(rows)
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        return time.perf_counter() - start

    def results(self, tokens: np.ndarray) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
        """Return the same as `Ours.results`."""
        rows = self._torch.tensor(tokens, dtype=self._torch.long, device=self._device)
        logits = self._logits(rows).float().cpu().numpy()
        loss = self._gradient(rows)
        layers: dict[str, list[np.ndarray]] = {}
        for name, weight in self.model.named_parameters():
            if weight.grad is not None:
                target, side = name.split(".")[-4], name.split(".")[-3][-1].lower()
                layers.setdefault(f"{target}/{side}", []).append(weight.grad.float().cpu().numpy().T)
        return logits, float(loss), {name: np.stack(values) for name, values in layers.items()}

    def matrix_rate(self, size: int, dtype: str) -> float:
        """Return FLOP/s of a square product."""
        matrix = self._torch.randn(size, size, dtype=getattr(self._torch, dtype), device=self._device)

        def product() -> None:
            matrix @ matrix
            if self._device == "cuda":
                self._torch.cuda.synchronize()

        return square_rate(size, product)

    def peak_memory(self) -> float:
        if self._device == "cuda":
            return self._torch.cuda.max_memory_allocated() / 1e9
        return peak_memory()

    def _hidden(self, rows: Any) -> Any:
        with self._torch.inference_mode(), self.model.disable_adapter():
            return self.base.eval().model(rows, use_cache=False).last_hidden_state

    def _logits(self, rows: Any) -> Any:
        with self._torch.inference_mode(), self.model.disable_adapter():
            return self.base.eval()(rows, use_cache=False).logits

    def _gradient(self, rows: Any) -> Any:
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        loss = self.model(rows, labels=rows, use_cache=False).loss
        loss.backward()
        return loss.detach()


def main() -> None:
    """Compare, time, and print one line for each kind of work."""
    options = parse_options()
    tokens = np.random.default_rng(0).integers(0, options.shape.vocab_size, (options.rows, options.length), np.int32)
    print(machine(("jax", "torch", "transformers", "peft", "numpy")))
    print(f"{options.rows} rows of {options.length} tokens, {options.dtype}, adapter of rank {RANK} on {TARGETS}")
    if options.peers == "none":
        for quantization in options.quantization.split(","):
            kind = None if quantization == "none" else quantization
            worker = Worker(Ours, options.shape, None, options.dtype, kind, options.remat)
            report(options, f"aflow_jax, {quantization}", {"ours": worker}, tokens)
            worker.close()
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        Worker(Writer, options.shape, folder).close()
        workers = {
            "ours": Worker(Ours, options.shape, folder, options.dtype, None, options.remat),
            "peer": Worker(Peft, folder, options.dtype),
        }
        compare(options, workers, tokens[:, : options.compared])
        report(options, "aflow_jax against transformers + peft", workers, tokens)


class Writer:
    """Writes the checkpoint and the adapter that both sides load; its process ends with its memory."""

    def __init__(self, config: Qwen2Config, folder: str):
        model, adapter = random_model(config, "float32", None)
        save_pretrained(model, folder)
        save_peft(adapter, Path(folder) / "adapter", base_model=folder)


def random_model(config: Qwen2Config, dtype: str, quantization: str | None) -> tuple[Any, Any]:
    """Return a model made on the device, and an adapter whose both matrices are random."""
    more = {} if quantization is None else {"quantization": quantization}
    model = init_random(config, jax.random.key(0), jnp.dtype(dtype), **more)
    adapter = init_adapter(config, RANK, RANK, TARGETS, jax.random.key(1))
    keys = iter(jax.random.split(jax.random.key(2), 2 * len(adapter.weights)))
    weights = jax.tree.map(lambda leaf: leaf + 0.01 * jax.random.normal(next(keys), leaf.shape), adapter.weights)
    return model, adapter.replace_weights(weights)


def compare(options: argparse.Namespace, workers: dict[str, Worker], tokens: np.ndarray) -> None:
    """Print how far both sides' numbers lie apart; exit where that is more than their precision explains."""
    logits, loss, slopes = workers["ours"].call("results", tokens)
    their_logits, their_loss, their_slopes = workers["peer"].call("results", tokens)
    apart = np.abs(logits - their_logits).max()
    relative = max(
        np.linalg.norm(slope - their_slopes[name]) / np.linalg.norm(their_slopes[name])
        for name, slope in slopes.items()
    )
    print(
        f"logits differ by {apart:.1e} at most, loss by {abs(loss - their_loss):.1e}, "
        f"gradients by {relative:.1e} of theirs"
    )
    if options.dtype == "float32" and (apart > 1e-4 or abs(loss - their_loss) > 1e-4 or relative > 1e-3):
        raise SystemExit("the two sides do not compute the same thing")


def report(options: argparse.Namespace, title: str, workers: dict[str, Worker], tokens: np.ndarray) -> None:
    """Time every kind of work and print it, the sides taking turns."""
    sizes = options.matrix_sizes or ([8192, 16384] if options.dtype != "float32" else [1024, 2048, 4096])
    rates = {
        name: max(worker.call("matrix_rate", size, options.dtype) for size in sizes) for name, worker in workers.items()
    }
    if options.dtype == "float32" and options.peers != "none":
        rates["numpy"] = max(numpy_rate(size) for size in sizes)
    best = max(rates.values())
    shown = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    print(f"\n{title}; {workers['ours'].call('device')}\nmatrix rate in GFLOP/s: {shown}")
    for work in options.works:
        flops = model_flops(options.shape, *tokens.shape)[work]
        for worker in workers.values():
            worker.call("seconds", work, tokens)
        sides = {name: partial(worker.call, "seconds", work, tokens) for name, worker in workers.items()}
        medians = alternate(sides, options.repetitions)
        line = f"{LABELS[work]:24} {flops / 1e12:.2f} TFLOP"
        for name, seconds in medians.items():
            line += f"; {name} {seconds:.3f} s, {flops / seconds / best:.0%} of the matrix rate"
        if "peer" in medians:
            line += f"; ours is {medians['peer'] / medians['ours']:.2f} x theirs"
        print(line, flush=True)
    peaks = ", ".join(f"{name} {worker.call('peak_memory'):.2f}" for name, worker in workers.items())
    print(f"peak of memory in GB: {peaks}")


def model_flops(config: Qwen2Config, rows: int, length: int, with_head: int | None = None) -> dict[str, float]:
    """Return the FLOPs of each kind of work, by the formula above; so many tokens of a row meet the head, or all."""
    tokens, headed = rows * length, rows * (length if with_head is None else with_head)
    matrices = sum(np.prod(shape) for shape in layer_shapes(config).values() if len(shape) == 2)
    layers, head = config.num_hidden_layers * matrices, config.vocab_size * config.hidden_size
    width = config.num_attention_heads * config.head_dim
    attention = 2.0 * tokens * length * width * config.num_hidden_layers
    adapter = parameter_count(
        jax.eval_shape(lambda: init_adapter(config, RANK, RANK, TARGETS, jax.random.key(0))).weights
    )
    return {
        "hidden": 2 * tokens * layers + attention,
        "logits": 2 * (tokens * layers + headed * head) + attention,
        "gradient": 2 * (tokens * (2 * layers + 3 * adapter) + 2 * headed * head) + 3 * attention,
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=read_shape, default="small", help="tiny, small, 0.5B, 7B, or a model's folder")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--peers", default="peft", choices=("peft", "none"))
    parser.add_argument("--quantization", default="none", help="with --peers none: some of none,int8,nf4")
    parser.add_argument("--remat", default="dots", help="what our layers keep for the backward pass")
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=WORKS)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--compared", type=int, default=64, help="tokens of each row whose numbers are compared")
    parser.add_argument("--matrix-sizes", type=int, nargs="*")
    parser.add_argument("--folder", help="where the checkpoint is written and removed again; default: the system's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
