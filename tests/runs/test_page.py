"""What the page carries, and what its server answers; how it looks is tested in a browser."""

import gzip
import json
import re
import sys
from pathlib import Path

import pytest
from example_run import HOSTILE, make_run
from starlette.testclient import TestClient

import aflow_jax.runs.page
from aflow_jax.errors import UserError
from aflow_jax.runs import read_rollouts
from aflow_jax.runs.page import RunContents, live_app, save_page
from aflow_jax.runs.page.document import SCRIPTS
from aflow_jax.runs.page.index import shape_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "example", steps=6)


def test_every_rollout_has_a_row_in_the_order_of_the_files(run: Path) -> None:
    index = RunContents(run).payload()["rollouts"]
    names = [file["name"] for file in index["files"]]
    assert names[:3] == ["eval_000000.jsonl.gz", "step_000001.jsonl.gz", "step_000002.jsonl.gz"]
    assert names.index("eval_000005.jsonl.gz") == names.index("step_000005.jsonl.gz") + 1
    records = [record for name in names for record in read_rollouts(run / "rollouts" / name)]
    columns, known = index["columns"], index["dictionaries"]
    assert [known["domain"][code] for code in columns["domain"]] == [record["problem"]["domain"] for record in records]
    assert columns["reward"] == [round(record["reward"], 4) for record in records]
    shapes = [None if code is None else known["shape"][code] for code in columns["shape"]]
    assert [shape is None for shape in shapes] == [record["workflow"] is None for record in records]


@pytest.mark.parametrize(
    ("workflow", "shape"),
    [
        ('Custom("List (all) -> of [them].") -> Format', "Custom -> Format"),
        (r'[Custom("say \"(hi)\""), Programmer("\\")] -> ScEnsemble', "[Custom, Programmer] -> ScEnsemble"),
        ("(Test ? Revise : done) * 3", "(Test ? Revise : done) * 3"),
    ],
)
def test_a_shape_is_the_workflow_without_its_instructions(workflow: str, shape: str) -> None:
    assert shape_of(workflow) == shape


def test_a_line_of_metrics_under_way_is_left_for_later(run: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0.25}\n{"step": 2, "rew')
    contents = RunContents(tmp_path)
    assert contents.payload()["metrics"] == {"step": [1], "reward": [0.25]}
    assert contents.faults == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "rew\n{"step": 2, "reward": 0.5}\n')
    assert contents.payload()["metrics"] == {"step": [2], "reward": [0.5]}
    assert contents.faults[0].startswith("metrics.jsonl, line 1 cannot be read and is left out")


def test_a_page_too_large_carries_evaluations_and_evenly_spaced_steps(run: Path, tmp_path: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in (run / "rollouts").iterdir()}
    saved = save_page(run, tmp_path / "page.html", most_bytes=sum(sizes.values()) - 1)
    carried = re.findall(r'id="((?:step|eval)_\d+)\.jsonl\.gz"', saved.path.read_text())
    assert carried == ["eval_000000", "step_000002", "step_000004", "eval_000005", "step_000006"]
    assert saved.left_out == 3


def test_no_text_of_a_model_stands_in_the_document(run: Path, tmp_path: Path) -> None:
    html = save_page(run, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert HOSTILE not in html
    assert "onerror" not in html
    assert html.count("</script>") == html.count("<script")


def test_no_script_of_the_page_makes_markup_of_text() -> None:
    scripts = list((Path(aflow_jax.runs.page.__file__).parent / "assets").glob("*.js"))
    assert len(scripts) == len(SCRIPTS)
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
    assert [path.name for path in scripts if forbidden.search(path.read_text(encoding="utf-8"))] == []


def test_a_page_without_plotly_is_refused_in_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UserError, match="not installed: pip install plotly"):
        save_page(run)


def test_the_server_gives_the_payload_once_for_each_change(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=1)
    client = TestClient(live_app(run), base_url="http://127.0.0.1")
    assert client.get("/").text.startswith("<!doctype html>")
    first = client.get("/payload")
    assert json.loads(gzip.decompress(first.content))["run"]["name"] == "example"
    again = client.get("/payload", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2}\n')
    assert client.get("/payload", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_the_server_gives_rollouts_and_no_other_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=1)
    client = TestClient(live_app(run), base_url="http://localhost:8090")
    path = run / "rollouts" / "step_000001.jsonl.gz"
    assert client.get("/rollouts/step_000001.jsonl.gz").content == path.read_bytes()
    for name in ("step_000009.jsonl.gz", "config.yaml", "..%2fconfig.yaml", "%2e%2e/config.yaml"):
        assert client.get(f"/rollouts/{name}").status_code == 404


def test_the_server_answers_to_this_machines_names_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=1)
    assert TestClient(live_app(run), base_url="http://elsewhere.example").get("/payload").status_code == 400
