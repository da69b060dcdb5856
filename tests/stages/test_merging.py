"""Label parts are merged in tasks beside the labelling: nothing is lost, whatever becomes of a merge."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from raydistill.corpus import text_id
from raydistill.corpus_files import find_files
from raydistill.files import Folder
from raydistill.known_texts import KnownTexts
from raydistill.label_store import SCHEMA, LabelStore, logits_column
from raydistill.progress import Console
from raydistill.resources import Request, make_plan
from raydistill.specs import TeacherSpec, Tolerance
from raydistill.stages.cluster import free_nodes
from raydistill.stages.label import label_corpus
from raydistill.stages.merging import TINY, Merger

SPEC = TeacherSpec("", ("sport", "politics"), "This is {}.", parameters=10**8, backend="torch", precision="fp32")


def held(store: LabelStore) -> dict[str, int]:
    """How often every text stands in a store."""
    found: Counter[str] = Counter()
    for name in store.parts():
        for table in store.read_part(name):
            found.update(dict(zip(table["text"].to_pylist(), table["occurrences"].to_pylist(), strict=True)))
    return dict(found)


def label(store: LabelStore, corpus: Path, teacher: Path, console: Console, file_bytes: int) -> int:
    """A pass over a corpus; how many texts were labelled."""
    plan = make_plan(free_nodes(), Request())
    spec = dataclasses.replace(SPEC, name_or_path=str(teacher))
    with console.stage("label", "texts") as progress:
        limits = {"file_bytes": file_bytes, "most_rejected": 0, "tolerance": Tolerance()}
        return label_corpus(find_files([str(corpus)]), "text", spec, store, plan, progress, **limits).labelled


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    store = LabelStore(str(tmp_path / "labels"))
    store.folder.create()
    return store


@pytest.fixture
def small_parts(store: LabelStore) -> dict[str, int]:
    """Twelve parts of a few kilobytes; how often each text stands in them."""
    texts = [f"one two three {i} four five six seven eight nine ten" for i in range(3600)]
    for at in range(0, len(texts), 300):
        logits = np.random.default_rng(at).normal(size=(2, 300, 2)).astype(np.float32)
        rows = texts[at : at + 300]
        columns = [list(map(text_id, rows)), rows, [2] * 300, *map(logits_column, logits)]
        store.write_part(pa.table(columns, schema=SCHEMA))
    return dict.fromkeys(texts, 2)


def test_a_pass_merges_what_it_writes_and_what_lay_there(
    store: LabelStore, small_parts: dict[str, int], tmp_path: Path, tiny_teacher_dir: Path, console: Console
) -> None:
    sizes = store.folder.sizes()
    target = sum(sizes.values()) // 3
    corpus = tmp_path / "corpus.txt"
    more = [f"another text {i} of some more words than one or two" for i in range(3000)]
    corpus.write_text("".join(f"{text}\n" for text in [*small_parts, *more]))
    assert label(store, corpus, tiny_teacher_dir, console, target) == 3000
    assert held(store) == dict.fromkeys([*small_parts, *more], 1)
    names = store.folder.names()
    assert names == store.parts()
    assert len(names) < len(sizes)  # of twice as many
    assert all(map(store.is_whole, names))
    assert label(store, corpus, tiny_teacher_dir, console, target) == 0


def test_texts_of_many_files_stand_together_in_few_parts_without_a_merge(
    store: LabelStore, tmp_path: Path, tiny_teacher_dir: Path, console: Console
) -> None:
    (tmp_path / "corpus").mkdir()
    texts = [f"a text {i} in a file of its own" for i in range(300)]
    for i, text in enumerate(texts):
        (tmp_path / "corpus" / f"{i}.txt").write_text(f"{text}\n")
    assert label(store, tmp_path / "corpus", tiny_teacher_dir, console, file_bytes=1) == 300
    assert held(store) == dict.fromkeys(texts, 1)
    assert len(store.parts()) <= 4  # with many CPUs fewer


@pytest.mark.parametrize(("tiny", "left"), [(1000, 2), (1.5, 4)])
def test_very_many_parts_are_merged_however_small_but_not_again_and_again(
    tiny: float, left: int, store: LabelStore, small_parts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydistill.stages.merging.MOST_TINY", 3)
    sizes = store.folder.sizes()
    merger = Merger(store, round(tiny * max(sizes.values()) / TINY))
    merger.add_others(sizes)
    merger.finish()
    assert (len(sizes), len(store.parts()), len(merger.parts)) == (12, left, left)
    assert held(store) == small_parts


class MergesSilently(LabelStore):
    """Its merges are done, and whoever has done them is gone before it could say so."""

    def merge_parts(self, names: Sequence[str]) -> tuple[str, int]:
        super().merge_parts(names)
        raise ConnectionError("gone")


class DiesWhileMerging(LabelStore):
    """The processes that merge are killed: the first half-way through a file, the next when it is there."""

    def merge_parts(self, names: Sequence[str]) -> tuple[str, int]:
        torn, whole = (Path(f"{self.path}.{what}") for what in ("torn", "whole"))
        if not torn.exists():
            torn.touch()
            with self.folder.draft() as draft:
                draft.sink.write(b"PAR1 and half of it")
                draft.sink.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        merged = super().merge_parts(names)
        if not whole.exists():
            whole.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return merged


class EndsSilently(LabelStore):
    """The same of those that remove what has been merged."""

    def end_replacement(self, name: str, sources: Iterable[str]) -> None:
        super().end_replacement(name, sources)
        raise ConnectionError("gone")


@pytest.mark.parametrize("kind", [MergesSilently, EndsSilently])
def test_what_a_merge_has_made_that_could_not_say_so_stays(
    kind: type[LabelStore], store: LabelStore, tmp_path: Path, tiny_teacher_dir: Path, console: Console
) -> None:
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import this file
    corpus = tmp_path / "corpus.txt"
    texts = [f"a text {i} of some more words than one or two" for i in range(3000)]
    corpus.write_text("".join(f"{text}\n" for text in texts))
    assert label(store, corpus, tiny_teacher_dir, console, 1 << 30) == 3000
    target = sum(store.folder.sizes(".parquet").values()) * 2 // 3
    for name in store.parts():
        store.folder.delete(name)
    try:
        assert label(kind(store.path), corpus, tiny_teacher_dir, console, target) == 3000
    finally:
        ray.cloudpickle.unregister_pickle_by_value(module)
    assert any(store._sources(name) for name in store.parts())
    assert held(store) == dict.fromkeys(texts, 1)


def test_processes_that_are_killed_while_they_merge_lose_nothing(
    store: LabelStore, small_parts: dict[str, int], tmp_path: Path, tiny_teacher_dir: Path, console: Console
) -> None:
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import this file
    corpus, mortal = tmp_path / "corpus.txt", DiesWhileMerging(store.path)
    corpus.write_text("".join(f"{text}\n" for text in small_parts))
    target = sum(store.folder.sizes(".parquet").values()) * 2 // 3
    try:
        for killed in ("torn", "whole"):
            assert not Path(f"{store.path}.{killed}").exists()
            assert label(mortal, corpus, tiny_teacher_dir, console, target) == 0
            assert Path(f"{store.path}.{killed}").exists()
            assert held(store) == dict.fromkeys(small_parts, 1)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(module)
    assert max(len(store._sources(name)) for name in store.parts()) > 1


def test_a_merge_that_fails_leaves_its_parts(store: LabelStore, small_parts: dict[str, int]) -> None:
    names = store.parts()
    damaged = Path(store.path, names[0])
    content = damaged.read_bytes()
    damaged.write_bytes(content[:50])
    merger = Merger(store, sum(store.folder.sizes().values()))
    for name, size in store.folder.sizes().items():
        merger.add(name, size if name != names[0] else len(content))
    merger.finish()
    damaged.write_bytes(content)
    assert merger.parts == set(names) == set(store.parts())
    assert held(store) == small_parts


def test_a_merge_that_is_stopped_leaves_nothing_at_work(store: LabelStore, small_parts: dict[str, int]) -> None:
    merger = Merger(store, sum(store.folder.sizes().values()))
    for name, size in store.folder.sizes().items():
        merger._take(name, size)
    assert merger._running
    refs = list(merger._running)
    merger.close()
    assert not ray.wait(refs, num_returns=len(refs), timeout=0)[1]
    store.folder.sweep()
    store.finish_replacements()
    assert held(store) == small_parts
    assert store.folder.names() == store.parts()


@pytest.mark.parametrize("when", ["before it has published", "after it has published", "when it has done"])
def test_a_merge_that_was_given_up_while_it_lives_costs_nothing(
    when: str, store: LabelStore, small_parts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = store.parts()
    folder = type(store.folder)
    real_names, real_write = folder.names, folder.write

    def give_up() -> None:  # as a driver does who takes its task for lost, and has looked for parts before
        monkeypatch.undo()
        monkeypatch.setattr(LabelStore, "parts", lambda _: names)
        store.finish_replacements()
        monkeypatch.undo()

    def write_and_be_given_up(self: Folder, name: str, content: bytes) -> None:
        real_write(self, name, content)
        give_up()

    def be_given_up_and_look(self: Folder, suffix: str = "") -> list[str]:
        give_up()
        return real_names(self, suffix)

    if when == "before it has published":
        monkeypatch.setattr(folder, "write", write_and_be_given_up)
    elif when == "after it has published":
        monkeypatch.setattr(folder, "names", be_given_up_and_look)
    with contextlib.nullcontext() if when == "when it has done" else pytest.raises(RuntimeError, match="given up"):
        merged, _ = store.merge_parts(names)
        give_up()
        store.end_replacement(merged, names)  # by one who has heard of it, but not of its end
    assert store.folder.names() == names
    assert held(store) == small_parts


def test_rejected_texts_alone_do_not_end_a_later_pass(
    store: LabelStore, tmp_path: Path, tiny_teacher_dir: Path
) -> None:
    from raydistill.specs import SYSTEMATIC
    from raydistill.stages.ingest import distinct_texts, pack
    from raydistill.stages.teacher_actor import TeacherActor

    actor = TeacherActor(dataclasses.replace(SPEC, name_or_path=str(tiny_teacher_dir)), store)
    good, bad = ["a good text"], [f"bad {i}" for i in range(SYSTEMATIC + 4)]
    known = KnownTexts.gathered([([text_id(text) for text in good], np.array([1]))], 1)
    tokenize = actor.teacher.encoder._token_rows

    def refusing(texts: list[str]) -> list[list[int]]:
        if any(text.startswith("bad") for text in texts):
            raise TypeError("no such text")
        return tokenize(texts)

    actor.teacher.encoder._token_rows = refusing
    from raydistill.errors import ModelError
    from raydistill.specs import Effort

    with pytest.raises(ModelError, match="can score none of 20 texts: TypeError: no such text"):
        actor.score(pack(distinct_texts(Counter(bad), None), Effort()))
    for text in bad:  # blocks of one text, among such that are known
        actor.score(pack(distinct_texts(Counter(good), known), Effort()))
        actor.score(pack(distinct_texts(Counter([text]), known), Effort()))
    block, _ = actor.score(pack(distinct_texts(Counter([*good, *bad]), known), Effort()))
    assert block["rejected"].to_pylist() == [None, *["TypeError: no such text"] * len(bad)]
    assert block["entailment"].null_count == len(bad) + 1
