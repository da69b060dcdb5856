"""The command line: bad input is one clear line and exit code 2, and nothing is left behind."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.cli import collect_config, main, training_flags
from raydistill.errors import ConfigError


@pytest.fixture
def good(
    tmp_path: Path, corpus_file: Path, class_names_file: Path, tiny_teacher_dir: Path, tiny_student_dir: Path
) -> dict:
    """Options of a run that would work; its output directory does not exist yet."""
    return {
        "--data-file": str(corpus_file),
        "--class-names-file": str(class_names_file),
        "--output-dir": str(tmp_path / "out"),
        "--teacher-name-or-path": str(tiny_teacher_dir),
        "--student-name-or-path": str(tiny_student_dir),
    }


def written(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def edited(folder: Path, original: Path, **config: Any) -> str:
    """A copy of a model whose config.json says something else."""
    shutil.copytree(original, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return str(folder)


def without(folder: Path, original: str, name: str) -> str:
    """A copy of a model that lacks a file."""
    shutil.copytree(original, folder)
    (folder / name).unlink()
    return str(folder)


def lfs_pointer(folder: Path, original: str) -> str:
    """A copy of a model with a pointer in place of its weights."""
    shutil.copytree(original, folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return str(folder)


def parquet(path: Path, **columns: list) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


# name -> (changes to the good options, given (tmp_path, good); what the line must say)
Case = tuple[Callable[[Path, dict], dict], list[str]]
BAD_INPUT: dict[str, Case] = {
    "int8 by PyTorch": (
        lambda t, g: {"--teacher-precision": "int8", "--teacher-backend": "torch"},
        ["--teacher-precision int8", "--teacher-backend"],
    ),
    "unknown backend": (lambda t, g: {"--teacher-backend": "onnx"}, ["--teacher-backend", "onnx", "openvino"]),
    "agreement above one": (lambda t, g: {"--min-agreement": "99"}, ["--min-agreement 99", "between 0 and 1"]),
    "agreement not a number": (lambda t, g: {"--min-agreement": "nan"}, ["--min-agreement nan"]),
    "audit of nothing": (lambda t, g: {"--audit-texts": "0"}, ["--audit-texts 0 must be 1 or more"]),
    "corpus missing": (lambda t, g: {"--data-file": str(t / "no.txt")}, ["--data-file", "no.txt", "no such file"]),
    "corpus empty": (lambda t, g: {"--data-file": written(t / "c.txt", "")}, ["c.txt", "is empty"]),
    "corpus binary": (lambda t, g: {"--data-file": written(t / "c.txt", b"\x7fELF\0\0\1")}, ["c.txt", "binary"]),
    "corpus not UTF-8": (
        lambda t, g: {"--data-file": written(t / "c.txt", "good\nna\xefve\n".encode("latin-1"))},
        ["c.txt", "line 2", "not UTF-8", "iconv"],
    ),
    "corpus UTF-16": (lambda t, g: {"--data-file": written(t / "c.txt", "text".encode("utf-16"))}, ["UTF-16"]),
    "no such column in CSV": (
        lambda t, g: {"--data-file": written(t / "c.csv", "id,body\n1,x\n")},
        ["no column 'text'", "id, body", "--text-column"],
    ),
    "no such column in Parquet": (
        lambda t, g: {"--data-file": parquet(t / "c.parquet", body=["x"]), "--text-column": "content"},
        ["no column 'content'", "body"],
    ),
    "column of numbers": (lambda t, g: {"--data-file": parquet(t / "c.parquet", text=[1])}, ["int64", "not text"]),
    "broken JSON line": (
        lambda t, g: {"--data-file": written(t / "c.jsonl", '{"text":"a"}\n{')},
        ["line 2", "not JSON"],
    ),
    "ragged CSV": (lambda t, g: {"--data-file": written(t / "c.csv", "id,text\n1,a\n2,b,c\n")}, ["Expected 2 columns"]),
    "classes missing": (lambda t, g: {"--class-names-file": str(t / "no.txt")}, ["--class-names-file", "no.txt"]),
    "classes empty": (lambda t, g: {"--class-names-file": written(t / "k.txt", "\n \n")}, ["no class name"]),
    "classes doubled": (
        lambda t, g: {"--class-names-file": written(t / "k.txt", "a\nb\n a \n")},
        ["'a'", "more than once"],
    ),
    "one class": (
        lambda t, g: {"--class-names-file": written(t / "k.txt", "a\n")},
        ["only one class", "--multi-label"],
    ),
    "template without braces": (lambda t, g: {"--hypothesis-template": "It is so."}, ["--hypothesis-template", "{}"]),
    "template with a broken brace": (
        lambda t, g: {"--hypothesis-template": "It is {."},
        ["--hypothesis-template", "{}"],
    ),
    "temperature 0": (lambda t, g: {"--temperature": "0"}, ["--temperature 0.0", "above 0"]),
    "temperature NaN": (lambda t, g: {"--temperature": "nan"}, ["--temperature nan", "above 0"]),
    "temperature not a number": (lambda t, g: {"--temperature": "warm"}, ["--temperature 'warm'", "a number"]),
    "unknown option": (lambda t, g: {"--lerning-rate": "1"}, ["--lerning-rate", "Did you mean --learning-rate?"]),
    "unknown option like ours": (lambda t, g: {"--temprature": "1"}, ["--temprature", "Did you mean --temperature?"]),
    "training option of the wrong type": (lambda t, g: {"--learning_rate": "fast"}, ["learning_rate", "fast"]),
    "training option without its value's choice": (
        lambda t, g: {"--lr_scheduler_type": "up"},
        ["invalid choice", "up"],
    ),
    "teacher that is no classifier": (
        lambda t, g: {
            "--teacher-name-or-path": edited(t / "m", Path(g["--teacher-name-or-path"]), architectures=["BertModel"])
        },
        ["BertModel", "not a sequence classifier"],
    ),
    "teacher without an entailment label": (
        lambda t, g: {
            "--teacher-name-or-path": edited(
                t / "m",
                Path(g["--teacher-name-or-path"]),
                id2label={0: "x", 1: "y", 2: "z"},
                label2id={"x": 0, "y": 1, "z": 2},
            )
        },
        ["--entailment-id", "--contradiction-id", "0: x"],
    ),
    "teacher folder missing": (
        lambda t, g: {"--teacher-name-or-path": str(t / "no")},
        ["--teacher-name-or-path", "no such folder"],
    ),
    "teacher not on the hub": (
        lambda t, g: {"--teacher-name-or-path": "nobody/nothing"},
        ["--teacher-name-or-path nobody/nothing", "hub", "cannot be reached"],
    ),
    "student not on the hub": (
        lambda t, g: {"--student-name-or-path": "nobody/nothing"},
        ["--student-name-or-path", "hub"],
    ),
    "student folder without a model": (lambda t, g: {"--student-name-or-path": str(t)}, ["no config.json"]),
    "hypothesis too long": (lambda t, g: {"--teacher-max-length": "5"}, ["leaves none for the text"]),
    "output directory is a file": (lambda t, g: {"--output-dir": written(t / "f", "x")}, ["--output-dir", "is a file"]),
    "output directory not writable": (
        lambda t, g: {"--output-dir": "/proc/raydistill"},
        ["--output-dir", "cannot be written"],
    ),
    "output directory on an object store": (
        lambda t, g: {"--output-dir": "sthree://bucket/run"},
        ["--output-dir sthree://bucket/run", "cannot be a folder", "s3://"],
    ),
    "output directory in use": (
        lambda t, g: {"--output-dir": str(Path(written(t / "other.txt", "x")).parent)},
        ["not empty", "--overwrite-output-dir"],
    ),
    "no cluster": (lambda t, g: {"--address": "auto"}, ["--address auto", "no Ray cluster"]),
    "no cluster at that port": (lambda t, g: {"--address": "127.0.0.1:9"}, ["--address 127.0.0.1:9", "no Ray cluster"]),
    "address of no form": (lambda t, g: {"--address": "there"}, ["--address there", "host:port"]),
    "config file missing": (lambda t, g: {"--config": str(t / "no.yaml")}, ["--config", "no.yaml"]),
    "config file broken": (lambda t, g: {"--config": written(t / "c.yaml", "a: [")}, ["--config", "not YAML"]),
    "corpus of blank lines": (lambda t, g: {"--data-file": written(t / "c.txt", "\n  \n")}, ["no text but blank"]),
    "corpus not named": (lambda t, g: {"--data-file": ""}, ["--data-file is empty"]),
    "output within the corpus": (
        lambda t, g: {"--data-file": str(Path(written(t / "c.txt", "x")).parent), "--output-dir": str(t / "out")},
        ["one lies in the other"],
    ),
    "labels for a run that makes them": (lambda t, g: {"--labels": str(t)}, ["--labels", "raydistill train"]),
    "teacher without weights": (
        lambda t, g: {"--teacher-name-or-path": without(t / "m", g["--teacher-name-or-path"], "model.safetensors")},
        ["--teacher-name-or-path", "no weights"],
    ),
    "weights that git lfs has not fetched": (
        lambda t, g: {"--student-name-or-path": lfs_pointer(t / "m", g["--student-name-or-path"])},
        ["model.safetensors", "git lfs pull"],
    ),
    "student without a tokenizer": (
        lambda t, g: {"--student-name-or-path": without(t / "m", g["--student-name-or-path"], "tokenizer.json")},
        ["has no tokenizer"],
    ),
    "student that sees images": (
        lambda t, g: {"--student-name-or-path": edited(t / "m", g["--student-name-or-path"], model_type="vit")},
        ["vit", "does not classify texts"],
    ),
    "student max length of special tokens": (
        lambda t, g: {"--student-max-length": "2"},
        ["--student-max-length 2 must be above 2"],
    ),
    "batch of nothing": (
        lambda t, g: {"--per-device-train-batch-size": "0"},
        ["--per-device-train-batch-size 0 must be 1 or more"],
    ),
    "reports to nowhere": (lambda t, g: {"--report_to": "nowhere"}, ["--report-to", "installed here"]),
    "rows in file order": (
        lambda t, g: {"--train_sampling_strategy": "sequential"},
        ["--train-sampling-strategy sequential must be random or group_by_length"],
    ),
    "training in shards": (lambda t, g: {"--fsdp": "full_shard"}, ["--fsdp does not go with raydistill", "DDP"]),
    "option missing": (lambda t, g: {"--data-file": None}, ["--data-file is missing"]),
    "several faults at once": (
        lambda t, g: {"--temperature": "0", "--teacher-batch-size": "0", "--class-names-file": None},
        ["--temperature", "--teacher-batch-size", "--class-names-file"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, good: dict, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    change, wanted = BAD_INPUT[name]
    options = good | change(tmp_path, good)
    before = sorted(tmp_path.rglob("*"))
    arguments = [token for flag, value in options.items() if value is not None for token in (flag, value)]

    assert main(["run", *arguments]) == 2

    # In pytest's process Ray's own logger writes past `Chatter`, to the stderr that pytest has put in the place.
    said = "".join(line for line in capfd.readouterr().err.splitlines(keepends=True) if "token-auth" not in line)
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    for fragment in wanted:
        assert fragment in said
    assert sorted(tmp_path.rglob("*")) == before


PLANS_THAT_DO_NOT_FIT = {
    "too many actors": (["--teacher-actors", "500"], ["--teacher-actors 500", "fit"]),
    "no actors": (["--teacher-actors", "0"], ["--teacher-actors 0", "N or MIN:MAX"]),
    "pool upside down": (["--teacher-actors", "8:2"], ["--teacher-actors 8:2", "N or MIN:MAX"]),
    "no GPU": (["--teacher-gpus-per-actor", "1"], ["--teacher-gpus-per-actor", "no free GPU"]),
    "too many workers": (["--train-workers", "500"], ["--train-workers 500", "fit"]),
    "actor larger than a node": (["--teacher-cpus-per-actor", "4000"], ["--teacher-actors", "4000 CPU"]),
}


def test_plans_that_do_not_fit_are_one_line_and_leave_nothing(
    tmp_path: Path, good: dict, capfd: pytest.CaptureFixture[str]
) -> None:
    from raydistill.stages.cluster import connection

    base = [token for pair in good.items() for token in pair]
    with connection(None):
        for extra, wanted in PLANS_THAT_DO_NOT_FIT.values():
            assert main(["run", *base, *extra]) == 2
            line = capfd.readouterr().err.strip().split("\n")[-1]
            assert line.startswith("Error: ")
            for fragment in wanted:
                assert fragment in line
            assert not (tmp_path / "out").exists()


def test_dry_run_prints_the_plan_and_a_quote_that_the_run_bears_out(
    tmp_path: Path, good: dict, corpus_counts: Any
) -> None:
    base = [sys.executable, "-m", "raydistill", "label", *(token for pair in good.items() for token in pair)]
    told = subprocess.run([*base, "--dry-run", "--price-per-hour", "7.50"], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    texts = corpus_counts.texts
    assert f"{texts} texts × 5 classes = {texts * 5} pairs, in 1 file" in told.stderr
    assert "1 node" in told.stderr
    assert "teacher actor" in told.stderr
    assert f"{1 - corpus_counts.distinct / texts:.1%} duplicates" in told.stderr
    assert "at 7.50 an hour" in told.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert list(record) == ["quote"]
    assert record["quote"]["pairs"] == corpus_counts.distinct * 5
    assert not (tmp_path / "out" / "labels").exists()

    done = subprocess.run(base, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["quote"]["actual_seconds"] == record["stages"]["label"]["seconds"]
    assert re.search(r"quote +.*, took ", done.stderr)

    again = subprocess.run([*base, "--dry-run"], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert "done before" in again.stderr
    assert "quote" not in again.stderr


def test_flags_may_be_written_as_the_seed_script_did() -> None:
    config = collect_config(
        {"data_file": ("c.txt",), "temperature": "2"}, ["--learning_rate", "3e-5", "--fp16", "--max-steps", "-1"]
    )
    assert config.data_file == ("c.txt",)
    assert config.temperature == 2.0
    assert config.training == {"learning_rate": "3e-5", "fp16": "true", "max_steps": "-1"}


def test_flags_win_over_the_config_file(tmp_path: Path) -> None:
    path = written(tmp_path / "c.yaml", "temperature: 3\nhypothesis-template: 'It is {}.'\nlearning_rate: 1e-4\n")
    config = collect_config({"config": path, "temperature": "2"}, ["--learning-rate=5e-5"])
    assert (config.temperature, config.hypothesis_template) == (2.0, "It is {}.")
    assert config.training == {"learning_rate": "5e-5"}


def test_a_lone_json_file_holds_all_options(tmp_path: Path) -> None:
    path = written(tmp_path / "options.json", json.dumps({"data_file": "c.txt", "multi_label": True, "fp16": False}))
    config = collect_config({}, [path])
    assert (config.data_file, config.multi_label, config.training) == (("c.txt",), True, {"fp16": False})


def test_a_stray_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unexpected argument 'corpus\.txt'"):
        training_flags(["corpus.txt"])


def test_flags_reach_the_config_in_either_spelling(good: dict, tmp_path: Path) -> None:
    spelled = [token for flag, value in good.items() for token in ("--" + flag[2:].replace("-", "_"), value)]
    done = subprocess.run(
        [sys.executable, "-m", "raydistill", "run", *spelled, "--multi_class", "--no_cuda", "--dry_run"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_help_groups_options_and_points_at_training_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("Essentials:") < text.index("Teacher:") < text.index("Resources:")
    assert "TrainingArguments" in text
    assert "--adam-beta1" not in text
    assert main(["run", "--help-all"]) == 0
    assert "--adam-beta1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "sent"), [("label", signal.SIGINT), ("train", signal.SIGINT), ("train", signal.SIGTERM)]
)
def test_a_signal_stops_a_run_which_says_how_to_go_on(
    stage: str, sent: signal.Signals, tmp_path: Path, good: dict
) -> None:
    base = [token for pair in good.items() for token in pair]
    process = subprocess.Popen(
        [sys.executable, "-m", "raydistill", "run", *base, "--num_train_epochs", "100000"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    said = ""
    while not said.endswith(f"{stage.ljust(6)} starting\n"):
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(5)  # somewhere in the midst of it
    process.send_signal(sent)
    said += process.communicate(timeout=60)[1]
    assert process.returncode == 128 + sent, said
    assert said.splitlines()[-1].startswith("Error: stopped.")
    assert "the same command goes on" in said
    assert "Traceback" not in said
