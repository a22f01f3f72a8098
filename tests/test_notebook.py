"""scripts/colab.ipynb, executed from its first cell to its last, off Colab, with the quick start cut small."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from test_readme import ENVIRONMENT, SMALL

REPOSITORY = Path(__file__).parent.parent
NOTEBOOK = REPOSITORY / "scripts/colab.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nbformat.NotebookNode, Path]:
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": REPOSITORY}})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AFLOW_NOTEBOOK_SETTINGS", SMALL)
        patch.setenv("AFLOW_NOTEBOOK_FOLDER", str(folder))
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        client.execute()
    return notebook, folder / "notebook"


def said(cell: nbformat.NotebookNode) -> str:
    """Return what a cell printed, without the colours that a notebook's kernel asks programs for."""
    return re.sub(r"\x1b\[[\d;]*m", "", "".join(output.get("text", "") for output in cell.outputs))


def test_the_form_trains_and_shows_the_page(executed) -> None:
    notebook, folder = executed
    form = next(cell for cell in notebook.cells if "@param" in cell.source)
    assert "training with quickstart\n" in said(form)
    assert "step 1/1" in said(form)
    pages = [output for output in form.outputs if "text/html" in output.get("data", {})]
    assert "iframe srcdoc=" in pages[0].data["text/html"]
    assert (folder / "checkpoints/step_1").is_dir()


def test_run_again_it_goes_on_from_the_newest_checkpoint(executed) -> None:
    notebook, _ = executed
    again = next(cell for cell in notebook.cells if cell.source.startswith("CODE = train("))
    assert "resumed: step 1" in said(again)
    assert again.outputs[-1].data["text/plain"] == "0"


def test_the_notebook_is_kept_without_outputs_and_never_shows_a_key() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    assert not any("print(os.environ" in cell.source for cell in notebook.cells)
