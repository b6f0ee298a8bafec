"""Archives as torch writes them, read so that nothing in them is executed."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping

from circuitkit.errors import CircuitError, CircuitkitError
from circuitkit.util.reading import require_file

__all__ = ["unpickled"]


def unpickled(path: str | os.PathLike[str], keys: str) -> Mapping[object, object]:
    """The dictionary (of these ``keys``, in words) in an archive, read so that it takes no more
    memory than the file's own size. Raises CircuitError where it holds more than tensors, lists,
    texts and numbers."""
    import torch

    try:
        require_file(path)
        _require_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CircuitError("there is no such file") from error
    except CircuitkitError:
        raise
    except Exception as error:  # a damaged pickle can raise any: IndexError, MemoryError, ...
        raise CircuitError(
            "it is not a .pt file, or holds more than tensors, lists, texts and numbers"
        ) from error
    if not isinstance(data, dict):
        raise CircuitError(f"it is not a dictionary with {keys}")
    return data


def _require_stored(path: str | os.PathLike[str]) -> None:
    """Raise CircuitError for what is not an archive as torch.save writes it since 1.6: its parts
    are not compressed, so that they are not larger than the file, and as their checksums say."""
    size = os.stat(path).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            claimed = sum(part.file_size for part in parts)
            compressed = claimed > size or any(part.compress_type for part in parts)
            damaged = None if compressed else archive.testzip()
    except Exception as error:  # a damaged archive can raise any: BadZipFile, struct.error, ...
        raise CircuitError("it is not a .pt file of torch 1.6 or later") from error
    if compressed:
        raise CircuitError("it is compressed, or claims to hold more than it does; save it anew")
    if damaged is not None:
        raise CircuitError(f"its part {damaged!r} is damaged: the checksum is wrong")
