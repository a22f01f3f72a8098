"""Where the files that come with the package are: beside it in a checkout, inside it in a wheel."""

from pathlib import Path

from aflow_jax.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def packaged_config(name: str) -> Path:
    """Return the path of `configs/<name>` as shipped; raise UserError where the installation lacks it."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"configs/{name} is missing from this installation: reinstall aflow-jax")
