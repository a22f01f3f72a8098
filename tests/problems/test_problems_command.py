"""python -m aflow_jax.problems."""

from aflow_jax.problems import generate_problems, load_problems
from aflow_jax.problems.__main__ import main


def test_generate_writes_what_check_accepts(tmp_path, capsys):
    file = str(tmp_path / "p.jsonl")
    assert main(["generate", file, "--domain", "qa", "--count", "4", "--seed", "2", "--split", "test"]) == 0
    assert load_problems(file) == generate_problems("qa", 4, 2, "test")
    assert main(["check", file]) == 0
    said = capsys.readouterr().out
    assert "4 problems, every line well formed\n  qa    synthetic_qa          4  f1          token F1" in said


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


ROWS = (
    '{"question": "1 + 1?", "answer": "2", "source": "gsm8k"}',
    '{"question": "Add.", "answer": "def add(a, b):\\n    return a", "source": "mbpp", "test": "assert add(1, 2) > 1"}',
    '{"question": "Add.", "answer": "def add(a, b):\\n    return a + b", "source": "mbpp"}',
    '{"question": "Which?\\n\\nA. this\\nB. that", "answer": "B", "source": "mmlu"}',
    '{"question": "Which?", "answer": "that", "source": "mmlu"}',
    '{"question": "Who?", "answer": "Ada|Ada L.", "source": "drop", "context": "Ada L. did."}',
)


def test_check_says_for_each_line_what_grades_it(tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(ROWS))
    assert main(["check", str(file), "--lines"]) == 0
    said = capsys.readouterr().out.splitlines()[1:7]
    for line, (words, text) in enumerate(
        zip(
            (
                "p/1: math, gsm8k: equal as numbers",
                "p/2: code, mbpp: hidden tests in the sandbox",
                "p/3: code, mbpp: the judge alone: there are no tests",
                "p/4: qa, mmlu: the option, by letter or text",
                "p/5: qa, mmlu: token F1; the judge below 1",
                "p/6: qa, drop: token F1, the best of several golds",
            ),
            said,
            strict=True,
        ),
        start=1,
    ):
        assert text.startswith(f"{file}:{line}: {words}")


def test_check_runs_reference_answers_when_asked(tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(ROWS))
    assert main(["check", str(file), "--references"]) == 2
    said = capsys.readouterr()
    assert f"{file}:2: p/2: error, 0 of 1 tests pass: assert add(1, 2) > 1" in said.out
    assert said.err == f"error: {file}: 1 problems whose own answers fail their tests: mend or remove them\n"
    file.write_text("\n".join((ROWS[0], ROWS[2])))
    assert main(["check", str(file), "--references"]) == 0
