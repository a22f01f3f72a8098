"""What is computed on both sides of an exchange with transformers or peft."""

import jax
import numpy as np
from golden_models import SHAPES, VOCABULARY

CONFIG = SHAPES["heads 4 over 4, untied"].config()
ROWS = np.random.default_rng(2).integers(0, VOCABULARY, (2, 9)).astype(np.int32)
LOGITS = jax.jit(lambda model, adapter: model.logits(ROWS, None, adapter))


def torch_logits(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(ROWS, dtype=torch.long)).logits.numpy()
