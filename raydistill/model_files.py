"""Whether the files of a model's weights are all there and whole, as far as that shows without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from raydistill.errors import ModelError, first_line

LFS_POINTER = b"version https://git-lfs"


def expect_whole(files: Sequence[Path], option: str) -> None:
    """Raise ModelError for a file that is missing, only points at the weights, or was cut short.

    Of pickled weights, that they are cut short shows only when they are loaded.
    """
    for file in files:
        try:
            with file.open("rb") as stream:
                if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise ModelError(f"{option} {file}: is a pointer to the weights, not the weights: git lfs pull.")
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass  # which reads the header, and holds the size of the file against it
        except FileNotFoundError:
            raise ModelError(f"{option} {file}: is not there, and the index of the weights names it.") from None
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{option} {file}: is damaged or cut short ({first_line(error)}). Copy it again."
            ) from None
