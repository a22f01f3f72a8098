"""What layers keep of the forward pass for the backward pass, by name: memory against time."""

import jax

PRODUCT = "product"
ATTENTION = "attention"

_policies = jax.checkpoint_policies
REMAT_POLICIES = {
    "none": None,
    # A product with a frozen weight has a gradient rule of its own, into which policies do not look: those are named.
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(PRODUCT, ATTENTION)
    ),
    "attention": _policies.save_only_these_names(ATTENTION),
    "full": _policies.nothing_saveable,
}
"""From most memory to least, all besides a layer's input: everything; what products and attention gave, so that none is
done twice; what attention gave (where it is done in blocks: a GPU's kernel has no names); nothing."""
