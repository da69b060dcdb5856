"""Any text, all the way from corpus file to soft labels: nothing is lost, doubled or altered."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raydistill.corpus import make_splits
from raydistill.corpus_files import find_files
from raydistill.corpus_samples import estimate_texts, sample_texts
from raydistill.distillation import soft_labels
from raydistill.label_store import LabelStore, logits_matrix
from raydistill.specs import TeacherSpec
from raydistill.stages.ingest import read_blocks
from raydistill.stages.receipts import write_block
from raydistill.stages.teacher_actor import TeacherActor

CLASSES = ("sport", "{}", "art & 'craft' 🙂")

# Any text that JSON can hold, with surrogates; that UTF-8 can; that a table can; and that a line can.
ANY = st.text(st.characters(codec=None), max_size=20)
ENCODABLE = st.text(st.characters(codec="utf-8"), max_size=20)
FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), max_size=20)
WORDS = st.lists(st.sampled_from(["the", "striker", "scored", "\u3000", "🙂", "\u202e", "東京"]), max_size=60).map(
    " ".join
)


def as_json_lines(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)).encode()


def as_table(texts: Sequence[str]) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink).writerows([("id", "text"), *enumerate(texts)])
    return sink.getvalue().encode()


def as_parquet(texts: Sequence[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=3)
    return sink.getvalue()


def as_lines(texts: Sequence[str]) -> bytes:
    return "".join(["first\n", *(f"{text}\n" for text in texts)]).encode()  # a mark at the beginning is no text


# ending -> (which texts it can hold, how they are written, which texts are written beside them)
FORMATS: dict[str, tuple[st.SearchStrategy[str], Callable[[Sequence[str]], bytes], list[str]]] = {
    "jsonl": (ANY, as_json_lines, []),
    "csv": (FIELD, as_table, []),
    "parquet": (ENCODABLE, as_parquet, []),
    "txt": (LINE, as_lines, ["first"]),
}
CORPORA = st.one_of(
    [
        st.tuples(st.just(ending), st.lists(WORDS | texts, min_size=1, max_size=12))
        for ending, (texts, *_) in FORMATS.items()
    ]
)


def cleaned(text: str) -> str:
    """What the README says becomes of a text."""

    def join(pair: re.Match[str]) -> str:
        return chr(0x10000 + ((ord(pair[0][0]) - 0xD800) << 10) + (ord(pair[0][1]) - 0xDC00))

    joined = re.sub("[\ud800-\udbff][\udc00-\udfff]", join, text.strip())
    return re.sub("[\ud800-\udfff]", "\ufffd", joined)


@pytest.fixture(scope="module")
def actor(tiny_teacher_dir: Path, own_ray: None) -> TeacherActor:
    spec = TeacherSpec(str(tiny_teacher_dir), CLASSES, "This is {}.", backend="torch")
    return TeacherActor(spec, LabelStore("/nowhere"))


@example(("jsonl", ["\ud83d\ude42", "\ud83d", "🙂", "\ufffd", "\x1f\ufeff\u200b ", ""]), False, 1, 1)
@example(("csv", ["a\r\nb", "a\nb", '"', "\ufeffa", ",", ""]), True, 5, 3)
@settings(max_examples=80)
@given(CORPORA, st.booleans(), st.integers(1, 200), st.integers(1, 60))
def test_any_text_is_labelled_and_counted_as_it_stands(
    actor: TeacherActor, corpus: tuple[str, list[str]], packed: bool, split_bytes: int, block_bytes: int
) -> None:
    ending, texts = corpus
    _, write, more = FORMATS[ending]
    packed = packed and ending != "parquet"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"corpus.{ending}{'.gz' * packed}")
        path.write_bytes(gzip.compress(write(texts)) if packed else write(texts))
        files = find_files([str(path)])
        store = LabelStore(f"{folder}/labels")
        store.folder.create()
        receipts = [
            write_block(*actor.score(block), store).to_pylist()[0]
            for split in make_splits(files, split_bytes)
            for block in read_blocks([split], "text", block_bytes, None)
        ]
        rows = [table for part in store.parts() for table in store.read_part(part)]

        wanted = Counter(map(cleaned, [*more, *texts]))
        blanks = wanted.pop("", 0)
        assert sum(receipt["texts"] for receipt in receipts) == wanted.total()
        assert sum(receipt["blanks"] for receipt in receipts) == blanks
        assert sum(receipt["rejected_texts"] for receipt in receipts) == 0
        assert sum(receipt["labelled"] for receipt in receipts) == sum(table.num_rows for table in rows)
        found: Counter[str] = Counter()
        for table in rows:
            held = table["text"].to_pylist()
            assert len(set(held)) == len(held)
            found.update(dict(zip(held, table["occurrences"].to_pylist(), strict=True)))
            assert table["text_id"].to_pylist() == [blake2b(t.encode(), digest_size=16).hexdigest() for t in held]
            logits = [logits_matrix(table[name], len(CLASSES)) for name in ("entailment", "contradiction")]
            assert np.isfinite(logits).all()
            np.testing.assert_allclose(soft_labels(*logits).sum(axis=1), 1, atol=1e-6)
        assert found == wanted
        assert set(sample_texts(files, "text", 1000)) == set(wanted)
        if ending != "parquet":
            assert estimate_texts(files, "text")[:2] == (wanted.total(), True)
