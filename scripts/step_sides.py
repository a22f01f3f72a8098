"""The sides of `bench_step.py`: each makes a whole GRPO step in its own way, from prompts to the moved adapter."""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from bench_learner import KL_COEF, LEARNING_RATE, WEIGHT_DECAY
from bench_model import RANK, TARGETS
from bench_sampling import PlainTokenizer
from benchmarking import JsonProcess, cores, peak_memory, require_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What every step is made of: prompts [P][T], completions of each, tokens of a completion."""

    prompts: list[list[int]]
    samples: int
    new_tokens: int

    @property
    def rows(self) -> int:
        """Completions a step."""
        return len(self.prompts) * self.samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What a side says of a step.

    Attributes:
        seconds: from the prompts to the moved adapter.
        tokens: sampled, as the reward counted them.
        learned: weights of the adapter.
        moved: the largest absolute weight of B, which was 0 at first.
        memory: the process's peak in GB.
    """

    seconds: float
    tokens: int
    learned: int
    moved: float
    memory: float


def even_share(tokens: Sequence[int]) -> float:
    """Return the reward of a completion: the share of its tokens that are even."""
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


class Ours:
    """This project's engine and learner."""

    def __init__(self, folder: str, work: Work, remat: str) -> None:
        import jax

        from aflow_jax.grpo import Learner, LearnerSettings
        from aflow_jax.memory import keep_freed_memory
        from aflow_jax.qwen2 import init_adapter, load_pretrained
        from aflow_jax.sampling import Engine

        keep_freed_memory()
        model = load_pretrained(folder, "float32")
        settings = LearnerSettings(
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            kl_coef=KL_COEF,
            warmup_steps=0,
            microbatch_size=work.rows,
            remat=remat,
        )
        self._work, self._number = work, 0
        longest = max(map(len, work.prompts))
        self._engine = Engine(
            model, PlainTokenizer(), slots=work.rows, prompt_max_length=longest, prompt_readers=work.samples
        )
        self._learner = Learner(model, init_adapter(model.config, RANK, RANK, TARGETS, jax.random.key(1)), settings)

    def step(self) -> Step:
        """Make the next step."""
        from aflow_jax.grpo import Batch, group_advantages

        start = time.perf_counter()
        completions = self._sample()
        rewards = np.array([even_share(completion.tokens) for completion in completions])
        batch = Batch.from_rollouts(
            prompts=[completion.prompt_tokens for completion in completions],
            completions=[completion.tokens for completion in completions],
            logprobs=[completion.logprobs for completion in completions],
            advantages=group_advantages(rewards, self._work.samples),
        )
        metrics = self._learner.update(batch, 1.0)
        seconds = time.perf_counter() - start
        tokens = sum(len(completion.tokens) for completion in completions)
        require_tokens(int(metrics["update/tokens"]), tokens)
        weights = self._learner.adapter.weights.values()
        return Step(
            seconds=seconds,
            tokens=tokens,
            learned=sum(pair["a"].size + pair["b"].size for pair in weights),
            moved=max(float(abs(pair["b"]).max()) for pair in weights),
            memory=peak_memory(),
        )

    def _sample(self) -> list[Any]:
        """Return the completions, group by group."""
        from aflow_jax.sampling import Request, SamplingParams

        self._number += 1
        requests = [
            Request(
                prompt_tokens=tuple(prompt),
                seeds=tuple((self._number, place, sample) for sample in range(self._work.samples)),
            )
            for place, prompt in enumerate(self._work.prompts)
        ]
        params = SamplingParams(max_new_tokens=self._work.new_tokens, stop_token_ids=())
        completions = self._engine.generate(requests, params, self._learner.adapter)
        return sorted(completions, key=lambda completion: (completion.request, completion.sample))


class Trl:
    """TRL's GRPOTrainer; its `train` runs in a thread, where a callback lets it make a step when one is asked for."""

    def __init__(self, folder: str, work: Work) -> None:
        import torch
        import transformers

        self._torch, self._tokens = torch, 0
        self._asked: queue.Queue[None] = queue.Queue()
        self._said: queue.Queue[float | Exception] = queue.Queue()
        asked, said = self._asked, self._said

        class Turns(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                asked.get()
                self.start = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                said.put(time.perf_counter() - self.start)

        self._trainer = _trl_trainer(folder, work, self._reward)
        self._trainer.add_callback(Turns())
        threading.Thread(target=self._train, daemon=True).start()

    def step(self) -> Step:
        """Make the next step."""
        self._asked.put(None)
        seconds = self._said.get()
        if isinstance(seconds, Exception):
            raise seconds
        learned = {name: weight for name, weight in self._trainer.model.named_parameters() if weight.requires_grad}
        return Step(
            seconds=seconds,
            tokens=self._tokens,
            learned=sum(weight.numel() for weight in learned.values()),
            moved=max(float(weight.detach().abs().max()) for name, weight in learned.items() if "lora_B" in name),
            memory=peak_memory(),
        )

    def _train(self) -> None:
        self._torch.set_num_threads(cores())  # a setting of the thread, too
        try:
            self._trainer.train()
        except Exception as error:  # noqa: BLE001  the one who waits raises it
            self._said.put(error)

    def _reward(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        self._tokens = sum(map(len, completion_ids))
        return [even_share(tokens) for tokens in completion_ids]


def _trl_trainer(folder: str, work: Work, reward: Any) -> Any:
    import peft
    import torch
    import trl
    from datasets import Dataset
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    settings = trl.GRPOConfig(
        output_dir=f"{folder}/trl",
        per_device_train_batch_size=work.rows,
        num_generations=work.samples,
        max_completion_length=work.new_tokens,
        temperature=1.0,
        beta=KL_COEF,
        loss_type="grpo",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=1.0,
        max_steps=1_000_000,  # the process ends before
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return trl.GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": [" ".join(map(str, prompt)) for prompt in work.prompts]}),
        processing_class=_number_tokenizer(model.config.vocab_size),
        peft_config=peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS.split(","), task_type="CAUSAL_LM"),
    )


def _number_tokenizer(size: int) -> Any:
    """Return a tokenizer whose text is token ids with blanks between them; its end token is none of the model's."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(token): token for token in range(size)} | {"<end>": size}, "<end>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")


class Tunix:
    """Tunix's GRPO learner, in an environment of its own."""

    def __init__(self, folder: str, work: Work, python: str) -> None:
        settings = {
            "rank": RANK,
            "samples": work.samples,
            "prompt_length": max(map(len, work.prompts)),
            "new_tokens": work.new_tokens,
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "kl_coef": KL_COEF,
        }
        self._work = work
        self._process = JsonProcess(python, "tunix_learner.py", folder, json.dumps(settings))

    def versions(self) -> dict[str, str]:
        """Return the versions of its environment."""
        return self._process.versions

    def step(self) -> Step:
        """Make the next step."""
        return Step(**self._process.ask(prompts=self._work.prompts))
