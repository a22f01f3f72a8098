"""The page of a run as its reader has it, in a real browser: what it shows, what it never does."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from chromium import MISSING, Browser, chromium
from example_run import HOSTILE, make_run

from aflow_jax.runs import MetricsFile, read_rollouts, write_rollouts
from aflow_jax.runs.page import save_page

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
STEPS = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "example", steps=STEPS)


@pytest.fixture(scope="module")
def page(run):
    return save_page(run).path.as_uri()


@pytest.fixture(scope="module")
def desktop(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(desktop):
    desktop.complaints(), desktop.requests()
    yield desktop
    assert desktop.complaints() == []


def records(run: Path, pattern: str = "*") -> list[dict]:
    return [record for path in sorted((run / "rollouts").glob(f"{pattern}.jsonl.gz")) for record in read_rollouts(path)]


def choose(browser: Browser, **fields: object) -> int:
    """Set filters as a person does; return how many rollouts are left."""
    browser.ask(
        """for (const [name, value] of Object.entries(arguments[0])) {
             const field = document.getElementById("filters").elements[name];
             field.value = value;
             field.dispatchEvent(new Event("input", { bubbles: true }));
           }""",
        fields,
    )
    return int(browser.text("#count").split()[0].replace(",", ""))


def test_the_page_shows_the_runs_curves_and_asks_for_nothing(browser, page, run):
    browser.open(page, charts=True)
    browser.wait(lambda: browser.number("#curves .plot svg.main-svg") >= 8)
    assert browser.text("h1") == "example"
    assert browser.number("#curves figure") == 8
    assert f"{len(records(run)):,}" in browser.text("#tiles")
    assert browser.number("#evaluation-tables tbody tr") == STEPS // 5 + 2  # step 0 too, and the change
    assert browser.requests() == [page]


def test_a_chart_far_below_is_drawn_once_it_is_scrolled_to(browser, page):
    browser.open(page, charts=True)
    browser.ask("document.getElementById('more-curves').open = true")
    for chart in ("outcomes-over-time", "calls"):
        assert browser.number(f"#{chart} svg") == 0
        browser.ask("document.getElementById(arguments[0]).scrollIntoView()", chart)
        browser.wait(lambda name=chart: browser.number(f"#{name} svg.main-svg") > 0)


def test_every_chart_is_drawn_for_printing(browser, page):
    undrawn = "return [...document.querySelectorAll('.plot')].filter((plot) => !plot.querySelector('svg')).length"
    browser.open(page, charts=True)
    browser.ask("document.getElementById('more-curves').open = true")
    assert browser.ask(undrawn) > 0
    browser.driver.execute_cdp_cmd("Page.printToPDF", {})
    assert browser.ask(undrawn) == 0


def test_filters_leave_what_they_say(browser, page, run):
    browser.open(page)
    everything = records(run)
    count = len(everything)
    assert choose(browser) == count
    math = [record for record in everything if record["problem"]["domain"] == "math"]
    assert choose(browser, domain="math") == len(math)
    assert choose(browser, outcome="PARSE") == sum(record["outcome"] == "PARSE" for record in math)
    assert choose(browser, outcome="answered, right") == sum(record["correctness"] == 1 for record in math)
    assert choose(browser, outcome="", rewardFrom="0.95") == sum(round(r["reward"], 4) >= 0.95 for r in math)
    assert choose(browser, domain="", rewardFrom="", stage="evaluation") == len(records(run, "eval_*"))
    assert choose(browser, stage="training", stepFrom="3", stepTo="3") == len(records(run, "step_000003"))
    assert choose(browser, stage="any stage", stepFrom="", stepTo="", text="revise") == sum(
        "Revise" in (record["workflow"] or "") for record in everything
    )
    assert choose(browser, text="no such text") == 0
    assert "No rollout is like that" in browser.text("#list")
    browser.ask("document.querySelector('#filters [type=reset]').click()")
    browser.wait(lambda: choose(browser) == count)


def test_a_shape_and_an_outcome_lead_to_their_rollouts(browser, page, run):
    browser.open(page)
    training = records(run, "step_*")
    browser.ask("[...document.querySelectorAll('#shapes button')].find((b) => b.textContent === 'Programmer').click()")
    browser.wait(lambda: "Programmer ×" in browser.text("#count"))
    assert choose(browser) == sum(record["workflow"] == "Programmer" for record in training)
    outcomes = "[...document.querySelectorAll('#outcome-counts button')]"
    browser.ask(f"{outcomes}.find((b) => b.textContent === 'PARSE').click()")
    browser.wait(lambda: choose(browser) == sum(record["outcome"] == "PARSE" for record in records(run)))


def test_only_the_rows_in_view_exist(browser, page, run):
    browser.open(page)
    assert len(records(run)) > 150
    assert browser.number("#list .row") < 40
    browser.ask("document.querySelector('.viewport').scrollTop = 1e9")
    browser.wait(lambda: browser.text("#list .row:last-child .when") == "eval 0")
    assert browser.number("#list .row") < 40


def test_a_rollout_opens_to_its_workflow_and_calls_by_keyboard_alone(browser, page, run):
    browser.open(page)
    loops = "CustomCodeGenerate -> (Test ? Revise : done) * 3"
    browser.ask("document.querySelector('.viewport').focus()")
    choose(browser, text=loops, stage="training", sort="oldest first")
    browser.ask("document.querySelector('.viewport').focus()")
    browser.press("ArrowDown")
    browser.press("Enter")
    browser.wait(lambda: browser.ask("return document.getElementById('detail').open"))
    path, line, record = [
        (path, line, record)
        for path in sorted((run / "rollouts").glob("step_*"))
        for line, record in enumerate(read_rollouts(path))
        if record["workflow"] == loops
    ][1]
    step = int(path.name[5:11])
    assert browser.text("#detail-title") == f"Step {step}, rollout {line + 1}"
    names = browser.ask("return [...document.querySelectorAll('.graph .name')].map((node) => node.textContent)")
    assert sorted(names) == ["CustomCodeGenerate", "Revise", "Test"]
    assert browser.number(".graph .node.ran") == 1
    assert browser.number(".graph .node.idle") == 2
    assert "up to 3×" in browser.text(".graph")
    said = browser.text(".detail-body")
    for text in (record["question"], record["gold"], record["text"], record["prompt"], loops):
        assert text in said
    (call,) = record["trace"]
    assert browser.number("details.call[open]") == 0
    browser.ask("document.querySelector('.graph .node.ran').focus()")
    browser.press("Enter")
    assert browser.number("details.call[open]") == 1
    shown = browser.text("details.call[open]")
    for text in (*call["outputs"].values(), call["inputs"]["solution"], "90 + 30 tokens", "$0.00010", "1. Custom"):
        assert text in shown
    assert browser.number(".group button") == 4
    browser.press("j")
    browser.wait(lambda: browser.text("#detail-title") != f"Step {step}, rollout {line + 1}")
    browser.press("Escape")
    browser.wait(lambda: not browser.ask("return document.getElementById('detail').open"))
    assert browser.ask("return document.activeElement.className") == "viewport"


def test_an_address_names_a_rollout(browser, page):
    browser.open(f"{page}#step_000004/3")
    browser.wait(lambda: browser.ask("return document.getElementById('detail').open"))
    assert browser.text("#detail-title") == "Step 4, rollout 4"


def test_hostile_texts_of_models_are_texts(browser, page, run):
    path, line = next(
        (path, line)
        for path in sorted((run / "rollouts").glob("step_*"))
        for line, record in enumerate(read_rollouts(path))
        if record["outcome"] == "PARSE"
    )
    address = f"{page}#{path.name.removesuffix('.jsonl.gz')}/{line}"
    browser.open(address, charts=True)
    browser.wait(lambda: browser.ask("return document.getElementById('detail').open"))
    assert HOSTILE in browser.text(".detail-body")
    for _ in range(4):
        title = browser.text("#detail-title")
        browser.press("j")
        browser.wait(lambda shown=title: browser.text("#detail-title") != shown)
        browser.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert HOSTILE in browser.text(".detail-body")
    assert browser.ask("return document.title") == "example · aflow_jax"
    assert browser.number("img, iframe, object, embed, [onload], [onerror]") == 0
    assert browser.requests() == [page]


def test_nothing_can_run_or_be_sent_whatever_gets_in(desktop, page):
    """The second line: were a text ever read as markup, the page's policy would stop it."""
    desktop.open(page)
    desktop.complaints(), desktop.requests()
    add = "const it = document.createElement(arguments[0]); it[arguments[1]] = arguments[2]; document.body.append(it)"
    desktop.ask(add, "div", "innerHTML", HOSTILE)
    desktop.ask(add, "script", "textContent", "document.title = 'taken'")
    desktop.ask("fetch('http://127.0.0.1:9/').catch(() => { document.body.dataset.sent = 'refused' })")
    desktop.wait(lambda: desktop.ask("return document.body.dataset.sent") == "refused")
    assert desktop.ask("return document.title") == "example · aflow_jax"
    assert desktop.requests() == []
    assert any("Content Security Policy" in complaint for complaint in desktop.complaints())


def test_the_theme_is_the_systems_until_one_is_chosen(browser, page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(page)
    light = browser.ask(ground)
    for wanted in ("dark", "light"):
        preference = [{"name": "prefers-color-scheme", "value": wanted}]
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": preference})
        assert (browser.ask(ground) == light) == (wanted == "light")
    browser.ask("const button = document.getElementById('theme'); button.click(); button.click()")
    assert browser.text("#theme") == "Theme: dark"
    assert browser.ask(ground) != light
    browser.ask("document.getElementById('theme').click()")


def test_every_control_has_a_name(browser, page):
    browser.open(page)
    unnamed = browser.ask(
        """return [...document.querySelectorAll("button, input, select, [role=img], [role=listbox], [role=region]")]
             .filter((node) => !(node.textContent.trim() || node.getAttribute("aria-label") || node.labels?.length))
             .map((node) => node.outerHTML)"""
    )
    assert unnamed == []
    heads = browser.ask("return [...document.querySelectorAll('.plot')].map((node) => node.getAttribute('aria-label'))")
    assert all("over steps" in head for head in heads)


def test_a_phone_shows_all_of_it_without_scrolling_sideways(page, tmp_path):
    with chromium(tmp_path / "profile", phone=True) as phone:
        phone.open(page)
        width = "return [innerWidth, document.documentElement.scrollWidth]"
        phone.ask("document.getElementById('more-curves').open = true")
        assert phone.ask(width) == [390, 390]
        choose(phone, text="ScEnsemble")
        phone.ask("document.querySelector('#list .row').click()")
        phone.wait(lambda: phone.ask("return document.getElementById('detail').open"))
        assert phone.ask(width) == [390, 390]
        assert phone.ask("const d = document.querySelector('.detail-body'); return d.scrollWidth <= d.clientWidth")
        assert phone.complaints() == []


def test_a_run_without_steps_says_why_it_is_empty(browser, tmp_path):
    run = tmp_path / "new"
    run.mkdir()
    (run / "config.yaml").write_text("exp_name: new\nkl_loss_coef: 0.0\neval_every: 0\nwarm_start: {steps: 80}\n")
    browser.open(save_page(run).path.as_uri())
    assert "after the warm start" in browser.text("#tiles")
    assert "kl_loss_coef is 0" in browser.text("#curves")
    assert "eval_every is 0" in browser.text("#evaluation-tables")
    assert "No rollouts yet" in browser.text("#list")


def test_what_cannot_be_read_is_said_on_the_page(browser, tmp_path):
    run = make_run(tmp_path / "torn", steps=2)
    path = run / "rollouts" / "step_000002.jsonl.gz"
    path.write_bytes(path.read_bytes()[:100])
    saved = save_page(run)
    assert len(saved.faults) == 1
    browser.open(saved.path.as_uri())
    assert "rollouts/step_000002.jsonl.gz cannot be read" in browser.text("#faults")


def test_the_watched_page_follows_the_run(browser, tmp_path):
    run = make_run(tmp_path / "live", steps=3)
    command = [sys.executable, "-m", "aflow_jax.report", str(run), "--watch", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[0]
        browser.open(address)
        before = len(records(run))
        assert choose(browser) == before
        assert "step 3 of 3" in browser.text("#facts")
        choose(browser, domain="math")
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        del last["step"]
        write_rollouts(run / "rollouts", "step_000004", records(run, "step_000003"))
        MetricsFile(run / "metrics.jsonl", first_step=4).write(4, last)
        browser.wait(lambda: "step 4 of 3" in browser.text("#facts"))
        math = sum(record["problem"]["domain"] == "math" for record in records(run))
        assert choose(browser) == math  # the filter chosen before still holds
        browser.ask("document.querySelector('#list .row').click()")
        browser.wait(lambda: browser.ask("return document.getElementById('detail').open"))
        assert [request for request in browser.requests() if not request.startswith(address)] == []
    finally:
        server.terminate()
        server.wait(timeout=30)
    browser.wait(lambda: "not connected" in browser.text("#state"))
    browser.complaints()  # the connections that were refused


def test_rollouts_are_carried_as_they_lie_in_the_run(page, run):
    html = Path(page.removeprefix("file://")).read_text(encoding="utf-8")
    assert HOSTILE not in html
    assert gzip.decompress((run / "rollouts" / "step_000001.jsonl.gz").read_bytes()).decode().count("\n") == 8
