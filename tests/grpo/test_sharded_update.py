"""The update over a mesh of devices is the update on one, and a device holds its share."""

from pathlib import Path

import pytest
from forced_devices import found_on_eight_devices

LAYOUTS = ("8x1", "4x2", "2x4", "1x8")


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    return found_on_eight_devices(Path(__file__).with_name("sharded_update.py"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradient_are_those_of_one_device(found: dict, layout: str) -> None:
    assert found[layout]["loss"] == pytest.approx(found["1x1"]["loss"], rel=1e-5)
    assert found[layout]["gradient gap"] < 1e-5


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_so_they_are_over_a_quantised_base(found: dict, kind: str) -> None:
    assert found[f"{kind} 4x2"]["loss"] == pytest.approx(found[f"{kind} 1x1"]["loss"], rel=1e-5)
    assert found[f"{kind} 4x2"]["gradient gap"] < 1e-5
    assert found[f"{kind} 1x1"]["gradient norm"] != pytest.approx(found["1x1"]["gradient norm"], rel=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_device_holds_an_eighth(found: dict, layout: str) -> None:
    one, eight = found["1x1"], found[layout]
    for what in ("base", "adapter", "optimizer", "cache"):
        assert one[f"bytes of {what}"] / eight[f"bytes of {what}"] == pytest.approx(8, rel=0.1), what
    # The rows among them are cut over `data` alone.
    assert one["bytes of arguments"] / eight["bytes of arguments"] == pytest.approx(8, rel=0.2)


@pytest.mark.parametrize(("layout", "parts"), [("8x1", 8), ("4x2", 4), ("2x4", 2), ("1x8", 1)])
def test_rows_of_a_batch_are_divided_over_data(found: dict, layout: str, parts: int) -> None:
    assert found["1x1"]["bytes of batch"] == parts * found[layout]["bytes of batch"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_program_needs_meanwhile_falls_too(found: dict, layout: str) -> None:
    assert found[layout]["bytes of temporaries"] < 0.6 * found["1x1"]["bytes of temporaries"]
