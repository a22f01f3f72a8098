"""A checkpoint goes on where there are more devices, or fewer, than where it was saved."""

from pathlib import Path

import pytest
from forced_devices import found_on_eight_devices

LAYOUTS = {"one device": 1, "2x2": 4, "8x1": 8, "1x8": 8}


@pytest.fixture(scope="module")
def report():
    return found_on_eight_devices(Path(__file__).with_name("restored_elsewhere.py"))


@pytest.mark.parametrize("saved_on", LAYOUTS)
@pytest.mark.parametrize("restored_on", LAYOUTS)
def test_what_was_saved_on_one_layout_comes_back_bit_for_bit_on_another(report, saved_on, restored_on):
    found = report[f"{saved_on} -> {restored_on}"]
    assert found == {"equal": True, "lie as asked": True, "devices": LAYOUTS[restored_on]}
