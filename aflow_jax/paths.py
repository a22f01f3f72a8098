"""Files by name: the user's own, or those that come with the package, beside it in a checkout, inside it in a wheel."""

from pathlib import Path

from aflow_jax.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def found(path: str | Path) -> Path:
    """Return a file as named, or the packaged one of that name where there is none: configs/aflow_llm.yaml."""
    path = Path(path)
    if path.is_file() or path.is_absolute():
        return path
    packaged = (folder / path for folder in (_PACKAGE, _PACKAGE.parent))
    return next((place for place in packaged if place.is_file()), path)


def found_config(name: str | Path) -> Path:
    """Return a file of settings by its path, or a packaged preset by its name, such as quickstart or gpu/t4_16gb."""
    path = found(name)
    preset = found(f"configs/{name}.yaml")
    return preset if not path.is_file() and preset.is_file() else path


def packaged_config(name: str) -> Path:
    """Return the path of `configs/<name>` as shipped; raise UserError where the installation lacks it."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"configs/{name} is missing from this installation: reinstall aflow-jax")
