"""Train a language model to write agent workflows: Qwen2.5, GRPO and LoRA in JAX/Flax."""

__version__ = "0.1.0"
