"""python -m aflow_jax.problems."""

from aflow_jax.problems import generate_problems, load_problems
from aflow_jax.problems.__main__ import main


def test_generate_writes_what_check_accepts(tmp_path, capsys):
    file = str(tmp_path / "p.jsonl")
    assert main(["generate", file, "--domain", "qa", "--count", "4", "--seed", "2", "--split", "test"]) == 0
    assert load_problems(file) == generate_problems("qa", 4, 2, "test")
    assert main(["check", file]) == 0
    assert "4 problems, every line well formed\n  qa    synthetic_qa     4" in capsys.readouterr().out


def test_check_counts_repeated_content(tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text('{"question": "Q", "answer": "A", "source": "drop"}\n' * 3)
    assert main(["check", str(file)]) == 0
    assert "2 repeat another problem's content" in capsys.readouterr().out


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text("{}\n")
    assert main(["check", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file}:1: missing field 'source'\n"
