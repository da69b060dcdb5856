"""Class names: one per line, stripped, each once. LF, CRLF and CR alone end a line: all else may stand in a name."""

from __future__ import annotations

import io
import os
from collections import Counter

from raydistill.errors import CorpusError, first_line, shown
from raydistill.paths import is_uri, open_path

MOST_BYTES = 4 << 20


def read_class_names(path: str | None) -> list[str]:
    """The class names in file order; blanks around them and empty lines are dropped. Raises CorpusError."""
    if not path:
        raise CorpusError("--class-names-file is missing.")
    try:
        content = _beginning(path)
    except (OSError, ValueError) as error:
        raise CorpusError(f"--class-names-file {path}: cannot be read ({first_line(error)}).") from None
    if len(content) > MOST_BYTES:
        raise CorpusError(f"--class-names-file {path}: is larger than {MOST_BYTES >> 20} MiB. Is it the corpus?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"--class-names-file {path}: is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from None
    if text.count("\0") > len(text) // 4:  # as Latin letters have in two bytes
        raise CorpusError(f"--class-names-file {path}: is not UTF-8 text, but may be UTF-16. Save it as UTF-8.")
    names = [name for line in io.StringIO(text, newline=None) if (name := line.strip())]
    if not names:
        raise CorpusError(f"--class-names-file {path}: holds no class name. Write one per line.")
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise CorpusError(f"--class-names-file {path}: {shown(doubled[0])} is listed more than once. Keep one of each.")
    return names


def _beginning(path: str) -> bytes:
    """As much of a file, by path or URI, as is read. Raises OSError and ValueError."""
    if not is_uri(path):
        with open(os.path.expanduser(path), "rb") as file:
            return file.read(MOST_BYTES + 1)
    filesystem, where = open_path(path)
    with filesystem.open_input_stream(where, compression=None) as stream:
        return bytes(stream.read(MOST_BYTES + 1))
