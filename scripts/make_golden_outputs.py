"""Write tests/golden/qwen2_logits.npz: logits of transformers' Qwen2ForCausalLM for the test suite's small models.

Needs torch; the test suite then needs none:  python scripts/make_golden_outputs.py
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "qwen2"))

import golden_models as golden


def main() -> None:
    outputs = {name: transformers_logits(shape) for name, shape in golden.SHAPES.items()}
    golden.GOLDEN_FILE.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(golden.GOLDEN_FILE, **outputs)
    size = golden.GOLDEN_FILE.stat().st_size
    print(f"{golden.GOLDEN_FILE}: {len(outputs)} models, {size / 1000:.0f} kB")


def transformers_logits(shape: golden.Shape) -> np.ndarray:
    """Return the logits of all valid positions, [sum of LENGTHS, V], each row run alone and unpadded."""
    with tempfile.TemporaryDirectory() as folder:
        golden.write_model(shape.config(), Path(folder))
        model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    rows = zip(golden.tokens(), golden.LENGTHS, strict=True)
    with torch.no_grad():
        return np.concatenate([model(torch.tensor(row[None, :length])).logits[0].numpy() for row, length in rows])


if __name__ == "__main__":
    main()
