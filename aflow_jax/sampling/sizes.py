"""Lengths and counts of slots rounded up to a few, since each is a shape, and each shape a program."""

from aflow_jax.rounding import rounded_count

SMALLEST_BUCKET = 64


def bucket(length: int) -> int:
    """The smallest of 64, 128, 192, 256, 384, 512, 768, 1024, 1536 … that is at least `length`."""
    size = SMALLEST_BUCKET
    while size < length:
        if size & (size - 1) == 0 and size > SMALLEST_BUCKET:
            size += size // 2
        else:
            size = 1 << size.bit_length()
    return size


def page_count(wanted: int) -> int:
    """The smallest of 1, 2 … 16, 18, 20 … 32, 36, 40 … that is at least `wanted`: little room for nothing."""
    step = max(1, (1 << (wanted - 1).bit_length()) // 16)
    return -(-wanted // step) * step


def grown(wanted: int, before: int) -> int:
    """At least so many; where there were some, by doubling: what grew may grow again, and each shape is a program."""
    return 1 << (wanted - 1).bit_length() if before else rounded_count(wanted)


PAGE_TOKENS = 32
"""Tokens of a prompt's page for each query that reads a key in it, at least: what a page gives its readers, to be put
together with what the other pages give, is then little beside its keys and values."""


MOST_PAGES = 128
"""Pages of the longest prompt: what all of a prompt's pages give is there at once."""


def page_length(longest: int, queries: int, most: int) -> int:
    """Tokens of a page, given how many queries read each key in it.

    Args:
      longest: Tokens of the longest prompt at hand, of which a page is not longer without need.
      queries: The prompt's readers times the heads of a group.
      most: Tokens of the longest prompt that may come.
    """
    length = bucket(longest)
    while length >= 2 * PAGE_TOKENS * queries:
        length //= 2
    return max(length, bucket(most) // MOST_PAGES)


def prefix_room(length: int, page: int) -> int:
    """Room in which prompts of a padded length are run: whole pages, where one is not enough."""
    return length if length <= page else -(-length // page) * page


PREFILL_TOKENS = 2048
"""Tokens of prompts that are run together, padding included, where one prompt is not more: enough to be bound by
arithmetic and not by reading the weights, and little memory beside them."""


def prefill_rows(length: int, waiting: int) -> int:
    """How many of the waiting prompts of a padded length to run together: 1, 4, 16 …, so that few programs do and no
    row is padding."""
    rows, most = 1, min(waiting, PREFILL_TOKENS // length)
    while 4 * rows <= most:
        rows *= 4
    return rows
