"""Model names: a local folder, or the id of a repository on the Hugging Face hub or a mirror of it."""

import re
from pathlib import Path

from aflow_jax.errors import UserError

_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")


def resolve_model(name_or_folder: str | Path) -> Path:
    """Return the folder of a model, downloading it from the hub where the name is not a local folder.

    Downloads show progress, go on where a connection dropped, and honour HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and
    HF_TOKEN. After a process was stopped, files that were whole are kept; how much of the one under way is kept is
    huggingface_hub's doing (2.4: none).

    Raises:
      UserError: neither a folder nor an id that can be reached; says what to put where.
    """
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{folder} is a file, not a model folder: give the folder that holds config.json")
    name = str(name_or_folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) or name.startswith("."):
        raise UserError(
            f"base_model {name}: no such folder: give a model folder, or an id like Qwen/Qwen2.5-7B-Instruct"
        )
    return _download(name)


def _download(name: str) -> Path:
    # Imported here: it reads its environment at import, and takes a second that local folders need not pay.
    from huggingface_hub import constants, errors, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        gated = isinstance(error, errors.GatedRepoError)
        why = "needs access that HF_TOKEN does not give" if gated else "does not exist, or is private"
        raise UserError(f"base_model {name}: {why} on {constants.ENDPOINT}: check the name, or give a folder") from None
    except (errors.HTTPError, OSError) as error:  # that of the HTTP library which this release of the hub's uses
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"base_model {name}: cannot download from {constants.ENDPOINT} ({cause}): put its config.json, tokenizer "
            "files and *.safetensors into a folder and give its path, or set HF_ENDPOINT to a mirror within reach"
        ) from None
