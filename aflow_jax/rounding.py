"""Counts rounded up to a few, since each is a shape, and each shape a program."""


def rounded_count(wanted: int) -> int:
    """The smallest of 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24 … that is at least `wanted`."""
    power = 1 << (wanted - 1).bit_length()
    return next(count for count in (power * 5 // 8, power * 3 // 4, power) if count >= wanted)
