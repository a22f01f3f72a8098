"""The command that writes a run's page: what it says, and what it refuses."""

import socket
from pathlib import Path

from example_run import make_run

from aflow_jax.report import main


def test_the_page_lies_in_the_run_folder_or_where_it_is_asked_for(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path / "run", steps=1)
    assert main([str(run)]) == 0
    assert f"{run}/report.html: open it in a browser" in capsys.readouterr().out
    assert main([str(run), "--out", str(tmp_path / "deep" / "page.html")]) == 0
    assert (tmp_path / "deep" / "page.html").read_bytes() == (run / "report.html").read_bytes()


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path / "run", steps=1)
    (tmp_path / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, message in (
            ([str(tmp_path / "none")], "no such folder: give the folder of a run"),
            ([str(tmp_path / "empty")], "holds no run"),
            ([str(run), "--out", str(run / "config.yaml" / "page.html")], "cannot be written"),
            ([str(run), "--watch", "--port", str(taken.getsockname()[1])], "cannot be used"),
        ):
            assert main(arguments) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.startswith("error: ")
            assert error.count("\n") == 1
