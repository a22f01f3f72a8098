"""Completions sampled on a mesh of devices are those of one device, and the cache stays where it lies."""

from pathlib import Path

import pytest
from forced_devices import found_on_eight_devices


@pytest.fixture(scope="module")
def found() -> dict:
    return found_on_eight_devices(Path(__file__).with_name("sharded_sampling.py"))


def test_tokens_are_those_of_one_device(found: dict) -> None:
    assert found["drawn"] > 40
    assert found["tokens equal"]
    assert found["logprob gap"] < 1e-4


def test_a_prompt_is_copied_to_another_device_before_its_place_is_taken(found: dict) -> None:
    assert found["copied equal"]


def test_no_program_gathers_the_cache(found: dict) -> None:
    # Keys of one layer are 8 slots × 2 heads × 8 × 512 places; the embedding, which is, 128 × 32.
    assert found["gathered"] <= 128 * 32
