"""Reads the tables of programs in `cases/`: `### name`, then the parts of the case divided by lines of `---`."""

from pathlib import Path

FOLDER = Path(__file__).parent / "cases"

Cases = dict[str, tuple[str, ...]]


def read_cases(table: str) -> Cases:
    """Name → the case's parts, in the file's order."""
    cases = {}
    for block in (FOLDER / f"{table}.txt").read_text().split("### ")[1:]:
        name, _, body = block.partition("\n")
        cases[name] = tuple(part.strip("\n") + "\n" for part in body.split("\n---\n"))
    return cases
