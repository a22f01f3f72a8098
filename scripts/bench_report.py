"""How long the page of a long run takes: python scripts/bench_report.py [--run RUN] [--steps 500] [--rollouts 64]

Makes a run folder of that size, or takes RUN where it is one, writes its page, and opens it in a headless Chromium
(with chromedriver, and the packages of the extra `test`). Says the seconds from the start of the navigation to the
list of rollouts, to the charts in view, and to all charts were they drawn right after those (as for printing, with
More curves open); then those of a search over all rollouts, and to an opened rollout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from chromium import MISSING, Browser, chromium
from example_run import make_run

from aflow_jax.runs.page import save_page

_PROBLEMS = 8
# While a driver listens, V8 looks up where each exception was thrown, and for that reads plotly, which catches some of
# its own, several times over. No reader waits for that second; where positions are kept from the start there is none.
_FLAGS = ("--js-flags=--no-enable-lazy-source-positions",)
_OTHER_CHARTS = """const began = performance.now();
document.getElementById("more-curves").open = true;
dispatchEvent(new Event("beforeprint"));
return (performance.now() - began) / 1000;"""
_SEARCH = """const began = performance.now();
const field = document.getElementById("filters").elements.text;
field.value = "revise";
field.dispatchEvent(new Event("input", {bubbles: true}));
return (performance.now() - began) / 1000;"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the page of a long run in a headless Chromium.")
    parser.add_argument("--run", type=Path, help="a run folder; made where there is none")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rollouts", type=int, default=64, help="a step")
    parser.add_argument("--characters", type=int, default=300, help="of each text")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    if MISSING:
        sys.exit(MISSING)
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or Path(scratch) / "run"
        if not run.exists():
            group = options.rollouts // _PROBLEMS
            make_run(run, steps=options.steps, problems=_PROBLEMS, group=group, characters=options.characters)
        began = time.perf_counter()
        page = save_page(run).path
        written = time.perf_counter() - began
        print(f"{page}: {page.stat().st_size / 1e6:.0f} MB, written in {written:.1f} s", flush=True)
        for repetition in range(options.repetitions):
            with chromium(Path(scratch) / f"profile{repetition}", flags=_FLAGS) as browser:
                seconds = measured(browser, page)
            print(" · ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), flush=True)


def measured(browser: Browser, page: Path) -> dict[str, float]:
    """Return the seconds that each thing took, in a browser that has not seen the page."""
    browser.open(page.as_uri(), charts=True)
    started = "return performance.getEntriesByName(arguments[0])[0].startTime"
    marks = {"list": "list", "charts in view": "charts"}
    seconds = {name: browser.ask(started, mark) / 1000 for name, mark in marks.items()}
    seconds["all charts"] = seconds["charts in view"] + browser.ask(_OTHER_CHARTS)
    seconds["search"] = browser.ask(_SEARCH)
    began = time.perf_counter()
    browser.ask("document.querySelector('#list .row').click()")
    browser.wait(lambda: browser.ask("return document.getElementById('detail').open"))
    return seconds | {"a rollout opened": time.perf_counter() - began}


if __name__ == "__main__":
    main()
