"""Make a model folder of a published Qwen2.5 tokenizer and shape, shallow and random, to try the trainer on.

python scripts/make_shallow_model.py --config Qwen2.5-0.5B/config.json --tokenizer Qwen2.5-0.5B --layers 2 --out model
"""

import argparse
import json
import shutil
from pathlib import Path

import jax

from aflow_jax.qwen2 import Qwen2Config, init_random, save_pretrained

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="a published config.json")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer's files")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    values = json.loads(options.config.read_text(encoding="utf-8")) | {"num_hidden_layers": options.layers}
    model = init_random(Qwen2Config.from_dict(values), jax.random.key(options.seed))
    # The published deviation of 0.02 leaves a model of few layers nearly blind to its input: a warm start needs more.
    for name, weight in model.layers.items():
        if name.endswith("proj"):
            value = weight.get_value()
            weight.set_value(value / 0.02 * value.shape[-1] ** -0.5)
    save_pretrained(model, options.out)
    for name in TOKENIZER_FILES:
        if (options.tokenizer / name).exists():
            shutil.copy(options.tokenizer / name, options.out / name)


if __name__ == "__main__":
    main()
