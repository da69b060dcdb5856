"""The run directory: who may use it, what run.json says, and how the student gets into it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from records import LABELLING

from raydistill.config import DistillConfig
from raydistill.errors import RunDirError
from raydistill.files import Folder
from raydistill.label_store import LabelStore
from raydistill.run_dir import RunDir
from raydistill.stages.label_stage import held_record

BOTH = ("labels", "student")


def config_for(path, **changes):
    options = {"data_file": "corpus.txt", "class_names_file": "classes.txt", "output_dir": str(path)}
    return DistillConfig(**{**options, **changes})


def begun(path, products=BOTH, *, made=False, **changes):
    """A run directory as a run leaves it that was stopped: once there was something of its products, or before."""
    config = config_for(path, **changes)
    run_dir = RunDir.claim(config, products)
    run_dir.folder.create()
    run_dir.begin(config, products)
    for product, file in {"labels": "labels/part.parquet", "student": "checkpoints/checkpoint_1/x"}.items():
        if made and product in products:
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).touch()
    return run_dir


def claim_error(config, products=BOTH):
    with pytest.raises(RunDirError) as error:
        RunDir.claim(config, products)
    message = str(error.value)
    assert "\n" not in message
    return message


def record_of(path):
    return json.loads((path / "run.json").read_text(encoding="utf-8"))


# Claims


@pytest.mark.parametrize("there", [False, True])
def test_a_new_or_empty_folder_may_be_used_and_a_claim_writes_nothing(there, tmp_path):
    path = tmp_path / "a" / "b"
    if there:
        path.mkdir(parents=True)
    run_dir = RunDir.claim(config_for(path), BOTH)
    assert (run_dir.folder.path, run_dir.record) == (str(path), {})
    assert not list(path.iterdir() if there else tmp_path.iterdir())


def test_a_folder_may_be_named_from_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDir.claim(config_for("~/out"), BOTH).folder.path == str(tmp_path / "out")


def test_a_folder_may_be_named_relatively(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun("out")
    assert (tmp_path / "out" / "run.json").is_file()


def test_a_folder_may_be_named_by_a_uri(tmp_path):
    begun(f"file://{tmp_path}/out")
    assert (tmp_path / "out" / "run.json").is_file()


@pytest.mark.parametrize("uri", ["nowhere://bucket/out", "s3://", "s3:///out"])
def test_what_names_no_folder_is_refused(uri):
    assert f"--output-dir {uri}: cannot be a folder" in claim_error(config_for(uri))


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "is a file" in claim_error(config_for(tmp_path / "out"))
    assert "is a file" in claim_error(config_for(tmp_path / "out", overwrite_output_dir=True))


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    claim_error(config_for(tmp_path / "out" / "below"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may write to")
def test_a_folder_that_cannot_be_written_to_is_refused():
    assert "cannot be written to" in claim_error(config_for("/proc/raydistill/out"))


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert "is not empty and holds no earlier run" in claim_error(config_for(tmp_path))
    assert "--overwrite-output-dir" in claim_error(config_for(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["labels", "checkpoints"])
def test_what_others_keep_under_a_name_of_ours_is_not_overwritten(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.pt").write_text("mine")
    message = claim_error(config_for(tmp_path, overwrite_output_dir=True))
    assert f"holds {name}, which no run of raydistill's has made. Move that away" in message
    assert (tmp_path / name / "mine.pt").read_text() == "mine"


def test_a_record_of_another_tool_is_no_run_of_ours(tmp_path):
    (tmp_path / "run.json").write_text('{"metrics": {"f1": 0.9}}')
    assert "holds run.json, which no run" in claim_error(config_for(tmp_path))
    assert "holds run.json, which no run" in claim_error(config_for(tmp_path, overwrite_output_dir=True))
    assert json.loads((tmp_path / "run.json").read_text()) == {"metrics": {"f1": 0.9}}


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_a_damaged_record_is_refused(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    assert "run.json is damaged" in claim_error(config_for(tmp_path))


def labelled(path, **record):
    """A label store as a run leaves it."""
    store = LabelStore(str(path / "labels"))
    store.folder.create()
    store.write_record({"labelling": LABELLING, **record})


@pytest.mark.parametrize("content", [b"{", b"", b"[]"])
def test_a_damaged_record_over_good_labels_is_written_anew(content, tmp_path):
    labelled(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    assert RunDir.claim(config_for(tmp_path), BOTH).record == {}


@pytest.mark.parametrize("name", ["options", "made_with", "stages", "published", "quote"])
@pytest.mark.parametrize("value", ["x", [1], 5])
def test_what_is_no_table_in_the_record_is_not_known(name, value, tmp_path):
    record = begun(tmp_path, made=True).record
    labelled(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(record | {name: value}))
    assert name not in RunDir.claim(config_for(tmp_path), BOTH).record
    assert RunDir.claim(config_for(tmp_path, overwrite_output_dir=True), BOTH).anew


@pytest.mark.parametrize("name", ["made_with", "stages"])
def test_what_is_no_table_in_a_table_of_the_record_is_not_known(name, tmp_path):
    record = begun(tmp_path, made=True).record
    (tmp_path / "run.json").write_text(json.dumps(record | {name: {"labels": 3, "student": {}, "label": [], "a": {}}}))
    assert RunDir.claim(config_for(tmp_path), BOTH).record[name] == {"student": {}, "a": {}}


@pytest.mark.parametrize(("product", "name"), [("labels", "data_file"), ("student", "training")])
def test_an_option_that_was_changed_by_hand_in_the_record_is_told(product, name, tmp_path):
    record = begun(tmp_path, made=True).record
    labelled(tmp_path)
    (tmp_path / "labels" / "part.parquet").write_text("x")
    record["made_with"][product][name] = 5
    (tmp_path / "run.json").write_text(json.dumps(record | {"published": {"config.json": "x"}}))
    config = config_for(tmp_path, learning_rate=1e-4)
    assert "holds a run with other options" in claim_error(config)


def test_labels_without_a_record_of_either_kind_are_not_taken_for_a_run(tmp_path):
    (tmp_path / "labels").mkdir()
    assert "which no run of raydistill" in claim_error(config_for(tmp_path))
    (tmp_path / "labels").rmdir()
    (tmp_path / "labels").write_text("a file")
    assert "which no run of raydistill" in claim_error(config_for(tmp_path))


def test_an_option_that_is_newer_than_the_run_was_at_its_default(tmp_path):
    run_dir = begun(tmp_path, made=True)
    made_with = run_dir.record["made_with"]["labels"]
    del made_with["encoding"]
    run_dir.update(made_with={"labels": made_with})
    assert RunDir.claim(config_for(tmp_path), BOTH).record
    assert "--encoding was utf-8, now latin-1" in claim_error(config_for(tmp_path, encoding="latin-1"))


def test_a_link_to_a_folder_is_one_and_a_broken_link_or_what_is_below_it_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    assert RunDir.claim(config_for(tmp_path / "link"), BOTH).record == {}
    (tmp_path / "broken").symlink_to("gone")
    for below in ("broken", "broken/a/b"):
        assert f"{tmp_path / 'broken'} is a broken link" in claim_error(config_for(tmp_path / below))


def test_a_run_of_the_same_options_goes_on(tmp_path):
    begun(tmp_path, made=True).update(stages={"label": {"finished": True}})
    assert RunDir.claim(config_for(tmp_path), BOTH).record["stages"]["label"]["finished"]


def test_a_run_of_other_options_is_refused_and_each_difference_is_told(tmp_path):
    begun(tmp_path, made=True, temperature=1, learning_rate="1e-4", data_file=["a.txt", "b.txt"])
    message = claim_error(config_for(tmp_path, temperature=2, seed=3, data_file="c.txt", teacher_max_length=9))
    for wanted in (
        "--temperature was 1.0, now 2.0",
        "--learning-rate was 1e-4, now not given",
        "--seed was not given, now 3",
        "--data-file was a.txt b.txt, now c.txt",
        "--teacher-max-length was not given, now 9",
    ):
        assert wanted in message
    assert "--class-names-file" not in message


def test_an_option_given_at_its_default_is_as_one_left_out(tmp_path):
    begun(tmp_path, made=True, num_train_epochs="1", fp16=False)
    assert RunDir.claim(config_for(tmp_path, lr_scheduler_type="linear"), BOTH).record
    assert RunDir.claim(config_for(tmp_path, num_train_epochs=None, max_grad_norm=None), BOTH).record
    message = claim_error(config_for(tmp_path, num_train_epochs=2, bf16=True))
    assert "(--bf16 was not given, now True; --num-train-epochs was 1, now 2)" in message


def test_a_student_that_has_come_to_nothing_may_be_trained_with_other_options(tmp_path):
    begun(tmp_path, ["labels"], made=True)
    begun(tmp_path, temperature=2)
    (tmp_path / "checkpoints" / "rows").mkdir(parents=True)
    other = config_for(tmp_path, temperature=3, optim="adafactor")
    run_dir = RunDir.claim(other, BOTH)
    assert run_dir.record
    run_dir.begin(other, BOTH)
    assert record_of(tmp_path)["made_with"]["student"]["temperature"] == 3
    assert "--hypothesis-template" in claim_error(config_for(tmp_path, hypothesis_template="About {}."))


def test_where_no_label_was_begun_they_may_be_made_with_other_options(tmp_path):
    begun(tmp_path, teacher_precision="int8")
    other = config_for(tmp_path, teacher_precision="fp32", hypothesis_template="About {}.")
    scoring = {"precision": "int8", "audit": {"agreement": 0.995}}
    labelled(tmp_path, scoring=scoring)  # as far as its record
    run_dir = RunDir.claim(other, BOTH)
    run_dir.begin(other, BOTH)
    assert record_of(tmp_path)["made_with"]["labels"]["hypothesis_template"] == "About {}."
    store = LabelStore(run_dir.labels_path)
    assert held_record(store, run_dir) == {}
    (tmp_path / "labels" / "part.parquet").touch()
    assert held_record(store, run_dir)["scoring"] == scoring
    assert "--hypothesis-template was About {}., now" in claim_error(config_for(tmp_path))


def test_a_student_is_not_made_anew_from_other_labels_where_its_own_are_gone(tmp_path, model):
    begun(tmp_path / "out", made=True).publish(model)
    shutil.rmtree(tmp_path / "out" / "labels")
    RunDir.claim(config_for(tmp_path / "out"), BOTH)
    assert "--hypothesis-template" in claim_error(config_for(tmp_path / "out", hypothesis_template="About {}."))


CHANGES_LABELS = {"hypothesis_template": "About {}.", "teacher_max_length": 9, "text_column": "body"}
CHANGES_STUDENT = {"temperature": 2.0, "multi_label": True, "learning_rate": "3e-5", "student_max_length": 9}
CHANGES_NOTHING = {
    "teacher_actors": "2",
    "teacher_batch_size": 8,
    "use_cpu": True,
    "train_workers": 2,
    "address": "auto",
    "dry_run": True,
}


@pytest.mark.parametrize("change", [{name: value} for name, value in CHANGES_LABELS.items()], ids=str)
def test_what_changes_labels_hinders_labelling_but_not_training(change, tmp_path):
    begun(tmp_path, made=True)
    claim_error(config_for(tmp_path, **change), ["labels"])
    claim_error(config_for(tmp_path, **change), BOTH)
    assert RunDir.claim(config_for(tmp_path, **change), ["student"]).record


@pytest.mark.parametrize("change", [{name: value} for name, value in CHANGES_STUDENT.items()], ids=str)
def test_what_changes_the_student_hinders_training_but_not_labelling(change, tmp_path):
    begun(tmp_path, made=True)
    claim_error(config_for(tmp_path, **change), ["student"])
    claim_error(config_for(tmp_path, **change), BOTH)
    assert RunDir.claim(config_for(tmp_path, **change), ["labels"]).record


@pytest.mark.parametrize("change", [{name: value} for name, value in CHANGES_NOTHING.items()], ids=str)
def test_what_changes_only_how_the_work_is_done_hinders_nothing(change, tmp_path):
    begun(tmp_path, made=True)
    assert RunDir.claim(config_for(tmp_path, **change), BOTH).record


def test_a_product_that_was_not_made_yet_may_be_made_with_any_options(tmp_path):
    begun(tmp_path, ["labels"], made=True)
    run_dir = begun(tmp_path, ["student"], made=True, temperature=2)
    assert set(run_dir.record["made_with"]) == set(BOTH)
    claim_error(config_for(tmp_path, temperature=3), ["student"])


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"learning_rate": "3e-5"}, {"learning_rate": 3e-5}),
        ({"num_train_epochs": "1"}, {"num_train_epochs": 1.0}),
        ({"fp16": "true"}, {"fp16": True}),
        ({"temperature": "2"}, {"temperature": 2.0}),
    ],
)
def test_the_same_value_spelled_otherwise_is_the_same(then, now, tmp_path):
    # "3e-5" comes from the command line and from YAML, 3e-05 from JSON and from Python.
    begun(tmp_path, made=True, **then)
    assert RunDir.claim(config_for(tmp_path, **now), BOTH).record


@pytest.mark.parametrize("content", ["{", "null", "[]", '{"made_with": {}}'])
def test_overwriting_may_be_done_whatever_is_there(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    assert RunDir.claim(config_for(tmp_path, overwrite_output_dir=True), BOTH).record == {}
    assert (tmp_path / "run.json").read_text() == content


@pytest.mark.parametrize("content", ["null", "[]", "3"])
def test_a_record_that_is_no_table_is_refused_as_damaged(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    assert "damaged" in claim_error(config_for(tmp_path))


# Beginning


def test_beginning_says_what_this_run_is(tmp_path):
    config = config_for(tmp_path / "a" / "b", learning_rate="3e-5")
    run_dir = RunDir.claim(config, BOTH)
    run_dir.folder.create()
    run_dir.begin(config, BOTH, versions={"python": "3"})
    record = record_of(tmp_path / "a" / "b")
    assert record["options"] == config.options()
    assert record["made_with"] == {name: config.that_change(name) for name in BOTH}
    assert record["versions"] == {"python": "3"}


def fill(run_dir, model):
    """Leave what a run leaves, and something of the user's."""
    path = Path(run_dir.folder.path)
    (path / "labels").mkdir()
    (path / "labels" / "part.parquet").write_text("x")
    (path / "checkpoints" / "deep").mkdir(parents=True)
    (path / "raydistill.log").write_text("x")
    run_dir.publish(model)
    (path / "thesis.tex").write_text("mine")


def test_overwriting_removes_an_earlier_run_and_nothing_else(model, tmp_path):
    fill(begun(tmp_path / "out"), model)
    begun(tmp_path / "out", ["labels"], overwrite_output_dir=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "thesis.tex"}


def test_overwriting_removes_nothing_outside_the_folder_whatever_the_record_names(model, tmp_path):
    run_dir = begun(tmp_path / "out")
    fill(run_dir, model)
    (tmp_path / "thesis.tex").write_text("mine")
    run_dir.update(published={"../thesis.tex": "0", str(tmp_path / "thesis.tex"): "0", "..": "0", ".": "0"})
    begun(tmp_path / "out", overwrite_output_dir=True)
    assert (tmp_path / "thesis.tex").read_text() == (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_overwriting_for_training_keeps_the_labels(model, tmp_path):
    fill(begun(tmp_path / "out"), model)
    begun(tmp_path / "out", ["student"], overwrite_output_dir=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "labels", "thesis.tex"}
    assert (tmp_path / "out" / "labels" / "part.parquet").read_text() == "x"


def test_overwriting_for_training_keeps_what_is_known_of_the_labels(tmp_path):
    facts = {"labelling": {"teacher": "t"}, "scoring": {"precision": "fp32"}, "counts": {"texts": 3}}
    run_dir = begun(tmp_path, made=True)
    run_dir.update(stages={"label": {"finished": True}, "train": {"finished": True}}, figures={"loss": 1}, **facts)
    begun(tmp_path, ["student"], overwrite_output_dir=True, temperature=2)
    record = record_of(tmp_path)
    assert {name: record[name] for name in facts} == facts
    assert record["stages"] == {"label": {"finished": True}}
    assert record["made_with"]["labels"]["data_file"] == ["corpus.txt"]
    assert "figures" not in record
    assert "--data-file was corpus.txt, now other.txt" in claim_error(config_for(tmp_path, data_file="other.txt"))


@pytest.mark.parametrize("files", [["b.txt", "a.txt"], ["c.txt", "a.txt", "b.txt"], ["b.txt"]])
def test_a_corpus_may_grow_and_shrink_by_files_in_any_order(files, tmp_path):
    begun(tmp_path, made=True, data_file=["a.txt", "b.txt"])
    assert RunDir.claim(config_for(tmp_path, data_file=files), BOTH).record


def test_a_glob_that_was_kept_as_it_was_given_is_the_same(tmp_path, monkeypatch):
    run_dir = begun(tmp_path / "out", made=True, data_file=["news/*.txt"])
    assert run_dir.record["made_with"]["labels"]["data_file"] == [os.path.abspath("news/*.txt")]
    run_dir.record["made_with"]["labels"]["data_file"] = ["news/*.txt"]
    run_dir.update()
    assert RunDir.claim(config_for(tmp_path / "out", data_file=["news/*.txt"]), BOTH).record
    monkeypatch.chdir(tmp_path)
    assert "--data-file was" in claim_error(config_for(tmp_path / "out", data_file=["news/*.csv"]))


def test_a_command_that_overwrites_goes_on_with_what_it_has_begun_itself(model, tmp_path):
    path = tmp_path / "out"
    fill(begun(path), model)
    stopped = begun(path, ["labels"], overwrite_output_dir=True)
    assert stopped.anew
    (path / "labels").mkdir()
    again = begun(path, ["labels"], overwrite_output_dir=True)
    assert (again.anew, (path / "labels").exists()) == (False, True)
    assert RunDir.claim(config_for(path, overwrite_output_dir=True, text_column="body"), ["labels"]).anew
    assert not RunDir.claim(config_for(path, overwrite_output_dir=True, address="auto", dry_run=True), ["labels"]).anew
    again.update(stages={"label": {"finished": True}})
    begun(path, ["labels"], overwrite_output_dir=True)
    assert not (path / "labels").exists()


def test_a_script_that_overwrites_in_two_commands_goes_on_where_the_second_was_stopped(tmp_path):
    flags = {"overwrite_output_dir": True}
    begun(tmp_path, **flags).update(stages={"label": {"finished": True}, "train": {"finished": True}})
    begun(tmp_path, ["labels"], **flags).update(stages={"label": {"finished": True}})
    (tmp_path / "labels").mkdir()
    assert begun(tmp_path, ["student"], **flags).anew
    (tmp_path / "checkpoints").mkdir()
    assert [begun(tmp_path, [product], **flags).anew for product in BOTH] == [False, False]
    assert (tmp_path / "labels").exists()
    assert (tmp_path / "checkpoints").exists()


def test_overwriting_forgets_the_earlier_runs_record(tmp_path):
    begun(tmp_path).update(stages={"train": {"finished": True}})
    begun(tmp_path, temperature=2, overwrite_output_dir=True)
    assert "stages" not in record_of(tmp_path)


def test_without_overwriting_everything_stays(model, tmp_path):
    fill(begun(tmp_path / "out"), model)
    before = {path.name for path in tmp_path.rglob("*")}
    begun(tmp_path / "out")
    assert {path.name for path in tmp_path.rglob("*")} == before


# The record


def test_facts_add_up_tables_are_merged_and_all_else_is_replaced(tmp_path):
    run_dir = begun(tmp_path)
    run_dir.update(stages={"label": {"finished": True}}, seconds=1)
    run_dir.update(stages={"train": {"finished": False}}, seconds=2)
    record = record_of(tmp_path)
    assert record["stages"] == {"label": {"finished": True}, "train": {"finished": False}}
    assert record["seconds"] == 2


def test_the_record_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    run_dir = begun(tmp_path)
    before = (tmp_path / "run.json").read_text()
    monkeypatch.setattr("raydistill.files.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_dir.update(seconds=3)
    assert (tmp_path / "run.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_the_record_is_readable_utf_8(tmp_path):
    begun(tmp_path, hypothesis_template="Über {}.")
    assert "Über {}." in (tmp_path / "run.json").read_text(encoding="utf-8")


# Publishing


MODEL = {"config.json": '{"new": "config"}', "model.safetensors": "new weights", "tokenizer.json": "{}"}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in MODEL.items():
        (folder / name).write_text(content)
    return Folder(str(folder))


def test_publishing_copies_every_file_of_the_model(model, tmp_path):
    run_dir = begun(tmp_path / "out")
    run_dir.publish(model)
    assert {name: (tmp_path / "out" / name).read_text() for name in MODEL} == MODEL
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*MODEL, "run.json"}
    assert set(model.names()) == set(MODEL)


@pytest.mark.parametrize(
    ("name", "content", "lacking"),
    [
        ("model.safetensors", "new w\0\0\0\0\0\0", True),
        ("model.safetensors", "", True),
        ("tokenizer.json", "", True),
        ("tokenizer.json", '{"half', True),
        ("config.json", None, True),
        ("config.json", '{"a word": "of the owner"}', False),
        ("README.md", "of the user's own", False),
    ],
)
def test_a_student_that_is_not_as_it_was_published_is_known(name, content, lacking, model, tmp_path):
    run_dir = begun(tmp_path / "out")
    run_dir.publish(model)
    assert run_dir.damaged() is None
    if content is None:
        (tmp_path / "out" / name).unlink()
    else:
        (tmp_path / "out" / name).write_text(content)
    assert run_dir.damaged() == (name if lacking else None)


@pytest.mark.parametrize("there_before", [False, True])
def test_when_publishing_breaks_off_nothing_loads(there_before, model, tmp_path):
    run_dir = begun(tmp_path / "out")
    if there_before:
        for name in MODEL:
            (tmp_path / "out" / name).write_text("old")
    model.write("another_file", b"x")
    (tmp_path / "out" / "another_file").mkdir()  # stands in the way
    with pytest.raises(RunDirError, match=r"another_file: cannot be written"):
        run_dir.publish(model)
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_config_comes_after_every_other_file(model, tmp_path, monkeypatch):
    run_dir = begun(tmp_path / "out")
    model.write("zz_last_by_name.txt", b"x")
    copy, seen = Folder.copy, []

    def watched(folder, source, name):
        seen.append(name)
        assert not (tmp_path / "out" / "config.json").exists()
        copy(folder, source, name)

    monkeypatch.setattr(Folder, "copy", watched)
    run_dir.publish(model)
    assert seen[-1] == "config.json"
    assert sorted(seen) == sorted([*MODEL, "zz_last_by_name.txt"])


def test_the_paths_of_labels_and_log_lie_in_the_folder(tmp_path):
    run_dir = begun(tmp_path)
    assert run_dir.labels_path == str(tmp_path / "labels")
    with run_dir.log(print) as log:
        assert log == tmp_path / "raydistill.log"
