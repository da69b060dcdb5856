"""The run directory: who may use it, what `run.json` says of it, and how the student gets into it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raydistill.config import LABEL, LABELS_PRODUCT, STUDENT_PRODUCT, TRAIN, DistillConfig
from raydistill.errors import RunDirError
from raydistill.files import Folder, parse_record
from raydistill.label_store import RECORD as LABELS_RECORD
from raydistill.label_store import LabelStore
from raydistill.option_changes import option_changes

RECORD, LOG, LABELS, CHECKPOINTS = "run.json", "raydistill.log", "labels", "checkpoints"
PRODUCTS = {LABEL: LABELS_PRODUCT, TRAIN: STUDENT_PRODUCT}
EVENTS = "runs"  # of TensorBoard, under the name that Trainer gives them
ROWS = "rows"  # in the folder of checkpoints: what the student is trained on
TABLES_OF_TABLES = frozenset({"made_with", "stages"})  # in the record
TABLES = TABLES_OF_TABLES | {"options", "published", "labelling", "scoring", "counts", "figures", "quote"}
WRITTEN = (RECORD, LOG, f"{LABELS}/part-0.parquet")  # by every run, and not hidden from readers of folders
# What a checkpoint holds: Trainer's own one, and its best one if that is another; or the student and what came of it.
TRAINER, BEST, MODEL, RESULT = "trainer", "best", "model", "result.json"


class RunDir:
    """An output directory, on a disk or an object store, that this run may use. Made by `claim`.

    Attributes:
        record: what `run.json` says.
        torn: whether there is one that says nothing any more.
        anew: whether an earlier run is to be removed first.
    """

    def __init__(self, folder: Folder, record: dict[str, Any], *, torn: bool = False, anew: bool = False) -> None:
        self.folder, self.record, self.torn, self.anew = folder, record, torn, anew

    @classmethod
    def claim(cls, config: DistillConfig, products: Sequence[str]) -> RunDir:
        """Take the output directory for a run that makes some products ("labels", "student"), or raise RunDirError.

        It may be new, empty, or hold an earlier run whose options for these products are the same (but for files added
        to the corpus or taken from it): that one is resumed. With --overwrite-output-dir, an unfinished run that was
        begun with that flag and the same options is resumed, not overwritten: a job that is restarted has the same
        flags. Options of a product that was not begun yet may change freely. Nothing is written yet; see `begin`.
        """
        assert config.output_dir is not None
        try:
            folder = Folder(config.output_dir)
        except RunDirError as error:
            raise RunDirError(f"--output-dir {error}") from None
        if hindrance := folder.hindrance():
            raise RunDirError(f"--output-dir {folder.path}: {hindrance}.")
        if folder.is_empty():
            return cls(folder, {})
        if config.overwrite_output_dir and not _was_stopped(config, products, folder):
            _expect_no_others_names(folder)
            return cls(folder, {}, anew=True)
        try:
            record = _own_record(folder)
        except FileNotFoundError:
            if _holds_labels(folder):
                return cls(folder, {})  # whether its labels are of this run, they say themselves
            _expect_no_others_names(folder)
            raise RunDirError(
                f"--output-dir {folder.path}: is not empty and holds no earlier run. Give another folder, or use this "
                "one as it is with --overwrite-output-dir."
            ) from None
        except ValueError:
            if _holds_labels(folder):
                return cls(folder, {}, torn=True)  # as well
            raise RunDirError(
                f"--output-dir {folder.path}: its {RECORD} is damaged. Start anew with --overwrite-output-dir."
            ) from None
        if folder.has(LABELS) and not folder.child(LABELS).is_there():
            raise RunDirError(
                f"--output-dir {folder.path}: its {LABELS} is a file. Start anew with --overwrite-output-dir."
            )
        begun = [product for product in products if _is_begun(product, folder, record)]
        changed = [line for product in begun for line in _differences(config, product, record)]
        if changed:
            labels_fit = LABELS_PRODUCT in products and not _differences(config, LABELS_PRODUCT, record)
            labels_too = ", labels and all," if LABELS_PRODUCT in products else ""
            cheaper = (
                f" (`raydistill train --labels {folder.child(LABELS).path}` makes another student from the same labels)"
                if labels_fit
                else ""
            )
            raise RunDirError(
                f"--output-dir {folder.path}: holds a run with other options ({'; '.join(changed)}). Give another "
                f"folder{cheaper}, use the same options to continue, or start anew{labels_too} with "
                "--overwrite-output-dir."
            )
        return cls(folder, record)

    def begin(self, config: DistillConfig, products: Sequence[str], **facts: Any) -> None:
        """Say what this run is; where asked for, remove an earlier one first (its labels only if made anew)."""
        if self.anew:
            self._remove_earlier_run(keep_labels=LABELS_PRODUCT not in products)
        made_with = self.record.get("made_with", {}) | {product: config.that_change(product) for product in products}
        asked = self.record.get("made_with", {}).get(LABELS_PRODUCT)
        if asked and LABELS_PRODUCT in products and _precision(self.record) == config.teacher_precision:
            # Which had come to the one that is asked for now, and stays good.
            made_with[LABELS_PRODUCT]["teacher_precision"] = asked.get("teacher_precision", "auto")
        self.update(options=config.options(), made_with=made_with, **facts)

    def _remove_earlier_run(self, *, keep_labels: bool) -> None:
        """Remove what a run of ours has left, and nothing else."""
        try:
            earlier = read_record(self.folder)
        except (FileNotFoundError, ValueError):
            earlier = {}
        self.record = {"quote": earlier["quote"]} if "quote" in earlier else {}
        if keep_labels and self.folder.has(LABELS):
            self.record |= _of_labels(earlier)
        for name in (CHECKPOINTS, *([] if keep_labels else [LABELS])):
            self.folder.delete_tree(name)
        ours = set(earlier.get("published", {}))
        # Of what lies here: a record may have been tampered with. Itself last: it says that the others are ours.
        for name in (*(name for name in self.folder.names() if name in ours), LOG, RECORD):
            self.folder.delete(name)

    def update(self, **facts: Any) -> None:
        """Add facts to `run.json`; tables are merged, all else replaced."""
        for name, value in facts.items():
            old = self.record.get(name)
            self.record[name] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
        self._write(self.record)

    def keep_quote(self, quote: dict[str, Any]) -> None:
        """Put a quote into `run.json`, beside what an earlier run says there; a run that comes after it keeps it.

        Nothing is done to a file that is no run's.
        """
        try:
            record = read_record(self.folder)
        except FileNotFoundError:
            record = {"quote": {}}
        except ValueError:
            record = {}
        if record.keys() & {"quote", "made_with"}:
            self._write(record | {"quote": quote})

    def _write(self, record: dict[str, Any]) -> None:
        content = json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n"
        self.folder.write(RECORD, content.encode())

    @property
    def labels_path(self) -> str:
        """Where the label store lies."""
        return self.folder.child(LABELS).path

    @contextlib.contextmanager
    def log(self, say: Callable[[str], None]) -> Iterator[Path]:
        """The file that Ray's and Transformers' chatter is to be added to: an object store has it at the end.

        Args:
            say: told where it lies until then.
        """
        if self.folder.local:
            yield Path(self.folder.local, LOG)
            return
        with tempfile.NamedTemporaryFile(prefix="raydistill-", suffix=".log") as file:
            with contextlib.suppress(FileNotFoundError):
                file.write(self.folder.read(LOG))
                file.flush()
            say(f"log    {file.name} until the end, then {self.folder.where(LOG)}")
            try:
                yield Path(file.name)
            except BaseException:
                with contextlib.suppress(RunDirError):  # what ended the run is what is to be told
                    self.folder.write(LOG, Path(file.name).read_bytes())
                raise
            self.folder.write(LOG, Path(file.name).read_bytes())

    def publish(self, model: Folder) -> None:
        """Copy a saved model and its tokenizer in, so that a kill leaves no half model.

        config.json, without which nothing loads, goes first and comes last.
        """
        self.folder.delete("config.json")
        names = sorted(model.names(), key=lambda name: name == "config.json")
        self.update(published={name: model.digest(name) for name in names})
        for name in names:
            self.folder.copy(model, name)

    def damaged(self) -> str | None:
        """Which file of the student is gone or damaged; None if none is."""
        return damaged_file(self.folder, self.record.get("published"))


def damaged_file(folder: Folder, published: Mapping[str, Any] | None) -> str | None:
    """Which of the files that were put into a folder is gone or is not what was written; None if none is.

    A config may have been changed by its owner, and need only be JSON.

    Args:
        published: their checksums by name, if they are known.
    """
    for name, digest in (published or {}).items():
        try:
            if _may_be_edited(name):
                json.loads(folder.read(name))
            elif folder.digest(name) != digest:
                return name
        except (FileNotFoundError, ValueError):
            return name
    return None


def edited_files(folder: Folder, published: Mapping[str, Any] | None) -> list[str]:
    """Which of them are not as they were, and may be so; arguments as for `damaged_file`, which has found none."""
    return [
        name for name, digest in (published or {}).items() if _may_be_edited(name) and folder.digest(name) != digest
    ]


def _may_be_edited(name: str) -> bool:
    return name.endswith("config.json")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = ("raydistill", "ray", "torch", "transformers", "tokenizers", "openvino", "nncf", "pyarrow", "numpy")
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the package's own code, brought to a worker without an installation
    return found


def read_record(folder: Folder) -> dict[str, Any]:
    """What `run.json` says. Raises FileNotFoundError where there is none, and ValueError where it is torn.

    It may have been changed by hand: what should be a table and is none, is left out.
    """
    record = {
        name: value
        for name, value in parse_record(folder.read(RECORD)).items()
        if name not in TABLES or isinstance(value, dict)
    }
    for name in TABLES_OF_TABLES & record.keys():
        record[name] = {entry: value for entry, value in record[name].items() if isinstance(value, dict)}
    return record


def _own_record(folder: Folder) -> dict[str, Any]:
    """The same; FileNotFoundError is raised, too, where it is of no run of ours."""
    record = read_record(folder)
    if not record.keys() & {"quote", "made_with"}:
        raise FileNotFoundError(RECORD)
    return record


def _was_stopped(config: DistillConfig, products: Sequence[str], folder: Folder) -> bool:
    """Whether an earlier run was to overwrite as well, had the same options for these products, and did not end."""
    try:
        record = _own_record(folder)
    except (FileNotFoundError, ValueError):
        return False
    ended = {product: record.get("stages", {}).get(stage, {}).get("finished") for stage, product in PRODUCTS.items()}
    return (
        bool(record.get("options", {}).get("overwrite_output_dir"))
        and not all(ended[product] for product in record.get("made_with", {}) if product in ended)
        and not any(_differences(config, product, record) for product in products)
        and not (folder.has(LABELS) and not folder.child(LABELS).is_there())  # a file of that name
    )


def _is_begun(product: str, folder: Folder, record: dict[str, Any]) -> bool:
    """Whether there is anything of a product: of the student also where its labels are gone."""
    if "published" in record:
        return True
    if product == LABELS_PRODUCT:
        labels = folder.child(LABELS)
        return labels.is_there() and bool(LabelStore(labels.path).parts())
    return any(name != ROWS for name in folder.child(CHECKPOINTS).folders())


def _expect_no_others_names(folder: Folder) -> None:
    """Raise RunDirError where there has been no run of ours, and something else has a name that one needs."""
    try:
        _own_record(folder)
    except FileNotFoundError:
        taken = [name for name in (LABELS, CHECKPOINTS, RECORD) if folder.has(name)]
        if taken and not folder.child(LABELS).has(LABELS_RECORD):
            raise RunDirError(
                f"--output-dir {folder.path}: holds {' and '.join(taken)}, which no run of raydistill's has made. Move "
                "that away, or give another folder."
            ) from None
    except ValueError:
        pass  # ours, torn by a power cut


def _holds_labels(folder: Folder) -> bool:
    """Whether there is a label store that knows how it was made. Raises RunDirError where that is damaged."""
    labels = folder.child(LABELS)
    return labels.is_there() and LabelStore(labels.path).record() is not None


def _of_labels(record: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` says of the labels alone."""
    kept: dict[str, Any] = {name: record[name] for name in ("labelling", "scoring", "counts") if name in record}
    for table, entry in (("made_with", LABELS_PRODUCT), ("stages", LABEL)):
        if entry in record.get(table, {}):
            kept[table] = {entry: record[table][entry]}
    return kept


def _differences(config: DistillConfig, product: str, record: dict[str, Any]) -> list[str]:
    """What is no longer as it was when this product was made, a line for each option."""
    then = record.get("made_with", {}).get(product, {})
    if then and product == LABELS_PRODUCT and _precision(record) == config.teacher_precision:
        then = then | {"teacher_precision": config.teacher_precision}  # to which `auto`, or an audit, has come
    return option_changes(then, config, product)


def _precision(record: dict[str, Any]) -> Any:
    scoring = record.get("scoring")
    return scoring.get("precision") if isinstance(scoring, dict) else None
