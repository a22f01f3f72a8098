"""Does prompt lookup pay? A trained policy's answers to held-out problems, with drafts of several lengths and without.

    python scripts/bench_lookup.py RUN [--drafted 0 2 4 8] [--slots 1 8] [--problems 24] [--samples 2]

RUN is a run folder, or one of its checkpoints. Answers are sampled at temperature 1 as in training. Tokens a pass: how
many tokens a slot gains each time that it goes through the model: 1 without drafts, at most the draft's length and 1.
Figures of the lengths of drafts take turns; medians over repetitions. The tokens are compared, too: rounding apart they
are the same.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
from benchmarking import alternate, machine

from aflow_jax.assembly import load_problem_sets, policy_prompt
from aflow_jax.qwen2 import load_pretrained, load_tokenizer
from aflow_jax.sampling import Engine, Request, SamplingParams
from aflow_jax.trained import load_trained_adapter


class Side:
    """Sampling with drafts of one length."""

    def __init__(self, engine: Engine, adapter: object, requests: list[Request], params: SamplingParams) -> None:
        self.engine, self.adapter, self.requests, self.params = engine, adapter, requests, params
        self.answers: dict[tuple[int, int], tuple[int, ...]] = {}
        self.tokens = self.passes = 0

    def seconds(self) -> float:
        """Return how long all answers take."""
        scheduler = self.engine.scheduler()
        started = time.perf_counter()
        for request in self.requests:
            scheduler.submit(request, self.params, self.adapter)
        while not scheduler.idle:
            for progress in scheduler.step():
                if progress.completion:
                    self.answers[progress.request, progress.sample] = progress.completion.tokens
        self.tokens, self.passes = scheduler.tokens, scheduler.passes
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--drafted", type=int, nargs="+", default=[0, 2, 4, 8])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    trained = load_trained_adapter(options.run)
    config, model, tokenizer = trained.config, load_pretrained(trained.base_folder), load_tokenizer(trained.base_folder)
    problems = load_problem_sets(config, print).test[: options.problems]
    requests = [
        Request(
            prompt_tokens=tuple(tokenizer.encode_chat(policy_prompt(config, problem))),
            seeds=tuple((place, sample) for sample in range(options.samples)),
        )
        for place, problem in enumerate(problems)
    ]
    params = SamplingParams(max_new_tokens=config.max_new_tokens, stop_token_ids=tokenizer.eos_token_ids)
    print(machine(("jax", "flax")), ";", jax.devices()[0].device_kind)
    shape = model.config
    print(f"{len(requests)} x {options.samples} answers; hidden {shape.hidden_size}, {shape.num_hidden_layers} layers")
    for slots in options.slots:
        sides = {
            drafted: Side(
                Engine(model, tokenizer, slots=slots, prompt_max_length=config.prompt_max_length, drafted=drafted),
                trained.adapter,
                requests,
                params,
            )
            for drafted in options.drafted
        }
        for side in sides.values():
            side.seconds()  # compiles
        seconds = alternate({str(name): side.seconds for name, side in sides.items()}, options.repetitions)
        plain = sides[options.drafted[0]]
        for name, side in sides.items():
            same = sum(side.answers[place] == answer for place, answer in plain.answers.items())
            speed = side.tokens / seconds[str(name)]
            first = plain.tokens / seconds[str(options.drafted[0])]
            print(
                f"{slots} slots, {name} drafted: {speed:7.0f} tokens/s, x{speed / first:.2f}; "
                f"{side.tokens / side.passes:.2f} tokens a pass; {same} of {len(plain.answers)} answers the same"
            )


if __name__ == "__main__":
    main()
