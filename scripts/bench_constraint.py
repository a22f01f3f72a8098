"""What constrained sampling costs: the host's time for each token, and tokens/s of the engine with and without it.

    python scripts/bench_constraint.py                                          # the quick start's shape
    python scripts/bench_constraint.py --tokenizer MODEL_FOLDER --rows 151936   # with a published vocabulary

Host: answers with reasoning and workflows are followed token by token; a mask is asked for before each token. "first"
is the first pass over all answers, when most states are new; "again" is a second pass. Where llguidance is installed
(`pip install llguidance`), it follows the same answers under the same language, written as its grammar: nesting,
branches, loops and instruction length are in it; the limits on characters and worst-case calls, and the end in time,
are not, because a context-free grammar cannot count them.

Engine: a random model samples the same number of completions free, free but coming back to the host after each token
as constrained lanes must, and constrained. Free ones have no end token, so each has its full length; constrained ones
end with their workflow, which mostly takes all tokens, for a random model writes reasoning as long as it may.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from benchmarking import alternate, machine

from aflow_jax.problems import generate_problems
from aflow_jax.qwen2 import Qwen2Config, Tokenizer, create_checkpoint, init_random, load_tokenizer
from aflow_jax.sampling import Engine, Request, SamplingParams
from aflow_jax.workflow import Limits, WorkflowConstraint, demonstrations, operator_names

REASONING = (
    "The question asks for a number that follows from two others, so a program is the safest way, and a second "
    "opinion guards against a misread unit. First list what is given, then compute; if the two disagree, vote.\n"
)
WORKFLOWS = (
    '[AnswerGenerate("Name each quantity and its unit before you compute."), Programmer, Custom] -> ScEnsemble',
    'Custom("Write down what is given: names, numbers, units (km, €).") -> Programmer -> (Review ? Revise : done) * 2',
    "CustomCodeGenerate -> (Test ? (Revise -> Test ? Revise : done) : done) * 3 -> Review ? Revise : done",
)


def main() -> None:
    """Measure the host's part, then the engine's, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder of a tokenizer; by default one of 1,536 tokens is trained")
    parser.add_argument("--rows", type=int, default=1536, help="rows of the model's logits")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=48)
    parser.add_argument("--prompt", type=int, default=200, help="tokens")
    parser.add_argument("--new", type=int, default=48, help="tokens")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(machine(("jax", "llguidance")), "·", jax.devices()[0].device_kind)
    pairs = demonstrations(generate_problems(None, 200, 0, split="train"), operator_names(), 0)
    answers = [REASONING + answer for _, answer in pairs]
    answers += [f"{REASONING}<workflow>{workflow}</workflow>" for workflow in WORKFLOWS]
    with tempfile.TemporaryDirectory() as made:
        folder = options.tokenizer or train_tokenizer(made, answers, options.rows)
        tokenizer = load_tokenizer(folder)
        start = time.perf_counter()
        constraint = WorkflowConstraint(
            tokenizer.spellings(), options.rows, tokenizer.eos_token_ids, operator_names(), Limits()
        )
        print(f"prepared for {options.rows} tokens in {time.perf_counter() - start:.2f} s")
        end = tokenizer.eos_token_ids[0]
        tokens = [[*tokenizer.encode_text(answer), end] for answer in answers]
        measure_host("ours", lambda: Ours(constraint), tokens)
        measure_library(folder, options.rows, tokens)
        measure_engine(options, tokenizer, constraint)


def train_tokenizer(folder: str, texts: Sequence[str], rows: int) -> str:
    """Write a checkpoint with a tokenizer trained on some texts, and return its folder."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": rows}
    create_checkpoint(folder, texts=texts, seed=0, num_attention_heads=2, num_key_value_heads=1, **sizes)
    return folder


class Ours:
    """A matcher with room for any answer."""

    def __init__(self, constraint: WorkflowConstraint) -> None:
        matcher = constraint.matcher(4096)
        self.mask, self.accept = matcher.mask, matcher.accept


def measure_host(name: str, make: Callable[[], Ours], answers: Sequence[Sequence[int]]) -> None:
    """Print the microseconds that a mask and a step take, over all tokens of all answers, twice."""
    for which in ("first", "again"):
        masks, steps = [], []
        for tokens in answers:
            matcher = make()
            for token in tokens:
                start = time.perf_counter()
                matcher.mask()
                between = time.perf_counter()
                matcher.accept(token)
                masks.append(between - start)
                steps.append(time.perf_counter() - between)
        mask, step = np.array(masks) * 1e6, np.array(steps) * 1e6
        print(
            f"{name:12} {which}: {len(masks)} tokens, mask {mask.mean():.0f} µs (median {np.median(mask):.0f}, "
            f"99% {np.percentile(mask, 99):.0f}, largest {mask.max():.0f}), step {step.mean():.0f} µs"
        )


def measure_library(folder: str | Path, rows: int, answers: Sequence[Sequence[int]]) -> None:
    """Do the same with llguidance, where it is installed."""
    try:
        import llguidance
        import llguidance.hf
    except ImportError:
        print("llguidance is not installed")
        return
    from transformers import AutoTokenizer

    vocabulary = llguidance.hf.from_tokenizer(AutoTokenizer.from_pretrained(str(folder)), n_vocab=rows)
    grammar = llguidance.LLMatcher.grammar_from_lark(lark_grammar(Limits()))
    first = llguidance.LLMatcher(vocabulary, grammar)
    if first.is_error():
        raise RuntimeError(first.get_error())

    class Theirs:
        def __init__(self) -> None:
            self._matcher = first.deep_copy()
            self.mask = self._matcher.compute_bitmask

        def accept(self, token: int) -> None:
            if not self._matcher.consume_token(token):
                raise RuntimeError(self._matcher.get_error())

    measure_host("llguidance", Theirs, answers)


def lark_grammar(limits: Limits) -> str:
    """Return the language as a grammar of llguidance, rules by depth of nesting."""
    names = " | ".join(f'"{name}"' for name in operator_names())
    rules = [
        f'start: head chain_{limits.nesting} "</workflow>"',
        'head[suffix="<workflow>"]: /(?s:.*)/',
        f'call: ({names}) ("(" STRING ")")?',
        'check: ("Review" | "Test") ("(" STRING ")")?',
        rf'STRING: /"([^"\\\x00-\x1f]|\\(["\\\/bfnrt]|u[0-9a-fA-F]{{4}})){{0,{limits.instruction}}}"/',
        r"%ignore /[ \t\r\n]+/",
    ]
    for depth in range(limits.nesting + 1):
        inner = f"chain_{depth - 1}"
        brackets = (
            f'| "(" {inner} ")" ("*" /[1-5]/)? | "[" {inner} ("," {inner}){{1,{limits.branches - 1}}} "]"'
            if depth
            else ""
        )
        rules += [
            f'chain_{depth}: stage_{depth} ("->" stage_{depth})* ("->" "done")?',
            f'stage_{depth}: call | check "?" arm_{depth} ":" arm_{depth} {brackets}',
            f'arm_{depth}: "done" | call ' + (f'| "(" {inner} ")"' if depth else ""),
        ]
    return "\n".join(rules)


def measure_engine(options: argparse.Namespace, tokenizer: Tokenizer, constraint: WorkflowConstraint) -> None:
    """Print tokens/s of a random model, free and constrained."""
    config = Qwen2Config(
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=options.hidden // 4,
        vocab_size=options.rows,
    )
    model = init_random(config, jax.random.key(0), jnp.float32)
    source = np.random.default_rng(0)
    prompt = tuple(source.integers(0, len(tokenizer), options.prompt).tolist())
    requests = [Request(prompt_tokens=prompt, seeds=tuple((seed,) for seed in range(options.sequences)))]
    free = SamplingParams(max_new_tokens=options.new, stop_token_ids=())
    bound = dataclasses.replace(free, stop_token_ids=tokenizer.eos_token_ids, constraint=constraint)
    sampled: dict[str, int] = {}

    def side(name: str, chunk_length: int, params: SamplingParams) -> Callable[[], float]:
        engine = Engine(
            model, tokenizer, slots=options.sequences, prompt_max_length=options.prompt, chunk_length=chunk_length
        )

        def run() -> float:
            start = time.perf_counter()
            completions = list(engine.generate(requests, params))
            sampled[name] = sum(len(completion.tokens) for completion in completions)
            return time.perf_counter() - start

        run()
        return run

    sides = {
        "free": side("free", 16, free),
        "free, a token at a time": side("free, a token at a time", 1, free),
        "constrained": side("constrained", 16, bound),
    }
    seconds = alternate(sides, options.repeats)
    print(
        f"{options.sequences} sequences, {options.prompt} + {options.new} tokens, hidden {options.hidden}, "
        f"{options.layers} layers, {options.rows} rows"
    )
    for name, taken in seconds.items():
        rate = sampled[name] / taken
        print(f"{name:24} {rate:8.0f} tokens/s  ×{rate / (sampled['free'] / seconds['free']):.2f}")


if __name__ == "__main__":
    main()
