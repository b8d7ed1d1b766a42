"""The files of a vocoder directory that all kinds of ours have, and reading `config.json`."""

from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from lst.errors import LstError

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "weights.safetensors"
AGAIN: Final = "Make or fetch the vocoder again."

C = TypeVar("C", bound=BaseModel)


def read_config(directory: Path, kind: type[C]) -> C:
    """`config.json` of the vocoder in `directory`, checked. Raises LstError with the key that is wrong."""
    path = directory / CONFIG_FILE
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise LstError(f"{path}: {where}: {first['msg']}.", hint=AGAIN) from error
