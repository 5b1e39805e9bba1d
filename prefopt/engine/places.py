"""Where a model lies: a folder in Hugging Face format, or the Hub."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.hub import cached_file

from prefopt.config import ModelConfig
from prefopt.errors import ModelError, nearest


def check_place(name: str, what: str = "model") -> None:
    """Refuse what can only be a mistyped folder before the Hub is asked.

    Args:
        name: a folder or a Hub id.
        what: lies there, for the message.

    Raises:
        ModelError: it looks like a folder and is none.
    """
    path = Path(name).expanduser()
    if (path / "checkpoint.json").is_file():
        raise ModelError(
            f"{what} {name!r} is a checkpoint, which `prefopt train CONFIG --resume` goes on from; models lie in "
            "output_dir when a run is complete, and in output_dir/best"
        )
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    in_existing_folder = path.parent != Path(".") and path.parent.is_dir()
    if path.is_dir() or not (looks_local or in_existing_folder):
        return
    siblings = [folder.name for folder in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    guess = f"; did you mean {str(path.with_name(near))!r}?" if near else ""
    raise ModelError(f"{what} folder {name!r} does not exist{guess}")


def model_file(model: ModelConfig, file: str) -> Path | None:
    """A file of the model, in its folder or from the Hub; None where it has no such file or cannot be reached.

    Raises:
        ModelError: the name is neither a folder nor a Hub id.
    """
    check_place(model.name)
    try:
        path = cached_file(
            model.name,
            file,
            revision=model.revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise ModelError(f"model {model.name!r} cannot be found: {' '.join(str(error).split())[:300]}") from error
    return None if path is None else Path(path)
