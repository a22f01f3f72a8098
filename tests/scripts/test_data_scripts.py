"""scripts/download_datasets.py and scripts/prepare_data.py, from published rows to files that training reads."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import download_datasets
import prepare_data
import pytest
from published_rows import ROWS

from aflow_jax.errors import UserError
from aflow_jax.problems import (
    NearDuplicates,
    content_hash,
    default_sources,
    generate_problems,
    load_problems,
    save_problems,
)


def rows_of(source, configuration: str, split: str) -> list[dict]:
    """Stand in for the hub: a dozen rows of each configuration that differ, and one that is there twice."""
    row = ROWS[source.name]
    field = next(name for name in ("question", "problem", "text", "prompt") if name in row)
    ids = {name: f"{row[name]}{{}}" for name in ("task_id", "query_id", "id") if name in row and source.name != "mbpp"}
    made = []
    for n in range(12):
        number = n + 100 * (split != "train") + 1000 * len(configuration)
        one = {**row, field: f"{row[field]} {number} {configuration}", **{k: v.format(number) for k, v in ids.items()}}
        made.append({**one, "task_id": number} if source.name == "mbpp" else one)
    if source.name == "humaneval":
        made = [{**one, "prompt": f"# {n}\n{row['prompt']}"} for n, one in enumerate(made)]
    return [*made, {**made[0], **({"id": "again"} if "id" in row else {})}]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for source in download_datasets.PUBLISHED.values():
        for split in dict.fromkeys(source.split.values()):
            download_datasets.download(source, split, tmp_path / "raw", rows_of)
    return tmp_path / "raw"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_is_downloaded_is_kept_with_a_receipt_and_not_loaded_again(tmp_path: Path):
    source, loads = default_sources()["math"], []

    def load(source, configuration, split):
        loads.append(configuration)
        return rows_of(source, configuration, split)

    assert download_datasets.download(source, "train", tmp_path, load) == "91 rows"
    assert loads == list(source.hub.configurations)
    assert download_datasets.download(source, "train", tmp_path, load) == "there already, 91 rows"
    assert len(loads) == 7
    path = tmp_path / "math" / "train.jsonl"
    assert json.loads(path.with_suffix(".json").read_text())["revision"] == source.hub.revision
    path.write_text(path.read_text().replace("is", "was", 1))
    assert download_datasets.download(source, "train", tmp_path, load) == "91 rows"


def test_rows_come_as_datasets_gives_them_with_what_a_mirror_lacks_named(tmp_path: Path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    repository = tmp_path / "hub"
    (repository / "distractor").mkdir(parents=True)
    datasets.Dataset.from_list([ROWS["hotpotqa"]]).to_parquet(repository / "distractor" / "train.parquet")
    (repository / "README.md").write_text(
        "---\nconfigs:\n- config_name: distractor\n  data_files: [{split: train, path: distractor/*}]\n---\n"
    )
    source = default_sources()["hotpotqa"]
    local = dataclasses.replace(source, hub=dataclasses.replace(source.hub, repository=str(repository)))
    load = download_datasets.load_from_hub
    assert download_datasets.download(local, "train", tmp_path / "raw", load) == "1 rows"
    assert json.loads((tmp_path / "raw" / "hotpotqa" / "train.jsonl").read_text()) == ROWS["hotpotqa"]
    with pytest.raises(UserError, match="validation\\) cannot be downloaded: Unknown split"):
        download_datasets.download(local, "validation", tmp_path / "raw", load)


def test_a_hub_that_is_out_of_reach_is_one_line(tmp_path: Path, monkeypatch, capsys):
    def unreachable(*_):
        raise UserError("openai/gsm8k (main, train) cannot be downloaded: no route; set HF_ENDPOINT to a mirror")

    monkeypatch.setattr(download_datasets, "load_from_hub", unreachable)
    assert download_datasets.main(["gsm8k", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip().startswith("error: openai/gsm8k (main, train) cannot be downloaded")
    assert download_datasets.main(["gsm9k", "--folder", str(tmp_path)]) == 2
    assert "unknown source 'gsm9k'" in capsys.readouterr().err


def test_the_files_are_clean_in_the_exact_mix_and_described(raw: Path, tmp_path: Path, capsys):
    out = tmp_path / "ready"
    order = ["--raw", str(raw), "--out", str(out), "--train", "60", "--test", "30"]
    assert prepare_data.main(order) == 0
    train, test = (load_problems(out / name) for name in ("train_60_final.jsonl", "test_30_preprocessed.jsonl"))
    assert Counter(problem.domain for problem in train) == {"math": 20, "code": 20, "qa": 20}
    assert Counter(problem.domain for problem in test) == {"math": 10, "code": 10, "qa": 10}
    assert len({content_hash(problem) for problem in [*train, *test]}) == 90
    near = NearDuplicates(test)
    assert not [problem for problem in train if near.find(problem)]
    sheet = (out / "DATASHEET.md").read_text()
    assert "| mbpp | code | google-research-datasets/mbpp at 4bb6404fdc6c | CC BY 4.0 | 13 → 12 |" in sheet
    assert "| train_60_final.jsonl | 60 | " + download_datasets.digest(out / "train_60_final.jsonl") in sheet
    assert "| mbpp | train | duplicate | 1 |" in sheet
    assert "| synthetic_code | code | the project's generator | MIT | 0 → 8 |" in sheet
    made = {path: path.read_bytes() for path in out.iterdir()}
    assert prepare_data.main(order) == 0
    assert capsys.readouterr().err.rstrip().endswith("up to date")
    (out / "manifest.json").unlink()
    assert prepare_data.main(order) == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == made


def test_a_users_file_is_prepared_alike_and_rows_whose_answers_fail_are_named(tmp_path: Path, capsys):
    bad = {"question": "Add.", "answer": "def add(a, b):\n    return a", "source": "mbpp", "id": "bad"}
    save_problems(tmp_path / "mine.jsonl", generate_problems(None, 60, 0))
    with (tmp_path / "mine.jsonl").open("a") as file:
        file.write(json.dumps({**bad, "test": "assert add(1, 2) == 3"}) + "\n")
    save_problems(tmp_path / "held.jsonl", generate_problems("qa", 9, 0, "test"))
    files = ["--train-file", str(tmp_path / "mine.jsonl"), "--test-file", str(tmp_path / "held.jsonl")]
    order = ["--raw", "none", *files, "--out", str(tmp_path / "out"), "--no-fill", "--train", "1000", "--test", "10"]
    assert prepare_data.main(order) == 0
    said = capsys.readouterr().err
    assert "left out: bad: error, 0 of 1 tests pass" in said
    assert "the test split is 3 math problems short of its share" in said
    assert len(load_problems(tmp_path / "out" / "train_1k_final.jsonl")) <= 60


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--raw", "nowhere"], "run python scripts/download_datasets.py gsm8k"),
        (["--raw", "none", "--train-file", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--test", "0"], "--train 10000 --test 0: use 1 or more of each"),
        (["--ratios", "poetry=1"], "--ratios poetry=1: use a domain of math, code, qa"),
        (["--ratios", "math=much"], "--ratios math=much: use DOMAIN=SHARE"),
        (["--ratios", "math=0"], "give at least one domain a share above 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], reason: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare_data.main(arguments) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_source_whose_format_has_changed_stops_with_its_file_and_line(raw: Path, tmp_path: Path, capsys):
    path = raw / "gsm8k" / "train.jsonl"
    path.write_text(path.read_text().replace("####", "Answer:"))
    receipt = path.with_suffix(".json")
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"sha256": download_datasets.digest(path)}))
    assert prepare_data.main(["--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert (
        f"{path}:1: the answer has no line with #### (and 12 more rows of 13 are malformed)" in capsys.readouterr().err
    )
