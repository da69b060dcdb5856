"""Whether what a run has left is whole and right: each check by itself, in one process, without Ray."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydistill.config import TRAIN
from raydistill.corpus import clean, make_splits, text_id
from raydistill.corpus_files import CorpusFile, corpus_signature, find_files
from raydistill.corpus_readers import read_splits
from raydistill.engines.engine import TOLERANCE, engine_name, share_off
from raydistill.errors import RaydistillError, RunDirError, counted, first_line
from raydistill.files import Folder, parse_record
from raydistill.known_texts import Census, take_census
from raydistill.label_store import LabelStore, logits_matrix
from raydistill.rejected import REJECTED
from raydistill.run_dir import CHECKPOINTS, LABELS, RECORD, damaged_file, edited_files, read_record
from raydistill.seals import look_at_checkpoints
from raydistill.specs import TeacherSpec

LEAST_SAMPLED = 32
SPLIT_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Check:
    """What was looked at, whether it is as it should be (None: it was not looked at), and what was found."""

    name: str
    passed: bool | None
    found: str


@dataclasses.dataclass
class Sample:
    """Rows of the store drawn at random, each as likely as any other, in one pass."""

    size: int
    rng: np.random.Generator
    keys: npt.NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.empty(0))
    rows: pa.Table | None = None

    def add(self, table: pa.Table) -> None:
        """Offer some rows."""
        keys = np.concatenate([self.keys, self.rng.random(table.num_rows)])
        rows = pa.concat_tables([self.rows, table]) if self.rows is not None else table
        kept = np.argsort(keys)[: self.size]
        self.keys, self.rows = keys[kept], rows.take(kept)


def verify_run(
    output_dir: str, sample: float, *, trust_remote_code: bool = False, allow_pickle_weights: bool = False
) -> Iterator[Check]:
    """Check a run directory; a check that cannot be made has failed.

    Args:
        sample: the share of labelled texts that the teacher scores again, 32 at least; 0 for none.
        trust_remote_code, allow_pickle_weights: as for a run. What the run was told does not count: its directory may
            come from somebody else.

    Raises:
        RunDirError: there is no run.
    """
    folder = Folder(output_dir)
    try:
        run = read_record(folder)
    except (FileNotFoundError, ValueError):
        raise RunDirError(f"{folder.path}: holds no {RECORD} that can be read. Give a run's --output-dir.") from None
    made_with, options = run.get("made_with", {}), run.get("options", {})
    if "labels" in made_with or folder.has(LABELS):
        loading = {
            "trust_remote_code": trust_remote_code,
            "allow_pickle_weights": allow_pickle_weights,
            "use_fast_tokenizer": options.get("use_fast_tokenizer", True),
        }
        store = LabelStore(folder.child(LABELS).path)
        yield from _verify_labels(store, made_with.get("labels") or {}, sample, loading)
    elif options.get("labels"):
        yield Check("labels", None, f"not checked: they lie in {options['labels']}")
    if "student" in made_with:
        yield _checked("student", lambda: _verify_student(folder, run))
    if folder.has(CHECKPOINTS):
        yield _checked("checkpoints", lambda: _verify_checkpoints(folder))
    if not made_with and not folder.has(LABELS):
        yield Check("run", False, "nothing has been run here yet")


def _checked(name: str, look: Any) -> Check:
    """The check that `look` makes: what it returns was found; what it raises is what is wrong."""
    try:
        return Check(name, True, look())
    except (RaydistillError, OSError, ValueError) as error:
        return Check(name, False, first_line(error))
    except Exception as error:  # damage may show itself as any
        return Check(name, False, f"{type(error).__name__}: {first_line(error)}")


def _verify_labels(
    store: LabelStore, made_with: dict[str, Any], share: float, loading: dict[str, Any]
) -> Iterator[Check]:
    record: dict[str, Any] = {}

    def look_at_record() -> str:
        found = store.complete_record()
        store.expect_all_texts()
        record.update(found)
        return f"complete: {record['complete']['texts']:,} texts, {record['complete']['pairs']:,} pairs"

    yield _checked("record", look_at_record)
    yield _checked("files", lambda: _verify_files(store))
    if not record:
        for name in ("rows", "counts", "corpus", "teacher"):
            yield Check(name, None, "not checked: the record is not as it should be")
        return
    complete, labelling = record["complete"], record["labelling"]
    wanted = max(LEAST_SAMPLED, math.ceil(share * complete["distinct"])) if share else 0
    sample = Sample(wanted, np.random.default_rng())
    yield _checked("rows", lambda: _verify_rows(store, len(labelling["class_names"]), sample))
    yield _checked("counts", lambda: _verify_counts(store, complete))
    if _corpus_has_changed(complete, made_with):
        yield Check("corpus", None, "not compared: it has changed since")
    else:
        yield _checked("corpus", lambda: _verify_corpus(store, complete, made_with))
    if wanted:
        yield _checked("teacher", lambda: _verify_sample(record, sample, loading))
    else:
        yield Check("teacher", None, "not checked: --sample is 0")


def _verify_files(store: LabelStore) -> str:
    sizes = store.folder.sizes(".parquet")
    if not sizes:
        raise ValueError("there are no label files")
    broken = [name for name in sizes if not store.is_whole(name)]
    if broken:
        raise ValueError(f"{len(broken)} of {len(sizes)} label files are not what their names say: {broken[0]}")
    return f"{counted(len(sizes), 'label file')}, {sum(sizes.values()) / 1e6:,.1f} MB, every checksum right"


def _verify_rows(store: LabelStore, num_classes: int, sample: Sample) -> str:
    number = 0
    for name in store.parts():
        for table in store.read_part(name):
            texts, ids = table["text"].to_pylist(), table["text_id"].to_pylist()
            for column in ("entailment", "contradiction"):
                try:
                    finite = np.isfinite(logits_matrix(table[column], num_classes)).all()
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
                if not finite:
                    raise ValueError(f"{name}: a logit is not finite")
            if [text_id(text) for text in texts] != ids:
                raise ValueError(f"{name}: an id is not that of its text")
            if (table["occurrences"].to_numpy() < 0).any():
                raise ValueError(f"{name}: a text has a negative number of occurrences")
            sample.add(table)
            number += table.num_rows
    return f"{number:,} rows of {num_classes} classes, finite, every id that of its text"


def _verify_counts(store: LabelStore, complete: dict[str, Any]) -> str:
    census = store.census(about=complete["texts"])
    if census != Census(complete["texts"], complete["distinct"], complete["id"]):
        raise ValueError(
            f"holds {census.texts:,} texts, {census.distinct:,} of them distinct, and the record says "
            f"{complete['texts']:,} and {complete['distinct']:,}"
            + (", or others" if census.texts == complete["texts"] else "")
        )
    return f"{census.texts:,} texts, {census.distinct:,} distinct, each as often as recorded"


def _corpus_has_changed(complete: dict[str, Any], made_with: dict[str, Any]) -> bool:
    try:
        return corpus_signature(*_corpus(made_with)) != complete["corpus"]
    except (RaydistillError, ValueError):
        return False  # the check will say so


def _corpus(made_with: dict[str, Any]) -> tuple[list[CorpusFile], str]:
    """The files that labels were made of, and the column with their texts. Raises ValueError and CorpusError."""
    names, told = made_with.get("data_file"), [made_with.get("text_column"), made_with.get("encoding", "utf-8")]
    if not isinstance(names, list) or not all(isinstance(value, str) for value in [*names, *told]) or not names:
        raise ValueError(f"{RECORD} does not say which one it was")
    column, encoding = told
    return find_files(names, encoding), column


def _verify_corpus(store: LabelStore, complete: dict[str, Any], made_with: dict[str, Any]) -> str:
    (files, text_column), blanks = _corpus(made_with), 0

    def rows() -> Iterator[tuple[Sequence[str], npt.NDArray[np.int64]]]:
        nonlocal blanks
        for lines in read_splits(make_splits(files, SPLIT_BYTES), text_column):
            texts = [text for text in map(clean, lines) if text]
            blanks += len(lines) - len(texts)
            yield [text_id(text) for text in texts], np.ones(len(texts), dtype=np.int64)

    corpus = take_census(rows(), about=complete["texts"])
    rejected = _rejected(store) if complete["rejected"] else []
    counted = [(row["text_id"], row["occurrences"]) for row in rejected]
    aside = take_census(iter([_columns(counted)]), about=len(counted))
    kept = Census(complete["texts"], complete["distinct"], complete["id"])
    # A text that fails in one block alone, as for want of memory, is in both: their distinct ones do not add up.
    both = kept + aside
    if (corpus.texts, corpus.digest, blanks) != (both.texts, both.digest, complete["blanks"]):
        raise ValueError(
            f"holds {corpus.texts:,} texts and {blanks:,} blank ones; labelled were {kept.texts:,}, rejected "
            f"{aside.texts:,}, dropped as blank {complete['blanks']:,}"
        )
    shares = f"{kept.texts:,} labelled + {aside.texts:,} rejected"
    return f"{corpus.texts:,} texts = {shares}, and {blanks:,} blank ones dropped"


def _rejected(store: LabelStore) -> list[dict[str, Any]]:
    try:
        lines = store.folder.read(REJECTED).splitlines()
    except FileNotFoundError:
        raise ValueError(f"{REJECTED} is gone, and rejected texts are recorded") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(parse_record(line))
        except ValueError:
            raise ValueError(f"{REJECTED}: line {number} is damaged") from None
    return rows


def _columns(rows: Sequence[tuple[str, int]]) -> tuple[list[str], npt.NDArray[np.int64]]:
    return [key for key, _ in rows], np.array([times for _, times in rows], dtype=np.int64)


def _verify_sample(record: dict[str, Any], sample: Sample, loading: dict[str, Any]) -> str:
    from raydistill.nli import describe_teacher
    from raydistill.pretrained import pinned
    from raydistill.teacher import Teacher

    labelling, precision = record["labelling"], record["scoring"]["precision"]
    named = TeacherSpec(
        name_or_path=labelling["teacher"],
        class_names=tuple(labelling["class_names"]),
        hypothesis_template=labelling["hypothesis_template"],
        max_length=labelling["max_length"],
        precision=precision,
        entailment_id=labelling["entailment_id"],
        contradiction_id=labelling["contradiction_id"],
        fingerprint=labelling["teacher_fingerprint"],
        revision=labelling.get("teacher_revision"),
        **loading,
    )
    spec = pinned(named, "the teacher")
    described = describe_teacher(spec)
    found = described["teacher_fingerprint"]
    if found != labelling["teacher_fingerprint"]:
        if labelling.get("trust_remote_code") and not spec.trust_remote_code:
            raise ValueError(f"{labelling['teacher']}: ran its own code, which --trust-remote-code allows here as well")
        raise ValueError(f"{labelling['teacher']}: is another one now: its fingerprint is {found}")
    if sample.rows is None:
        raise ValueError("there are no rows to score again")
    work = described["teacher_parameters"] * len(sample.keys) * len(spec.class_names)
    teacher = Teacher.load(dataclasses.replace(spec, work=work))
    logits = teacher.score(sample.rows["text"].to_pylist())
    held = [logits_matrix(sample.rows[name], len(spec.class_names)) for name in ("entailment", "contradiction")]
    off = share_off(np.stack(logits), np.stack(held))
    if not off <= TOLERANCE[precision]:
        raise ValueError(f"scores {len(sample.keys):,} texts otherwise: logits are off by {off:.2g} of their size")
    return f"{len(sample.keys):,} texts scored again by {engine_name(teacher.engine)}: logits within {off:.1e}"


def _verify_checkpoints(folder: Folder) -> str:
    found = look_at_checkpoints(folder.child(CHECKPOINTS))
    if broken := [name for name, whole in found.items() if not whole]:
        raise ValueError(f"{len(broken)} of {counted(len(found), 'checkpoint')} are not whole: {broken[0]}")
    return f"{counted(len(found), 'checkpoint')}, every checksum right"


def _verify_student(folder: Folder, run: dict[str, Any]) -> str:
    from safetensors.torch import load

    if not run.get("stages", {}).get(TRAIN, {}).get("finished"):
        raise ValueError("its training is not finished. Run the same command again to go on")
    published = run.get("published")
    if damaged := damaged_file(folder, published):
        raise ValueError(f"its {damaged} is gone or damaged. Run the same command again to make it anew")
    classes = json.loads(folder.read("config.json"))["id2label"].values()
    number = 0
    for file in folder.names(".safetensors"):
        try:
            weights = load(folder.read(file))
        except Exception as error:  # safetensors has its own
            raise ValueError(f"{file}: {first_line(error)}") from None
        for name, tensor in weights.items():
            number += tensor.numel()
            if not tensor.isfinite().all():
                raise ValueError(f"{file}: a weight of {name} is not finite")
    edited = edited_files(folder, published)
    since = f"; {', '.join(edited)}: changed since" if edited else ""
    return f"{number:,} weights, finite, for {len(classes)} classes{since}"
