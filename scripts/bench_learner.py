"""One GRPO update against transformers + peft, with and without gradient checkpointing, and TRL's GRPOTrainer.

    python scripts/bench_learner.py [--shape small] [--rows 10] [--samples 2] [--prompt 128] [--completion 256]
    python scripts/bench_learner.py --sides ours --shape 7B --completion 3968 --dtype bfloat16 --remat full dots

An update is the same for all: log-probabilities of the completions under the base model (the adapter off), then those
under the policy, the objective of GRPO with the k3 estimate of the divergence, its gradient with respect to an adapter
of rank 64 on q, k, v, o, clipping to norm 1, and a step of AdamW. All start from one checkpoint and one adapter, so
that loss and gradient norm, which are printed, must agree. Each side runs alone in a process of its own: seconds are
the median of updates after the first one, which compiles, and memory is the process's peak, model and libraries
included, or that of the GPU. The share of the matrix rate is that of the model's FLOPs (`bench_model.py` says how they
are counted; a forward pass under the base model is added, recomputation is not) at the rate of a large square product
in our process. TRL's trainer is given the rollouts, and generates nothing.

`--microbatch` is how many sequences' positions go through our model at once, `--peer-microbatch` how many sequences
through peft's: it changes time and memory, not the update. Ours runs a prompt once for those of its completions that
are in one microbatch; the share of the matrix rate counts every sequence whole for all, prompt included.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_model import RANK, TARGETS, Writer, model_flops, random_model
from benchmarking import Worker, cores, device_peak_memory, jax_rate, machine, peak_memory, read_shape

from aflow_jax.grpo import Batch, Learner, LearnerSettings
from aflow_jax.grpo.gradients import add_policy_gradient, empty_gradient
from aflow_jax.grpo.microbatches import split_into_microbatches
from aflow_jax.memory import keep_freed_memory
from aflow_jax.qwen2 import Qwen2Config, init_adapter, init_random, load_peft, load_pretrained

SIDES = ("ours", "peft", "peft-checkpointing", "trl")
LEARNING_RATE, WEIGHT_DECAY, KL_COEF = 2e-5, 0.01, 0.005
Rollouts = tuple[np.ndarray, int, np.ndarray]
"""Tokens [B, T], the prompt's length, advantages [B]."""


class Ours:
    """This project's learner."""

    def __init__(self, config: Qwen2Config, folder: str | None, dtype: str, microbatch: int, remat: str):
        keep_freed_memory()
        if folder is None:
            model, adapter = random_model(config, dtype, None)
        else:
            model, adapter = load_pretrained(folder, dtype), load_peft(Path(folder) / "adapter", config)
        settings = LearnerSettings(
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            kl_coef=KL_COEF,
            warmup_steps=0,
            microbatch_size=microbatch,
            remat=remat,
        )
        self.learner = Learner(model, adapter, settings)

    def update(self, rollouts: Rollouts) -> tuple[float, float, float]:
        """Return seconds of an update, its loss and its gradient's norm."""
        tokens, prompt, advantages = rollouts
        batch = Batch(
            tokens=tokens,
            lengths=np.full(len(tokens), tokens.shape[1], np.int32),
            loss_mask=np.broadcast_to(np.arange(tokens.shape[1]) >= prompt, tokens.shape),
            logprobs=np.zeros(tokens.shape, np.float32),
            advantages=advantages,
        )
        start = time.perf_counter()
        metrics = self.learner.update(batch, 1.0)
        return time.perf_counter() - start, metrics["loss"], metrics["grad_norm"]

    def matrix_rate(self, dtype: str) -> float:
        """Return FLOP/s of a large square product."""
        return jax_rate(dtype)

    def peak_memory(self) -> float:
        return device_peak_memory()


class Peft:
    """transformers + peft, as their own trainer does it: logits of the completions only, sdpa attention."""

    def __init__(self, folder: str, dtype: str, microbatch: int, checkpointing: bool):
        self._torch, self._device = _torch()
        self.model = _peft_model(self._torch, folder, dtype).to(self._device)
        self.model.train()
        if checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads()
        self._microbatch = microbatch
        learned = filter(lambda weight: weight.requires_grad, self.model.parameters())
        self._optimizer = self._torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def update(self, rollouts: Rollouts) -> tuple[float, float, float]:
        """Return seconds of an update, its loss and its gradient's norm."""
        torch = self._torch
        tokens, prompt, advantages = rollouts
        tokens = torch.tensor(tokens, dtype=torch.long, device=self._device)
        advantages = torch.tensor(advantages, device=self._device)
        start, total = time.perf_counter(), 0.0
        for at in range(0, len(tokens), self._microbatch):
            rows, weights = tokens[at : at + self._microbatch], advantages[at : at + self._microbatch, None]
            with torch.no_grad(), self.model.disable_adapter():
                reference = self._logprobs(rows, prompt)
            logprobs = self._logprobs(rows, prompt)
            ratio, difference = torch.exp(logprobs - logprobs.detach()), reference - logprobs
            divergence = torch.exp(difference) - difference - 1
            costs = -torch.minimum(ratio * weights, ratio.clamp(0.8, 1.2) * weights) + KL_COEF * divergence
            loss = costs.mean(dim=1).sum() / len(tokens)
            loss.backward()
            total += float(loss.detach())
        parameters = self._optimizer.param_groups[0]["params"]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, total, norm

    def peak_memory(self) -> float:
        return self._torch.cuda.max_memory_allocated() / 1e9 if self._device == "cuda" else peak_memory()

    def _logprobs(self, rows: Any, prompt: int) -> Any:
        completion = rows[:, prompt:]
        logits = self.model(rows, logits_to_keep=completion.shape[1] + 1, use_cache=False).logits[:, :-1].float()
        # As in TRL: no second array of [B, T, V] besides the logits.
        chosen = logits.gather(-1, completion[..., None])[..., 0]
        return chosen - self._torch.stack([self._torch.logsumexp(row, dim=-1) for row in logits])


class Trl:
    """TRL's GRPOTrainer: its own reference pass, loss, backward pass, clipping and optimizer, on given rollouts."""

    def __init__(self, folder: str, dtype: str):
        import trl
        from datasets import Dataset
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        class GivenRollouts(trl.GRPOTrainer):
            def _prepare_inputs(self, generation_batch: Any) -> Any:
                return generation_batch

        self._torch, self._device = _torch()
        words = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
        settings = trl.GRPOConfig(
            output_dir=f"{folder}/trl",
            per_device_train_batch_size=2,
            num_generations=2,
            beta=KL_COEF,
            loss_type="grpo",
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=1.0,
            gradient_checkpointing=False,
            report_to=[],
            use_cpu=self._device == "cpu",
            bf16=False,
        )
        self.trainer = GivenRollouts(
            model=_peft_model(self._torch, folder, dtype),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": ["a"]}),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="a"),
        )
        self.trainer.create_optimizer_and_scheduler(num_training_steps=1000)
        self.trainer.model_wrapped = self.trainer.model
        self.trainer.current_gradient_accumulation_steps = 1  # as its `train` sets it

    def update(self, rollouts: Rollouts) -> tuple[float, float, float]:
        """Return seconds of an update, its loss and its gradient's norm."""
        torch, trainer = self._torch, self.trainer
        tokens, prompt, advantages = rollouts
        rows = torch.tensor(tokens, dtype=torch.long, device=self._device)
        completion = rows[:, prompt:]
        inputs = {
            "prompt_ids": rows[:, :prompt],
            "prompt_mask": torch.ones_like(rows[:, :prompt]),
            "completion_ids": completion,
            "completion_mask": torch.ones_like(completion),
            "advantages": torch.tensor(advantages, device=self._device),
            "num_items_in_batch": torch.tensor(completion.numel()),
        }
        start = time.perf_counter()
        with torch.no_grad(), trainer.model.disable_adapter():
            inputs["ref_per_token_logps"], *_ = trainer._get_per_token_logps_and_entropies(
                trainer.model, rows, torch.ones_like(rows), completion.shape[1]
            )
        loss = trainer.training_step(trainer.model, inputs, completion.numel())
        norm = trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, float(loss), float(norm)

    def peak_memory(self) -> float:
        return self._torch.cuda.max_memory_allocated() / 1e9 if self._device == "cuda" else peak_memory()


def main() -> None:
    """Run every side alone, and print a line for each."""
    options = parse_options()
    if options.memory:
        print_memory(options)
        return
    length = options.prompt + options.completion
    chance = np.random.default_rng(0)
    tokens = chance.integers(0, options.shape.vocab_size, (options.rows, length), np.int32)
    # The completions of a problem have one prompt.
    tokens[:, : options.prompt] = tokens[np.arange(options.rows) // options.samples * options.samples, : options.prompt]
    rollouts = tokens, options.prompt, chance.standard_normal(options.rows, np.float32)
    print(machine(("jax", "torch", "transformers", "peft", "trl")))
    print(
        f"one GRPO update of {options.rows} x ({options.prompt} + {options.completion}) tokens, {options.samples} for "
        f"each prompt, {options.dtype}"
    )
    # Forward under the base model, forward and backward under the policy; the head meets completions only.
    counted = model_flops(options.shape, options.rows, length, options.completion)
    flops, rate = counted["logits"] + counted["gradient"], 0.0
    peer_rows = options.peer_microbatch or options.rows
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        written = None
        if options.sides != ["ours"]:
            Worker(Writer, options.shape, folder).close()
            written = folder
        sides = {
            f"ours, remat {remat}, {options.microbatch} at once": (
                Ours, options.shape, written, options.dtype, options.microbatch, remat,
            )
            for remat in options.remat
        } | {
            f"peft, {peer_rows} at once": (Peft, folder, options.dtype, peer_rows, False),
            f"peft-checkpointing, {peer_rows} at once": (Peft, folder, options.dtype, peer_rows, True),
            "trl": (Trl, folder, options.dtype),
        }  # fmt: skip
        for name, (make, *arguments) in sides.items():
            if name.split(",")[0] not in options.sides:
                continue
            worker = Worker(make, *arguments)
            first, loss, norm = worker.call("update", rollouts)
            later = [worker.call("update", rollouts)[0] for _ in range(options.repetitions)]
            seconds = statistics.median(later or [first])
            memory = worker.call("peak_memory")
            if make is Ours and not rate:
                rate = worker.call("matrix_rate", options.dtype)
            worker.close()
            share = f", {flops / seconds / rate:4.0%} of {rate / 1e12:.3g} TFLOP/s" if rate else ""
            print(f"{name:36} {seconds:7.2f} s{share}, {memory:6.2f} GB, loss {loss:.6f}, norm {norm:.5f}", flush=True)


def print_memory(options: argparse.Namespace) -> None:
    """Compile a microbatch's gradient with every policy, from shapes alone, and print the memory that it needs."""
    length = options.prompt + options.completion
    model = jax.eval_shape(lambda: init_random(options.shape, jax.random.key(0), jnp.dtype(options.dtype)))
    adapter = jax.eval_shape(lambda: init_adapter(options.shape, RANK, RANK, TARGETS, jax.random.key(0)))
    gradient = jax.eval_shape(empty_gradient, adapter.weights)
    tokens = np.arange(options.microbatch, dtype=np.int32)[:, None] // options.samples + np.zeros(length, np.int32)
    batch = Batch(
        tokens=tokens,
        lengths=np.full(len(tokens), length, np.int32),
        loss_mask=np.broadcast_to(np.arange(length) >= options.prompt, tokens.shape),
        logprobs=np.zeros(tokens.shape, np.float32),
        advantages=np.ones(len(tokens), np.float32),
    )
    part = split_into_microbatches(batch, options.microbatch)[0]
    for remat in options.remat:
        settings = LearnerSettings(kl_coef=KL_COEF, remat=remat).gradient_settings()
        lowered = add_policy_gradient.lower(model, adapter, gradient, part, 1.0, None, settings, False)
        needed = lowered.compile().memory_analysis()
        given, besides = needed.argument_size_in_bytes / 1e9, needed.temp_size_in_bytes / 1e9
        print(f"remat {remat}, {options.microbatch} x {length} at once: {given:.2f} GB given, {besides:.2f} GB besides")


def _torch() -> tuple[Any, str]:
    import torch

    torch.set_num_threads(cores())
    return torch, "cuda" if torch.cuda.is_available() else "cpu"


def _peft_model(torch: Any, folder: str, dtype: str) -> Any:
    import peft
    from transformers import Qwen2ForCausalLM

    base = Qwen2ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return peft.PeftModel.from_pretrained(base, f"{folder}/adapter", is_trainable=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=read_shape, default="small", help="tiny, small, 0.5B, 7B, or a model's folder")
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--samples", type=int, default=2, help="completions of each prompt, among the rows")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--completion", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--remat", nargs="+", default=["full", "dots", "none"], help="what our layers keep")
    parser.add_argument("--microbatch", type=int, default=2)
    parser.add_argument("--peer-microbatch", type=int, help="default: all rows at once")
    parser.add_argument(
        "--repetitions", type=int, default=3, help="updates after the first; 0 times that one, which compiles"
    )
    parser.add_argument(
        "--memory", action="store_true", help="print what our gradient needs by the compiler; run nothing"
    )
    parser.add_argument("--folder", help="where the checkpoint is written and removed again; default: the system's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
