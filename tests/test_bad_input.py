"""Bad input, by the command line: one clear line, exit code 2, and nothing left behind. And odd input that is good.

What would fill the memory is in test_bounded_memory.py, every encoding in test_encodings.py, and what models may run or
say in test_trust.py and test_safe_run.py.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mounts import needs_mounts
from processes import AS_ANYBODY, needs_setpriv
from records import complete
from safetensors.torch import load_file, save_file
from tiny_models import save_classifier, save_encoder

from raydistill.class_names import read_class_names
from raydistill.cli import main
from raydistill.flags import collect_config
from raydistill.run_dir import RunDir
from raydistill.stages.private_ray import private_ray

TEACHER, STUDENT = "--teacher-name-or-path", "--student-name-or-path"
LONGEST_ERROR = 700  # characters of an error line: one that nobody reads is not clear


def written(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def compressed(path: Path, compress: Callable[[bytes], bytes], keep: float = 1.0) -> str:
    """A compressed corpus of which only the first part is there."""
    whole = compress("".join(f"text {i * i} of many {i**5}\n" for i in range(5000)).encode())
    return written(path, whole[: int(len(whole) * keep)])


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def parquet(path: Path, column: Any, name: str = "text") -> str:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({name: column}), path)
    return str(path)


# Models that are not as they should be: each is a copy in the folder "m".


def edited(t: Path, original: str, **config: Any) -> str:
    """One whose config.json says something else."""
    return with_file(
        t, original, "config.json", json.dumps(json.loads(Path(original, "config.json").read_text()) | config)
    )


def with_file(t: Path, original: str, name: str, content: bytes | str | None) -> str:
    """One with another file in the place of its own, or none."""
    shutil.copytree(original, t / "m")
    (t / "m" / name).unlink(missing_ok=True)
    if content is not None:
        written(t / "m" / name, content)
    return str(t / "m")


def cut_short(t: Path, original: str) -> str:
    weights = Path(original, "model.safetensors").read_bytes()
    return with_file(t, original, "model.safetensors", weights[: len(weights) // 2])


def with_weights(t: Path, original: str, change: Callable[[dict], dict]) -> str:
    """One with other weights."""
    tensors = change(load_file(Path(original, "model.safetensors")))
    folder = with_file(t, original, "model.safetensors", None)
    save_file(tensors, Path(folder, "model.safetensors"), metadata={"format": "pt"})
    return folder


def in_shards(t: Path, original: str, *, missing: bool = False) -> str:
    """One in two files."""
    tensors = load_file(Path(original, "model.safetensors"))
    folder = Path(with_file(t, original, "model.safetensors", None))
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: names[i % 2] for i, name in enumerate(sorted(tensors))}
    for file in names[: 1 if missing else 2]:
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file, {"format": "pt"})
    written(folder / "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": where}))
    return str(folder)


# Output directories in which something has been.


def used(good: dict, **labelling: Any) -> Path:
    """The output directory of a run of the good options that has begun to label."""
    from raydistill.label_store import SCHEMA, LabelStore
    from raydistill.stages.checks import check_models

    config = collect_config({name[2:].replace("-", "_"): value for name, value in good.items()}, [])
    config.data_file = (good["--data-file"],)
    run_dir = RunDir.claim(config, ("labels", "student"))
    run_dir.folder.create()
    run_dir.begin(config, ("labels", "student"))
    store = LabelStore(run_dir.labels_path)
    store.folder.create()
    made_with = check_models(config, ("label",), read_class_names(config.class_names_file)).labelling
    store.write_record(
        {"labelling": made_with | labelling, "scoring": {"precision": "fp32", "audit": None}, "complete": None}
    )
    store.write_part(SCHEMA.empty_table())
    return Path(run_dir.folder.path)


# name -> (changes to the good options, given (tmp_path, good); what the line must say)
Change = Callable[[Path, dict], dict]


def option(**values: str | None) -> Change:
    return lambda t, g: {"--" + name.replace("_", "-"): value for name, value in values.items()}


def corpus(name: str, content: bytes | str, **more: str) -> Change:
    return lambda t, g: {"--data-file": written(t / name, content)} | option(**more)(t, g)


def in_parquet(column: Any, name: str = "text") -> Change:
    return lambda t, g: {"--data-file": parquet(t / "c.parquet", column, name)}


def classes(content: bytes | str) -> Change:
    return lambda t, g: {"--class-names-file": written(t / "k.txt", content)}


def teacher(make: Callable[..., str], *args: Any, **config: Any) -> Change:
    return lambda t, g: {TEACHER: make(t, g[TEACHER], *args, **config)}


def student(make: Callable[..., str], *args: Any, **config: Any) -> Change:
    return lambda t, g: {STUDENT: make(t, g[STUDENT], *args, **config)}


def config_file(content: str, name: str = "c.yaml") -> Change:
    return lambda t, g: {"--config": written(t / name, content)}


def output(prepare: Callable[[Path, dict], Path | str]) -> Change:
    return lambda t, g: {"--output-dir": str(prepare(t, g))}


def used_and(change: Callable[[Path], Any], **labelling: Any) -> Change:
    """In an output directory that has been used, and in which something has happened since."""

    def prepare(t: Path, g: dict) -> dict:
        change(used(g, **labelling))
        return {}

    return prepare


def linked(link: Path, to: str) -> Path:
    link.symlink_to(to)
    return link


def leads_above(t: Path, link: str) -> Path:
    """A corpus from which a link leads to where an output directory is."""
    for folder, name in (("data", "c.txt"), ("out", "notes.txt")):
        (t / folder).mkdir()
        written(t / folder / name, "text\n")
    linked(t / "data" / link, "..")
    return t / "data"


def leads_away(t: Path, link: str) -> str:
    """An output directory within a corpus, by its name, that is elsewhere."""
    for folder in ("data", "elsewhere"):
        (t / folder).mkdir()
    written(t / "data" / "c.txt", "text\n")
    linked(t / "data" / link, "../elsewhere")
    return str(t / "data" / link)


LINES = "".join(f'{{"text": "text {i}"}}\n' for i in range(6))
BAD_INPUT: dict[str, tuple[Change, list[str]]] = {
    # Options
    "option missing": (option(data_file=None), ["--data-file is missing"]),
    "several faults at once": (
        option(temperature="0", teacher_batch_size="0", class_names_file=None),
        ["--temperature", "--teacher-batch-size", "--class-names-file"],
    ),
    "option misspelt, and so missing": (
        lambda t, g: {"--data-file": None, "--data-fil": g["--data-file"]},
        ["--data-fil.", "Did you mean --data-file?"],
    ),
    "unknown option": (option(lerning_rate="1"), ["--lerning-rate", "Did you mean --learning-rate?"]),
    "unknown option like ours": (option(temprature="1"), ["--temprature", "Did you mean --temperature?"]),
    "temperature 0": (option(temperature="0"), ["--temperature 0 must be", "above 0"]),
    "temperature of next to nothing": (option(temperature="1e-7"), ["--temperature 1e-07", "above 0.000001"]),
    "temperature NaN": (option(temperature="nan"), ["--temperature nan", "above 0"]),
    "temperature infinite": (option(temperature="-inf"), ["--temperature -inf", "above 0"]),
    "temperature not a number": (option(temperature="warm"), ["--temperature 'warm'", "a number"]),
    "temperature of a page": (option(temperature="9" * 5000), ["--temperature inf"]),
    "half a text in a batch": (option(teacher_batch_size="0.5"), ["--teacher-batch-size '0.5'", "a whole number"]),
    "length of nothing": (option(teacher_max_length="0"), ["--teacher-max-length 0 must be 1 or more"]),
    "length below nothing": (option(student_max_length="-1"), ["--student-max-length -1 must be 1 or more"]),
    "more rejected than there are": (option(max_rejected="2"), ["--max-rejected 2", "between 0 and 1"]),
    "label files of nothing": (option(label_file_mb="0"), ["--label-file-mb 0 must be 1 or more"]),
    "yes and no": (option(multi_label="perhaps"), ["--multi-label 'perhaps'", "true or false"]),
    "int8 by PyTorch": (
        option(teacher_precision="int8", teacher_backend="torch"),
        ["--teacher-precision int8", "--teacher-backend"],
    ),
    "unknown backend": (option(teacher_backend="onnx"), ["--teacher-backend", "onnx", "openvino"]),
    "agreement above one": (option(min_agreement="99"), ["--min-agreement 99", "between 0 and 1"]),
    "agreement not a number": (option(min_agreement="nan"), ["--min-agreement nan"]),
    "an audit beyond number": (option(audit_texts=f"{10**30}"), ["--audit-texts", "must be at most 1000000000"]),
    "failures beyond number": (option(max_failures=f"{1 << 31}"), ["--max-failures", "must be at most 1000000000"]),
    "a grace beyond all clocks": (option(grace="1e300"), ["--grace 1e+300 must be at most 1000000000"]),
    "audit of nothing": (option(audit_texts="0"), ["--audit-texts 0 must be 1 or more"]),
    "student max length of special tokens": (
        option(student_max_length="2"),
        ["--student-max-length 2 must be above 2"],
    ),
    "batch of nothing": (
        option(per_device_train_batch_size="0"),
        ["--per-device-train-batch-size 0 must be from 1"],
    ),
    "training option of the wrong type": (option(learning_rate="fast"), ["learning_rate", "fast"]),
    "optimizer that is not installed": (option(optim="adamw_bnb_8bit"), ["--optim 'adamw_bnb_8bit'", "bitsandbytes"]),
    "checkpointing of what torch does not know": (
        option(gradient_checkpointing_kwargs='{"a": 1}'),
        ["--gradient-checkpointing-kwargs", "'a'"],
    ),
    "run name that is not UTF-8": (option(run_name="x\udcff"), ["--run-name", "must be UTF-8 text"]),
    "schedule without what it needs": (option(lr_scheduler_type="cosine_with_min_lr"), ["min_lr"]),
    "best by a figure that there is not": (
        option(save_strategy="best", eval_strategy="epoch", metric_for_best_model="accuracy"),
        ["--metric-for-best-model accuracy", "agreement, loss"],
    ),
    "best by no figure": (
        option(save_strategy="best", eval_strategy="epoch"),
        ["--save-strategy best needs --metric-for-best-model"],
    ),
    "training option that names no file": (
        option(accelerator_config="no.json"),
        ["--accelerator-config 'no.json'", "no.json"],
    ),
    "training option that Ray does without": (
        option(enable_jit_checkpoint="true"),
        ["--enable-jit-checkpoint does not go with raydistill"],
    ),
    "training option without its value's choice": (option(lr_scheduler_type="up"), ["invalid choice", "up"]),
    "reports to nowhere": (option(report_to="nowhere"), ["--report-to", "installed here"]),
    "rows in file order": (
        option(train_sampling_strategy="sequential"),
        ["--train-sampling-strategy sequential must be random or group_by_length"],
    ),
    "training in shards": (option(fsdp="full_shard"), ["--fsdp does not go with raydistill", "DDP"]),
    "labels for a run that makes them": (lambda t, g: {"--labels": str(t)}, ["--labels", "raydistill train"]),
    "relative path behind a client": (
        option(address="ray://127.0.0.1:9", output_dir="out"),
        ["--output-dir out", "one of the cluster's", "absolute"],
    ),
    "data seed below nothing": (option(data_seed="-1"), ["--data-seed -1 must be from 0"]),
    "events on an object store": (
        option(report_to="tensorboard", logging_dir="s3://bucket/runs"),
        ["--report-to tensorboard", "--logging-dir"],
    ),
    "events in a file": (
        lambda t, g: {"--report-to": "tensorboard", "--logging-dir": g["--class-names-file"]},
        ["--logging-dir", "is a file"],
    ),
    "events among checkpoints": (
        lambda t, g: {"--report-to": "tensorboard", "--logging-dir": g["--output-dir"] + "/checkpoints/x"},
        ["--logging-dir", "Give a folder of its own"],
    ),
    # A file of options
    "config file missing": (lambda t, g: {"--config": str(t / "no.yaml")}, ["--config", "no.yaml"]),
    "config file broken": (config_file("a: ["), ["--config", "not YAML"]),
    "config file of JSON broken": (config_file('{"seed": }', "c.json"), ["--config", "not JSON"]),
    "config file that says it twice": (config_file("seed: 1\nseed: 2\n"), ["--config", "'seed' stands there twice"]),
    "config file that says it in two ways": (
        config_file("weight-decay: 0\nweight_decay: 1\n"),
        ["--config", "'weight_decay' stands there twice"],
    ),
    "config file of JSON that says it twice": (
        config_file('{"seed": 1, "seed": 2}', "c.json"),
        ["--config", "'seed' stands there twice"],
    ),
    "config file of a list": (config_file("- seed\n"), ["--config", "`name: value`"]),
    "config file that unfolds": (
        config_file("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
        ["--config", "aliases are not read"],
    ),
    "config file nested beyond bounds": (config_file("[" * 3000), ["--config", "nested too deeply"]),
    "config file with an object": (config_file("seed: !!python/object:os.system {}"), ["--config", "not YAML"]),
    "config file in UTF-16": (
        lambda t, g: {"--config": written(t / "c.yaml", "seed: 1".encode("utf-16"))},
        ["--config", "cannot be read"],
    ),
    "config file with an unknown option": (config_file("temprature: 2"), ["--temprature", "--temperature?"]),
    "config file with no for a column": (config_file("text_column: no"), ["--text-column False", "quotes"]),
    "config file with a list for a text": (config_file("address: [a]"), ["--address ['a'] must be text"]),
    # The corpus: where it is
    "corpus missing": (lambda t, g: {"--data-file": str(t / "no.txt")}, ["--data-file", "no.txt", "no such file"]),
    "corpus not named": (option(data_file=""), ["--data-file is empty"]),
    "corpus of a device": (option(data_file="/dev/zero"), ["--data-file /dev/zero", "no such file"]),
    "corpus in an empty folder": (
        lambda t, g: {"--data-file": str(Path(written(t / "_c.txt", "x")).parent)},
        ["no such file"],
    ),
    "corpus with a name too long": (option(data_file="x" * 260), ["--data-file", "too long"]),
    "corpus with a name that is not UTF-8": (
        option(data_file="\udcff.txt"),
        ["--data-file", ".txt", "must be UTF-8 text"],
    ),
    "corpus with a file whose name is not UTF-8": (
        lambda t, g: {"--data-file": str(Path(written(t / "d\udcff.txt", "x")).parent)},
        ["--data-file", r"d\udcff.txt' is a name that is not UTF-8. Rename it"],
    ),
    "corpus that links lead from into the output": (
        lambda t, g: {"--data-file": str(leads_above(t, "up")), "--output-dir": str(t / "out")},
        ["one lies in the other"],
    ),
    "output that a link leads to from within the corpus": (
        lambda t, g: {"--output-dir": leads_away(t, "out"), "--data-file": str(t / "data")},
        ["one lies in the other"],
    ),
    "corpus at a scheme of none": (option(data_file="nowhere://c.txt"), ["--data-file nowhere://c.txt"]),
    "output within the corpus": (
        lambda t, g: {"--data-file": str(Path(written(t / "c.txt", "x")).parent), "--output-dir": str(t / "out")},
        ["one lies in the other"],
    ),
    "output that the corpus's glob would find": (
        lambda t, g: {
            "--data-file": str(Path(written(t / "c.txt", "x")).parent / "**" / "*.*"),
            "--output-dir": str(t / "out"),
        },
        ["going on, the run would read what it has written"],
    ),
    # The corpus: what it holds
    "corpus empty": (corpus("c.txt", ""), ["c.txt", "is empty"]),
    "corpus of blank lines": (corpus("c.txt", "\n  \n"), ["no text but blank"]),
    "corpus binary": (corpus("c.txt", b"\x7fELF\0\0\1"), ["c.txt", "binary"]),
    "a line too long": (corpus("c.txt", "x" * (17 << 20)), ["c.txt", "a line of more than 16 MiB"]),
    "one good file and one bad": (
        lambda t, g: {"--data-file": str(Path(parquet(t / "d" / "b.parquet", ["x"], "body")).parent)},
        ["b.parquet", "no column 'text'"],
    ),
    # The corpus: encodings
    "corpus in Latin-1": (
        corpus("c.txt", "good\nna\xefve\n".encode("latin-1")),
        ["c.txt", "line 2", "not UTF-8", "may be latin-1", "--encoding"],
    ),
    "corpus in Windows' encoding": (corpus("c.jsonl", '{"text": "“x”"}'.encode("cp1252")), ["line 1", "may be cp1252"]),
    "corpus in UTF-16": (corpus("c.txt", "text".encode("utf-16")), ["UTF-16", "--encoding utf-16"]),
    "table in UTF-16": (corpus("c.csv", "text\nx".encode("utf-16")), ["UTF-16", "--encoding utf-16"]),
    "corpus in UTF-16 without a mark": (corpus("c.txt", "text".encode("utf-16-le")), ["--encoding utf-16-le"]),
    "corpus in UTF-32": (corpus("c.txt", "text".encode("utf-32")), ["UTF-32", "--encoding utf-32"]),
    "corpus in another encoding than is said": (
        corpus("c.txt", "naïve", encoding="ascii"),
        ["c.txt", "is not ascii", "--encoding"],
    ),
    "corpus in UTF-8 that is said to be UTF-16": (corpus("c.txt", "text", encoding="utf-16"), ["is not utf-16"]),
    "unknown encoding": (option(encoding="utf-9"), ["--encoding 'utf-9'", "Python knows"]),
    "encoding that is none of text": (option(encoding="base64"), ["--encoding 'base64'", "Python knows"]),
    # The corpus: compressed
    "Parquet in gzip": (
        lambda t, g: {"--data-file": written(t / "c.parquet.gz", b"x" * 100)},
        ["c.parquet.gz", "not read out of a compressed file"],
    ),
    "gzip cut short": (lambda t, g: {"--data-file": compressed(t / "c.txt.gz", gzip.compress, 0.5)}, ["Truncated"]),
    "zstd cut short": (lambda t, g: {"--data-file": compressed(t / "c.txt.zst", zstd, 0.5)}, ["Truncated"]),
    "bzip2 cut short": (lambda t, g: {"--data-file": compressed(t / "c.txt.bz2", bz2.compress, 0.5)}, ["Truncated"]),
    "gzip that is none": (corpus("c.txt.gz", "a text\n"), ["c.txt.gz: cannot be read"]),
    "gzip of a program": (corpus("c.txt.gz", gzip.compress(b"\x7fELF\0\0\1")), ["c.txt.gz", "binary"]),
    # The corpus: CSV
    "no such column in CSV": (
        corpus("c.csv", "id,body\n1,x\n"),
        ["no column 'text'", "id, body", "--text-column"],
    ),
    "other separators in CSV": (corpus("c.csv", "id;text\n1;x\n"), ["no column 'text'", "id;text"]),
    "two columns of a name in CSV": (corpus("c.csv", "text,text\na,b\n"), ["several columns 'text'"]),
    "row too long in CSV": (corpus("c.csv", "id,text\n1,a\n2,b,c\n"), ["line 3", "a row of 3 columns instead of 2"]),
    "row too short in CSV": (corpus("c.csv", "id,text\n1,a\n2\n"), ["line 3", "a row of 1 column instead of 2"]),
    "NUL in CSV": (corpus("c.csv", "id,text\n1,a\0b\n"), ["c.csv", "binary"]),
    "quotation mark without end in CSV": (corpus("c.csv", 'text\na\n"b\nc\n'), ["line 3", "not csv"]),
    "quotation mark in between in CSV": (corpus("c.csv", 'text\n"b"c"\n'), ["line 2", "not csv"]),
    # The corpus: JSON lines
    "broken line 7": (corpus("c.jsonl", LINES + '{"text": \n' + LINES), ["line 7", "not JSON"]),
    "number for a text": (corpus("c.jsonl", LINES + '{"text": 7}\n'), ["line 7", "'text' that is not text"]),
    "list for a text": (corpus("c.jsonl", '{"text": ["a"]}\n'), ["line 1", "'text' that is not text"]),
    "missing key": (corpus("c.jsonl", LINES + '{"body": "a"}\n'), ["line 7 has no 'text'", "body", "--text-column"]),
    "text for an object": (corpus("c.jsonl", LINES + '"a"\n'), ["line 7", "not a JSON object"]),
    "one list over many lines": (corpus("c.json", '[\n{"text": "a"}\n]'), ["line 1", "one object per line"]),
    "nested beyond bounds": (corpus("c.jsonl", '{"text": ' + "[" * 200_000 + "\n"), ["line 1", "not JSON"]),
    "number beyond bounds": (corpus("c.jsonl", '{"n": ' + "9" * 9999 + "}\n"), ["line 1", "not JSON"]),
    # The corpus: Parquet
    "no such column in Parquet": (in_parquet(["x"], "body"), ["no column 'text'", "body"]),
    "column of numbers": (in_parquet([1]), ["int64", "not text"]),
    "column of bytes": (in_parquet([b"a"]), ["binary", "not text"]),
    "column of lists": (in_parquet([["a"]]), ["list", "not text"]),
    "column of tables": (in_parquet([{"a": "b"}]), ["struct", "not text"]),
    "column of nothing": (in_parquet(pa.nulls(3)), ["null", "not text"]),
    "column of missing texts": (in_parquet(pa.nulls(3, pa.string())), ["no text but blank"]),
    "column without rows": (in_parquet(pa.array([], pa.string())), ["no text but blank"]),
    "Parquet that is none": (corpus("c.parquet", "text\na\n"), ["c.parquet", "not a Parquet file"]),
    "Parquet without an end": (corpus("c.parquet", b"PAR1" + b"\0" * 100), ["c.parquet", "not a Parquet file"]),
    # Class names
    "classes missing": (lambda t, g: {"--class-names-file": str(t / "no.txt")}, ["--class-names-file", "no.txt"]),
    "classes of a user that is not there": (
        option(class_names_file="~nobody-here/k.txt"),
        ["--class-names-file ~nobody-here/k.txt", "cannot be read"],
    ),
    "config of a user that is not there": (
        option(config="~nobody-here/c.yaml"),
        ["--config ~nobody-here/c.yaml", "cannot be read"],
    ),
    "classes in a folder": (lambda t, g: {"--class-names-file": str(t)}, ["--class-names-file", "cannot be read"]),
    "classes empty": (classes("\n \n"), ["no class name"]),
    "classes doubled": (classes("a\nb\n a \n"), ["'a'", "more than once"]),
    "classes doubled at length": (classes(("a" * 10_000 + "\n") * 2), ["'aaaa", "more than once"]),
    "one class": (classes("a\n"), ["only one class", "--multi-label"]),
    "classes in Latin-1": (classes("a\nna\xefve\n".encode("latin-1")), ["--class-names-file", "not UTF-8"]),
    "classes in UTF-16": (classes("a\nb\n".encode("utf-16")), ["--class-names-file", "not UTF-8"]),
    "the corpus for the classes": (classes("a text that is no class\n" * 200_000), ["larger than", "the corpus?"]),
    "class name too long for the teacher": (classes("a\n" + "b " * 10_000 + "\n"), ["'This example is b", "none for"]),
    # The template
    "template without braces": (option(hypothesis_template="It is so."), ["--hypothesis-template", "{}"]),
    "template empty": (option(hypothesis_template=""), ["--hypothesis-template"]),
    "template with a broken brace": (option(hypothesis_template="It is {."), ["--hypothesis-template", "{}"]),
    "template with two places": (option(hypothesis_template="{} or {}"), ["{} or {}", "{} once"]),
    "template with a second place": (option(hypothesis_template="It is {1}."), ["{1}", "{} once"]),
    "template with a name": (option(hypothesis_template="It is {label}."), ["{label}", "{} once"]),
    "template that looks inside": (option(hypothesis_template="{0.__class__}"), ["__class__", "{} once"]),
    "template with a width": (option(hypothesis_template="{:>9999999999}"), ["{} once"]),
    "hypothesis too long": (
        option(teacher_max_length="5"),
        ["leaves none for the text", "Or raise --teacher-max-length 5."],
    ),
    # Models
    "teacher of a user that is not there": (
        option(teacher_name_or_path="~nobody-here/no"),
        [TEACHER, "no such folder"],
    ),
    "student of a user that is not there": (
        option(student_name_or_path="~nobody-here/no"),
        [STUDENT, "no such folder"],
    ),
    "teacher and student missing": (
        lambda t, g: {TEACHER: str(t / "no"), STUDENT: str(t / "none")},
        [TEACHER, "no: no such folder", STUDENT, "none: no such folder"],
    ),
    "teacher folder missing": (lambda t, g: {TEACHER: str(t / "no")}, [TEACHER, "no such folder"]),
    "teacher not on the hub": (lambda t, g: {TEACHER: "nobody/nothing"}, [TEACHER, "hub", "cannot be reached"]),
    "student not on the hub": (lambda t, g: {STUDENT: "nobody/nothing"}, [STUDENT, "hub"]),
    "student folder without a model": (lambda t, g: {STUDENT: str(t)}, ["no config.json"]),
    "teacher that is no classifier": (
        teacher(edited, architectures=["BertModel"]),
        ["BertModel", "not a sequence classifier"],
    ),
    "teacher without an entailment label": (
        teacher(edited, id2label={0: "x", 1: "y", 2: "z"}, label2id={"x": 0, "y": 1, "z": 2}),
        ["--entailment-id", "--contradiction-id", "0: x"],
    ),
    "teacher with labels for numbers": (
        teacher(edited, label2id={"entailment": "a", "neutral": "b", "contradiction": "c"}),
        ["config.json", "label2id"],
    ),
    "teacher with a list of labels": (teacher(edited, label2id=["entailment", "neutral"]), ["config.json", "label2id"]),
    "teacher with a label below nothing": (
        teacher(edited, id2label={0: "contradiction", 1: "neutral", 2: "entailment"}, label2id={"entailment": -1}),
        ["config.json", "from 0 to 2"],
    ),
    "teacher whose labels have two numbers": (
        teacher(
            edited,
            id2label={0: "contradiction", 1: "neutral", 2: "entailment"},
            label2id={"entailment": 0, "neutral": 1, "contradiction": 2},
        ),
        ["config.json", "two numbers", "--entailment-id"],
    ),
    "teacher of no architecture": (teacher(edited, architectures=[None]), ["not a sequence classifier"]),
    "student that sees images": (student(edited, model_type="vit"), ["vit", "does not classify texts"]),
    "config.json empty": (teacher(with_file, "config.json", ""), [TEACHER, "config.json cannot be read"]),
    "config.json not JSON": (student(with_file, "config.json", "{"), [STUDENT, "config.json cannot be read"]),
    "config.json a list": (teacher(with_file, "config.json", "[1]"), [TEACHER, "config.json cannot be read"]),
    "config.json of bytes": (teacher(with_file, "config.json", b"\xff\0"), [TEACHER, "config.json cannot be read"]),
    "config.json of no model": (teacher(edited, model_type="nothing"), [TEACHER, "config.json cannot be read"]),
    "config.json with text for a number": (teacher(edited, hidden_size="x"), [TEACHER, "config.json cannot be read"]),
    "config.json with text for labels": (teacher(edited, id2label="x"), [TEACHER, "config.json cannot be read"]),
    "config.json that does not work out": (teacher(edited, num_attention_heads=5), ["no model can be made"]),
    "teacher without weights": (teacher(with_file, "model.safetensors", None), [TEACHER, "no weights"]),
    "weights that git lfs has not fetched": (
        student(with_file, "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ["model.safetensors", "git lfs pull"],
    ),
    "weights of no length": (teacher(with_file, "model.safetensors", b""), ["model.safetensors", "cut short"]),
    "weights cut short": (teacher(cut_short), ["model.safetensors", "cut short"]),
    "student's weights cut short": (student(cut_short), [STUDENT, "model.safetensors", "cut short"]),
    "weights that are none": (teacher(with_file, "model.safetensors", b"x" * 999), ["model.safetensors", "damaged"]),
    "weights with a shard missing": (
        teacher(in_shards, missing=True),
        ["model-00002-of-00002.safetensors", "is not there"],
    ),
    "weights with a damaged index": (
        lambda t, g: {
            TEACHER: str(Path(written(Path(in_shards(t, g[TEACHER]), "model.safetensors.index.json"), "[]")).parent)
        },
        ["model.safetensors.index.json is damaged"],
    ),
    "teacher without a head": (
        teacher(with_weights, lambda w: {name: w[name] for name in w if "classifier" not in name}),
        ["weights are not those", "2 are missing", "classifier.bias"],
    ),
    "weights of another size": (teacher(edited, hidden_size=64), ["weights are not those"]),
    "student's weights of another model": (
        student(with_weights, lambda w: {f"other.{name}": w[name] for name in w}),
        ["weights are not those"],
    ),
    "student without a tokenizer": (student(with_file, "tokenizer.json", None), ["has no tokenizer"]),
    "student without a token to pad with": (
        student(with_file, "tokenizer_config.json", '{"tokenizer_class": "PreTrainedTokenizerFast"}'),
        ["has no padding token", "Set tokenizer.pad_token"],
    ),
    "tokenizer not JSON": (teacher(with_file, "tokenizer.json", "{"), ["no tokenizer that can be loaded"]),
    "tokenizer of nothing": (student(with_file, "tokenizer.json", "{}"), ["no tokenizer that can be loaded"]),
    "teacher with another's tokenizer": (
        teacher(edited, vocab_size=50),
        ["its tokenizer has tokens up to number", "knows 50"],
    ),
    "student with another's tokenizer": (student(edited, vocab_size=50), ["its tokenizer has tokens", "knows 50"]),
    # The output directory
    "output directory is a file": (output(lambda t, g: written(t / "f", "x")), ["--output-dir", "is a file"]),
    "output directory below a file": (
        output(lambda t, g: f"{written(t / 'f', 'x')}/out"),
        ["--output-dir", "f is a file"],
    ),
    "output directory is a broken link": (output(lambda t, g: linked(t / "l", "gone")), ["l is a broken link"]),
    "output directory below a broken link": (
        output(lambda t, g: linked(t / "l", "gone") / "a" / "out"),
        ["l is a broken link"],
    ),
    "output directory is a link to itself": (output(lambda t, g: linked(t / "l", "l")), ["l is a broken link"]),
    "output directory with a name too long": (output(lambda t, g: t / ("x" * 250 + "yz" * 5)), ["too long"]),
    "output directory with a name that is not UTF-8": (
        option(output_dir="\udcff"),
        ["--output-dir", "must be UTF-8 text"],
    ),
    "output directory not writable": (option(output_dir="/proc/raydistill"), ["--output-dir", "cannot be written"]),
    "output directory at a scheme of none": (
        option(output_dir="sthree://bucket/run"),
        ["--output-dir sthree://bucket/run", "cannot be a folder", "s3://"],
    ),
    "output directory in use": (
        output(lambda t, g: Path(written(t / "other.txt", "x")).parent),
        ["not empty", "--overwrite-output-dir"],
    ),
    "run.json damaged over nothing": (
        used_and(lambda out: (shutil.rmtree(out / "labels"), written(out / "run.json", "{"))),
        ["run.json is damaged", "--overwrite-output-dir"],
    ),
    "labels of other options": (
        lambda t, g: used(g) and {"--hypothesis-template": "About {}."},
        ["--hypothesis-template was This example is {}., now About {}."],
    ),
    "labels of other classes": (
        used_and(lambda out: None, class_names=["other", *map(str, range(2000))]),
        ["class_names was ['other', '0'", "now ['sport'", "--overwrite-output-dir"],
    ),
    "labels of an older version": (
        used_and(lambda out: written(out / "labels" / "_labels.json", '{"schema_version": 1, "labelling": {}}')),
        ["another version of raydistill (schema 1", "--output-dir"],
    ),
    "labels without a head": (
        used_and(lambda out: (written(out / "labels" / "_labels.json", ""), (out / "run.json").unlink())),
        ["_labels.json is damaged", "remove the folder"],
    ),
    "foreign Parquet among the labels": (
        used_and(lambda out: parquet(out / "labels" / "mine.parquet", ["x"])),
        ["mine.parquet", "not one of its label files"],
    ),
}


# What is told as a cluster is joined, and so by a process that has not joined one.
BAD_ADDRESS: dict[str, tuple[Change, list[str]]] = {
    "no cluster": (option(address="auto"), ["--address auto", "no Ray cluster"]),
    "no cluster at that port": (option(address="127.0.0.1:9"), ["--address 127.0.0.1:9", "no Ray cluster"]),
    "address of no form": (option(address="there"), ["--address there", "host:port"]),
}


def expect_one_line(
    case: tuple[Change, list[str]], tmp_path: Path, good: dict, capfd: pytest.CaptureFixture[str]
) -> None:
    change, wanted = case
    options = good | change(tmp_path, good)
    capfd.readouterr()
    before = contents(tmp_path)
    arguments = [token for flag, value in options.items() if value is not None for token in (flag, value)]

    assert main(["run", *arguments]) == 2

    # In pytest's process Ray's own logger writes past `Chatter`, to the stderr that pytest has put in the place.
    said = "".join(line for line in capfd.readouterr().err.splitlines(keepends=True) if "token-auth" not in line)
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    assert len(said) < LONGEST_ERROR
    for fragment in wanted:
        assert fragment in said
    assert contents(tmp_path) == before


# What looks bad and is good: the texts and names of a run that is done

ODD_TEXTS = [
    "a lone surrogate \ud800 and a pair \ud83d\ude42",
    "zero\u200bwidth\u200djoiners\ufeff",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301",
    "NUL \0, ESC \x1b[31m, bell \a and backspace \b",
    "a line\u2028separator, a\x85next line and a\vtab",
    "two\nlines\r\nin one text",
    "{} {0} %s ${x} `ls` <script>alert(1)</script> =1+1 '\"\\",
    "long " * 20_000,
    "\U0010ffff\ue000",
    "x",
]
ODD_NAMES = [
    "{}",
    "{0} {name} {{",
    "\"quoted\" and 'quoted'",
    "a, comma; semicolon",
    "<b>bold</b> & <script>alert(1)</script>",
    "=1+1",
    "../../etc/passwd",
    "two\u2028lines\x85or\vthree",
    "שלום 🙂 e\u0301",
    "%s %(x)d \\n",
    "null",
    "-1",
]


class TestInput:
    """In one Ray: starting it takes longer than all else."""

    @pytest.fixture(scope="class", autouse=True)
    def one_ray(self) -> Iterator[None]:
        from raydistill.stages.cluster import connection

        with connection(None):
            yield

    @pytest.mark.parametrize("name", BAD_INPUT)
    def test_bad_input_is_one_line_and_leaves_nothing(
        self, name: str, tmp_path: Path, good: dict, capfd: pytest.CaptureFixture[str]
    ) -> None:
        expect_one_line(BAD_INPUT[name], tmp_path, good, capfd)

    def test_odd_texts_names_and_paths_are_labelled_counted_and_learnt_by_the_quickstart_example(
        self, tmp_path: Path, good: dict, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = [*ODD_NAMES, *(f"class number {i}" for i in range(2000 - len(ODD_NAMES)))]
        folder = tmp_path / "a folder, Ω 日本 'q' [1]"
        (folder / "linked to").mkdir(parents=True)
        (folder / "out").symlink_to("linked to")
        field = "a field of a megabyte, " * (1 << 20 >> 4)
        corpus = {
            "odd texts.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in [*ODD_TEXTS, "x"]),
            "a table.csv": f'id,text\n1,"{field}"\n2,""\n3," padded\u3000"\n',
            "lines.txt": "\ufeffone\u2028line\n\x1c\nx\n\ttabbed\t\n",
        }
        for name, content in corpus.items():
            written(folder / name, content)
        example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "quickstart.py"))
        example["main"](
            f"{folder}/*.*".replace("[", "[[]"),
            written(folder / "classes", "".join(f" {name} \n" for name in names)),
            str(folder / "out"),
            in_shards(folder, good[TEACHER]),
            str(save_classifier(folder / "student", labels=["one", "two", "three"])),  # a head of another size
        )
        agreement, answer = capsys.readouterr().out.splitlines()
        assert re.match(r"student in .*/out, agreement with the teacher \d+\.\d%$", agreement)
        (given,) = ast.literal_eval(answer)
        assert given["label"] in names
        assert 0 < given["score"] < 1

        surrogates = ODD_TEXTS[0].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        texts = [surrogates, *ODD_TEXTS[1:], "x", field, "padded", "one\u2028line", "x", "tabbed"]
        wanted = Counter(text.strip() for text in texts)
        record = json.loads((folder / "out" / "run.json").read_text())
        assert record["counts"]["texts"] == wanted.total()
        assert record["counts"]["distinct"] == len(wanted)
        assert record["counts"]["blanks"] == 2
        assert record["counts"]["rejected"] == 0
        labels = pd.read_parquet(folder / "out" / "labels")
        assert labels.groupby("text").occurrences.sum().to_dict() == wanted
        assert {len(logits) for logits in labels.entailment} == {2000}
        config = json.loads((folder / "linked to" / "config.json").read_text())
        assert [config["id2label"][str(i)] for i in range(2000)] == names


@pytest.mark.parametrize("name", BAD_ADDRESS)
def test_a_bad_address_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, good: dict, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where `ray start` would have said that it has started one
    expect_one_line(BAD_ADDRESS[name], tmp_path, good, capfd)


def contents(folder: Path) -> dict[Path, Any]:
    """All that lies in a folder, and of files when they were last written."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (one.st_size, one.st_mtime_ns) if S_ISREG(one.st_mode) else None for path, one in found.items()}


BAD_LABELS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no labels": (lambda out: shutil.rmtree(out / "labels"), ["holds no label store"]),
    "labels of no run that ended": (lambda out: None, ["its labels are not complete"]),
    "foreign Parquet among them": (
        lambda out: (parquet(out / "labels" / "mine.parquet", ["x"]), said_complete(out, complete(1))),
        ["mine.parquet", "is not one of its label files. Move it elsewhere"],
    ),
    "a record that was changed by hand": (
        lambda out: said_complete(out, {"texts": 1}),
        ["_labels.json is damaged", "Run `raydistill label` again"],
    ),
}


def said_complete(out: Path, complete: dict[str, Any]) -> None:
    """Have the record of a label store say that it is."""
    path = out / "labels" / "_labels.json"
    record = json.loads(path.read_text())
    if "pairs" in complete:
        complete["pairs"] = complete["texts"] * len(record["labelling"]["class_names"])
    written(path, json.dumps(record | {"complete": complete}))


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_cannot_be_trained_from_are_one_line(
    name: str, tmp_path: Path, good: dict, capfd: pytest.CaptureFixture[str]
) -> None:
    change, wanted = BAD_LABELS[name]
    labels = used(good) / "labels"
    change(labels.parent)
    capfd.readouterr()

    code = main(["train", "--labels", str(labels), "--output-dir", str(tmp_path / "new"), STUDENT, good[STUDENT]])

    said = capfd.readouterr().err
    assert code == 2
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    for fragment in wanted:
        assert fragment in said
    assert not (tmp_path / "new").exists()


# What only Ray can tell: the changes to the good options, and what the line must say.
PLANS_THAT_DO_NOT_FIT: dict[str, tuple[Change, list[str]]] = {
    "too many actors": (option(teacher_actors="500"), ["--teacher-actors 500", "fit"]),
    "no actors": (option(teacher_actors="0"), ["--teacher-actors 0", "N or MIN:MAX"]),
    "fewer than no actors": (option(teacher_actors="-1"), ["--teacher-actors -1", "N or MIN:MAX"]),
    "pool upside down": (option(teacher_actors="8:2"), ["--teacher-actors 8:2", "N or MIN:MAX"]),
    "pool upside down in YAML": (config_file("teacher_actors: 8:2"), ["--teacher-actors 8:2", "N or MIN:MAX"]),
    "pool too large in YAML": (config_file("teacher_actors: 400:401"), ["--teacher-actors 400", "fit"]),
    "no GPU": (option(teacher_gpus_per_actor="1"), ["--teacher-gpus-per-actor", "no free GPU"]),
    "too many workers": (option(train_workers="500"), ["--train-workers 500", "fit"]),
    "no workers": (option(train_workers="0"), ["--train-workers 0", "N or MIN:MAX"]),
    "actor larger than a node": (option(teacher_cpus_per_actor="4000"), ["--teacher-actors", "4000 CPU"]),
    "more workers than texts": (
        lambda t, g: {"--data-file": written(t / "c.txt", "a text\n"), "--train-workers": "2"},
        ["1 text for 2 train workers", "each needs 1 or more"],
    ),
    "no whole batch": (
        option(dataloader_drop_last="true", per_device_train_batch_size="71"),
        ["70 texts for 1 train worker", "each needs 71 or more"],
    ),
    "teacher larger than the memory": (
        lambda t, g: {TEACHER: str(save_classifier(t / "large", vocab_size=1_000_000))},
        ["--teacher-actors 1", "0.1 GB of memory at the least", "0 fit", "CPU 0 GPU 0.1 GB"],
    ),
    "student larger than the memory": (
        lambda t, g: {STUDENT: str(save_encoder(t / "large", vocab_size=500_000))},
        ["--train-workers 1", "0.1 GB of memory at the least", "0 fit"],
    ),
}


def test_plans_that_do_not_fit_are_one_line_and_leave_nothing(
    tmp_path: Path, good: dict, capfd: pytest.CaptureFixture[str]
) -> None:
    with private_ray({"num_cpus": 2, "object_store_memory": 80 << 20, "_memory": 1 << 20}):
        for name, (change, wanted) in PLANS_THAT_DO_NOT_FIT.items():
            (tmp_path / name).mkdir()
            options = good | change(tmp_path / name, good)
            assert main(["run", *(token for pair in options.items() for token in pair)]) == 2
            (line,) = (line for line in capfd.readouterr().err.splitlines() if "token-auth" not in line)
            assert line.startswith("Error: ")
            assert len(line) < LONGEST_ERROR
            for fragment in wanted:
                assert fragment in line
            assert not (tmp_path / "out").exists()


def unreadable(file: Path) -> str:
    file.write_text("a text\n")
    file.chmod(0)
    return str(file)


# Each by a process of its own, which may read and write no more than others may.
BY_THE_COMMAND: dict[str, tuple[Change, list[str]]] = {
    "unknown option": BAD_INPUT["unknown option"],
    "too many actors": PLANS_THAT_DO_NOT_FIT["too many actors"],
    "corpus that may not be read": (
        lambda t, g: {"--data-file": unreadable(t / "c.txt")},
        ["c.txt", "cannot be read", "Permission denied"],
    ),
}


@needs_setpriv
@pytest.mark.parametrize("name", BY_THE_COMMAND)
def test_the_command_itself_says_one_line(name: str, tmp_path: Path, good: dict) -> None:
    change, wanted = BY_THE_COMMAND[name]
    options = good | change(tmp_path, good)
    before = contents(tmp_path)
    run = [sys.executable, "-m", "raydistill", "run", *(token for pair in options.items() for token in pair)]
    done = subprocess.run([*AS_ANYBODY, *run], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    for fragment in wanted:
        assert fragment in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("place", "ending", "said"),
    [
        ('mkdir gone && cd gone && rmdir "$PWD"', "", "the current folder is gone"),
        (f"mkdir -p {'x' * 90} && export TMPDIR=$PWD/{'x' * 90}", "", "too long a path for Ray's sockets"),
        ('mkdir "$(printf "\\377")" && cd "$(printf "\\377")"', "", "the current folder has a name that is not UTF-8"),
        ('export TMPDIR="/tmp/$(printf "\\377")"', "", "Ray keeps its files there"),
        (":", ">&-", "--teacher-name-or-path no/teacher"),
    ],
    ids=[
        "in a folder that is gone",
        "with a long path for Ray's files",
        "in a folder of bytes",
        "with a folder of bytes for Ray's files",
        "without standard output",
    ],
)
def test_where_a_command_cannot_run_it_says_so_in_one_line(
    place: str, ending: str, said: str, tmp_path: Path, good: dict
) -> None:
    options = good | {"--output-dir": str(tmp_path / "out")}
    options |= {"--teacher-name-or-path": "no/teacher"} if ending else {}
    run = shlex.join(
        [sys.executable, "-m", "raydistill", "run", *(token for pair in options.items() for token in pair)]
    )
    done = subprocess.run(
        f"cd {tmp_path} && {place} && {run} {ending}", shell=True, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@needs_mounts
def test_a_read_only_mount_is_no_output_directory(tmp_path: Path, good: dict) -> None:
    (tmp_path / "mount").mkdir()
    options = good | {"--output-dir": str(tmp_path / "mount" / "out")}
    run = [sys.executable, "-m", "raydistill", "run", *(token for pair in options.items() for token in pair)]
    script = f"mount -t tmpfs -o ro none {tmp_path / 'mount'} && exec " + shlex.join(run)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"Error: --output-dir {tmp_path / 'mount' / 'out'}: cannot be written to.")
    assert done.stderr.count("\n") == 1
