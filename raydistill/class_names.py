"""Class names: one per line, stripped, each once. LF, CRLF and CR alone end a line: all else may stand in a name."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

from raydistill.errors import CorpusError, first_line, shown

MOST_BYTES = 4 << 20


def read_class_names(path: str | None) -> list[str]:
    """The class names in file order; blanks around them and empty lines are dropped. Raises CorpusError."""
    if not path:
        raise CorpusError("--class-names-file is missing.")
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(MOST_BYTES + 1)
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
    names = [name for line in io.StringIO(text, newline=None) if (name := line.strip())]
    if not names:
        raise CorpusError(f"--class-names-file {path}: holds no class name. Write one per line.")
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise CorpusError(f"--class-names-file {path}: {shown(doubled[0])} is listed more than once. Keep one of each.")
    return names
