"""Class names: one per line, stripped, each once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from raydistill.errors import CorpusError, first_line


def read_class_names(path: str | None) -> list[str]:
    """The class names in file order; blanks around them and empty lines are dropped. Raises CorpusError."""
    if not path:
        raise CorpusError("--class-names-file is missing.")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"--class-names-file {path}: is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        raise CorpusError(f"--class-names-file {path}: cannot be read ({first_line(error)}).") from None
    names = [name for line in text.split("\n") if (name := line.strip())]
    if not names:
        raise CorpusError(f"--class-names-file {path}: holds no class name. Write one per line.")
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise CorpusError(f"--class-names-file {path}: {doubled[0]!r} stands there more than once. Keep one of each.")
    return names
