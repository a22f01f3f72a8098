"""Seeded draws that depend on what is asked and on nothing else: not on order, time or other requests."""

import hashlib
import math
from statistics import NormalDist

_NORMAL = NormalDist()


def digest(*parts: object) -> str:
    """Return a hash of the parts; equal parts in the same order, and nothing else, give it again."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = f"{part}".encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.hexdigest()


def uniform(*parts: object) -> float:
    """Return a number in (0, 1)."""
    return (int(digest(*parts)[:13], 16) + 0.5) / 16**13


def index(count: int, *parts: object) -> int:
    """Return a number in 0 … count − 1."""
    return int(uniform(*parts) * count)


def lognormal(median: float, p95: float, *parts: object) -> float:
    """Return a draw from the lognormal distribution with this median and 95th percentile."""
    sigma = math.log(p95 / median) / _NORMAL.inv_cdf(0.95)
    return median * math.exp(sigma * _NORMAL.inv_cdf(uniform(*parts)))
