"""The options: types, former names, config files, faults, and what is written down of them."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raydistill.config import (
    FORMER_NAMES,
    IGNORED_NAMES,
    DistillConfig,
    option_fields,
)
from raydistill.config_file import read_config_file
from raydistill.errors import ConfigError, RaydistillError
from raydistill.option_values import flag, suggest

NAMES = [field.name for field in option_fields()]
REQUIRED = {"data_file": "corpus.txt", "class_names_file": "classes.txt", "output_dir": "out"}


# Types


@pytest.mark.parametrize(
    ("name", "given_", "wanted"),
    [
        ("data_file", "a.txt", ("a.txt",)),
        ("data_file", Path("a.txt"), ("a.txt",)),
        ("data_file", ["a.txt", Path("b.txt")], ("a.txt", "b.txt")),
        ("data_file", ("a.txt",), ("a.txt",)),
        ("output_dir", Path("out"), "out"),
        ("temperature", "2", 2.0),
        ("temperature", 3, 3.0),
        ("temperature", "1e-1", 0.1),
        ("teacher_batch_size", "8", 8),
        ("teacher_batch_size", 8.0, 8),
        ("teacher_max_length", "128", 128),
        ("teacher_gpus_per_actor", "0.5", 0.5),
        ("teacher_gpus_per_actor", 0, 0.0),
        ("teacher_actors", 3, "3"),
        ("teacher_actors", "2:4", "2:4"),
        ("entailment_id", "0", 0),
        ("teacher_precision", "bf16", "bf16"),
        ("hypothesis_template", "{}", "{}"),
    ],
)
def test_values_are_converted_to_the_options_type(name, given_, wanted):
    found = getattr(DistillConfig(**{name: given_}), name)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize("text", ["true", "True", "yes", "1", "on", "TRUE", 1, True])
def test_true_has_many_spellings(text):
    assert DistillConfig(multi_label=text).multi_label is True


@pytest.mark.parametrize("text", ["false", "False", "no", "0", "off", 0, False])
def test_false_has_many_spellings(text):
    assert DistillConfig(multi_label=text, use_fast_tokenizer=text).multi_label is False
    assert DistillConfig(use_fast_tokenizer=text).use_fast_tokenizer is False


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("multi_label", "maybe", "true or false"),
        ("multi_label", "", "true or false"),
        ("multi_label", 2, "true or false"),
        ("teacher_batch_size", "8.5", "a whole number"),
        ("teacher_batch_size", 8.5, "a whole number"),
        ("teacher_batch_size", True, "a whole number"),
        ("teacher_batch_size", "many", "a whole number"),
        ("teacher_max_length", float("inf"), "a whole number"),
        ("temperature", "hot", "a number"),
        ("temperature", True, "a number"),
        ("temperature", [1.0], "a number"),
        ("output_dir", ["a", "b"], "text"),
        ("teacher_name_or_path", {"name": "x"}, "text"),
        ("data_file", 3, "text"),
        ("data_file", {"a": "b"}, "text"),
        ("data_file", [["c.txt"]], "text"),
        ("data_file", ["c.txt", None], "text"),
        ("teacher_precision", "fp8", "one of auto, fp32, bf16, fp16, int8"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_flag_the_value_and_the_type(name, value, wanted):
    with pytest.raises(ConfigError) as error:
        DistillConfig(**{name: value})
    assert str(error.value) == f"{flag(name)} {value!r} must be {wanted}."


def test_none_is_the_default():
    assert DistillConfig(**dict.fromkeys(NAMES)) == DistillConfig()


def test_a_config_error_is_a_raydistill_error():
    assert issubclass(ConfigError, RaydistillError)


def test_every_option_has_a_sentence_of_help_and_a_group():
    for field in option_fields():
        assert field.metadata["help"].endswith("."), field.name
        assert field.metadata["group"] in ("Essentials", "Teacher", "Student", "Resources", "Behaviour", "Faults")
        assert field.metadata["changes"] in (None, "labels", "student")
        assert field.metadata["stage"] in (None, "label", "train")
        assert (field.metadata["changes"], field.metadata["stage"]) != ("labels", "train")


# Names


def test_other_names_are_kept_for_transformers_as_given():
    config = DistillConfig(learning_rate="3e-5", fp16=True, num_train_epochs=2, multi_label=True)
    assert config.training == {"learning_rate": "3e-5", "fp16": True, "num_train_epochs": 2}


def test_training_fields_may_also_be_given_in_one_table_and_single_ones_win():
    config = DistillConfig(training={"learning_rate": 1e-4, "seed": 1}, seed=2)
    assert config.training == {"learning_rate": 1e-4, "seed": 2}


def test_names_in_that_table_are_read_as_others_are():
    config = DistillConfig(training={"learning-rate": 1e-4, "evaluation_strategy": "steps", 1: 2})
    assert config.training == {"learning_rate": 1e-4, "eval_strategy": "steps", "1": 2}
    assert DistillConfig(training=None).training == {}


@pytest.mark.parametrize(("name", "told"), [("no_cuda", "--use-cpu"), ("temperature", "--temperature")])
def test_an_option_of_ours_in_that_table_is_an_error(name, told):
    with pytest.raises(ConfigError, match=f"{told} is an option of its own: give it outside"):
        DistillConfig(training={name: 1})


@pytest.mark.parametrize("table", ["learning_rate=1", [1], 5])
def test_a_table_that_is_none_is_an_error(table):
    with pytest.raises(ConfigError, match="must hold TrainingArguments fields by name"):
        DistillConfig(training=table)


@pytest.mark.parametrize(("former", "today"), FORMER_NAMES.items())
def test_a_former_name_means_todays_option(former, today):
    assert DistillConfig(**{former: "1"}) == DistillConfig(**{today: "1"})
    assert DistillConfig(**{former: "1"}) != DistillConfig()


@pytest.mark.parametrize(
    ("both", "meant"),
    [
        ({"warmup_ratio": 0.1, "warmup_steps": 0}, {"warmup_steps": 0.1}),
        ({"warmup_ratio": 0.1, "warmup_steps": 50}, {"warmup_steps": 50}),
        (
            {"per_gpu_train_batch_size": None, "per_device_train_batch_size": 16},
            {"per_device_train_batch_size": 16},
        ),
        ({"no_cuda": False, "use_cpu": True}, {"use_cpu": True}),
        ({"no_cuda": True, "use_cpu": "false"}, {"use_cpu": True}),
        ({"group_by_length": False, "train_sampling_strategy": None}, {"train_sampling_strategy": "random"}),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_of_two_names_of_an_option_todays_counts_if_it_says_something(both, meant, order):
    assert DistillConfig(**dict(list(both.items())[::order])) == DistillConfig(**meant)


def test_the_former_names_are_those_of_the_seed_script_and_of_older_transformers():
    assert {"multi_class", "no_cuda", "evaluation_strategy", "warmup_ratio"} <= set(FORMER_NAMES)


@pytest.mark.parametrize("name", sorted(IGNORED_NAMES))
def test_a_name_that_means_nothing_any_more_is_taken_and_left_aside(name):
    assert DistillConfig(**{name: "something"}) == DistillConfig()


def test_a_near_name_is_suggested_as_a_flag():
    assert suggest("teacher_batchsize", NAMES) == " Did you mean --teacher-batch-size?"
    assert suggest("xyzzy", NAMES) == ""


# Faults


def test_a_complete_config_has_no_faults():
    DistillConfig(**REQUIRED).check(["data_file", "class_names_file", "output_dir"])


def test_all_faults_are_told_at_once():
    config = DistillConfig(
        output_dir="out",
        temperature=0,
        hypothesis_template="no braces",
        teacher_batch_size=0,
        teacher_max_length=-1,
        student_max_length=0,
        shuffle_buffer=0,
        entailment_id=-1,
        contradiction_id=-2,
    )
    with pytest.raises(ConfigError) as error:
        config.check(["data_file", "class_names_file", "output_dir"])
    message = str(error.value)
    for wanted in (
        "--data-file is missing",
        "--class-names-file is missing",
        "--temperature 0 must be a number above 0",
        "--hypothesis-template 'no braces' must have {} once",
        "--teacher-batch-size 0 must be 1 or more",
        "--teacher-max-length -1 must be 1 or more",
        "--student-max-length 0 must be 1 or more",
        "--shuffle-buffer 0 must be 1 or more",
        "--entailment-id -1 must be 0 or more",
        "--contradiction-id -2 must be 0 or more",
    ):
        assert wanted in message
    assert "--output-dir" not in message
    assert "\n" not in message


JUST_OUTSIDE = {
    "temperature": [0, -1, "nan", "inf", "-inf"],
    "price_per_hour": [-1, "nan", "inf"],
    "label_file_mb": [0],
    "teacher_batch_size": [0],
    "teacher_max_length": [0],
    "audit_texts": [0],
    "min_agreement": [-0.1, 1.1, "nan"],
    "entailment_id": [-1],
    "contradiction_id": [-1],
    "student_max_length": [0],
    "shuffle_buffer": [0],
    "max_rejected": [-0.1, 1.1, "nan"],
    "max_failures": [-1],
    "block_seconds": [0, 3601, "nan"],
    "stall_timeout": [0, -1, "nan"],
    "grace": [-1, "nan", "inf"],
    "checkpoint_minutes": [0, -1, "nan"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in JUST_OUTSIDE.items() for value in values]
)
def test_a_number_that_makes_no_sense_is_a_fault(name, value):
    with pytest.raises(ConfigError, match=f"^{flag(name)} {value} must be "):
        DistillConfig(**{name: value}).check([])


def test_every_number_has_bounds_but_what_the_plan_looks_at():
    numbers = {f.name for f in option_fields() if str(f.type).startswith(("int", "float"))}
    of_the_plan = {name for name in numbers if name.endswith(("_per_actor", "_per_train_worker"))}
    assert numbers - of_the_plan == set(JUST_OUTSIDE)


def test_files_may_be_given_as_any_collection_of_paths(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").touch()
    assert len(DistillConfig(data_file=tmp_path.glob("*.txt")).data_file) == 2
    assert DistillConfig(data_file={"a.txt"}).data_file == ("a.txt",)


def test_what_yaml_takes_for_something_else_than_text_is_no_fault_of_its_characters():
    DistillConfig(lr_scheduler_kwargs={datetime.date(2024, 1, 1): [None, 1.5, b"x"]}).check([])


@pytest.mark.parametrize(
    "options",
    [
        {"output_dir": "o\udcff"},
        {"data_file": ["c.txt", "\udcff.txt"]},
        {"hypothesis_template": "{} \udcff"},
        {"run_name": "\ud800"},
        {"output_dir": "a\0b"},
        {"training": {"lr_scheduler_kwargs": {"\ud800": 1}}},
    ],
)
def test_a_text_that_is_not_utf8_is_a_fault(options):
    with pytest.raises(ConfigError, match=r"^--[a-z-]+ .*\\(ud|x00).* must be UTF-8 text without NUL\.$"):
        DistillConfig(**options).check([])


@pytest.mark.parametrize("template", ["{}", "This is {}.", "About {0}.", "{{literal}} {}"])
def test_a_template_with_one_place_for_the_class_name_is_right(template):
    DistillConfig(hypothesis_template=template).check([])
    assert "sport" in template.format("sport")


@pytest.mark.parametrize(
    "template", ["", "none", "{} {}", "{1}", "{name}", "{", "}", "{0} {0}", "{0.x}", "{} }", "{a[}", "{:d}"]
)
def test_any_other_template_is_a_fault(template):
    with pytest.raises(ConfigError, match="--hypothesis-template"):
        DistillConfig(hypothesis_template=template).check([])


@example("{:.0}")
@example("{!x}")
@given(st.text(st.sampled_from("{}0:! ax."), max_size=8))
def test_a_template_that_passes_can_be_filled_in_and_shows_the_name(template):
    try:
        DistillConfig(hypothesis_template=template).check([])
    except ConfigError:
        return
    assert "Kunst" in template.format("Kunst")


# Config files


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_yaml_and_json_say_the_same(tmp_path):
    yaml = write(tmp_path / "run.yaml", "data-file: [a.txt, b.txt]\nmulti_label: true\ntemperature: 2\nseed: 7\n")
    json_ = write(
        tmp_path / "run.json", '{"data_file": ["a.txt", "b.txt"], "multi-label": true, "temperature": 2, "seed": 7}'
    )
    assert read_config_file(yaml) == read_config_file(json_)
    config = DistillConfig(**read_config_file(yaml))
    assert config.data_file == ("a.txt", "b.txt")
    assert (config.multi_label, config.temperature, config.training) == (True, 2.0, {"seed": 7})


def test_a_config_file_may_begin_with_a_byte_order_mark(tmp_path):
    assert read_config_file(write(tmp_path / "run.yaml", "\ufeffseed: 7\n")) == {"seed": 7}


def test_a_number_that_yaml_takes_for_text_is_a_number_here(tmp_path):
    options = read_config_file(write(tmp_path / "run.yaml", "temperature: 3e-5\n"))
    assert DistillConfig(**options).temperature == pytest.approx(0.00003)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.yaml", "a: b: c", "is not YAML"),
        ("run.yaml", "a: &x [1]\nb: *x\n", r"is not YAML \(aliases are not read"),
        ("run.yaml", "[" * 5000, "nested too deeply"),
        ("run.yaml", "a: \x01", "is not YAML"),
        ("run.json", "{", "is not JSON"),
        ("run.json", "[" * 100_000, "nested too deeply"),
        ("run.yaml", "- a\n- b\n", "name: value"),
        ("run.yaml", "", "name: value"),
        ("run.json", "[1]", "name: value"),
        ("run\udcff.yaml", "seed: 1\n", "must be named in UTF-8"),
        ("run.yaml", "config: other.yaml\n", "names another file of options"),
    ],
)
def test_a_config_file_that_holds_no_options_is_an_error_of_one_line(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(ConfigError, match=message) as error:
        read_config_file(path)
    assert str(error.value).startswith("--config ")
    assert "\n" not in str(error.value)


def test_a_range_in_yaml_is_a_range_and_not_a_number_to_the_base_of_sixty(tmp_path):
    options = read_config_file(write(tmp_path / "run.yaml", "teacher_actors: 1:2\nseed: 12\nsave_steps: -3\n"))
    assert options == {"teacher_actors": "1:2", "seed": 12, "save_steps": -3}


def test_a_word_that_yaml_takes_for_false_is_told_to_be_put_in_quotes(tmp_path):
    with pytest.raises(ConfigError, match=r"^--text-column False must be text\. .*put it in quotes"):
        DistillConfig(**read_config_file(write(tmp_path / "run.yaml", "text_column: no\n")))


def test_a_config_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file(str(tmp_path / "none.yaml"))


def test_a_config_file_that_is_not_utf_8_is_an_error(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("hypothesis-template: Über {}".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file(str(path))


# What is written down


def test_options_are_json_and_hold_every_option():
    config = DistillConfig(
        **REQUIRED, temperature=2, teacher_actors="1:2", learning_rate=3e-5, fsdp_config={"min_num_params": 3}
    )
    options = config.options()
    assert json.loads(json.dumps(options)) == options
    assert set(options) == {*NAMES, "training"}
    for name in NAMES:
        value = getattr(config, name)
        assert options[name] == (list(value) if isinstance(value, tuple) else value)
    assert options["training"] == {"learning_rate": 3e-5, "fsdp_config": {"min_num_params": 3}}


def test_options_make_the_same_config_again():
    config = DistillConfig(**REQUIRED, multi_label=True, entailment_id=0, learning_rate="3e-5", use_cpu=True)
    assert DistillConfig(**config.options()) == config


def test_a_value_that_json_does_not_know_becomes_text():
    from transformers import IntervalStrategy

    options = DistillConfig(save_strategy=IntervalStrategy.EPOCH, logging_dir=Path("x"), resume=Path("y")).options()
    assert options["training"]["resume"] == "y"
    assert options["training"]["save_strategy"] == "epoch"


LABEL_OPTIONS = {
    "data_file",
    "class_names_file",
    "teacher_name_or_path",
    "teacher_revision",
    "hypothesis_template",
    "text_column",
    "encoding",
    "teacher_max_length",
    "teacher_precision",
    "entailment_id",
    "contradiction_id",
}


def test_labels_are_changed_by_these_options_and_no_others():
    # Not by temperature or multi_label, which come after the stored logits.
    assert set(DistillConfig().that_change("labels")) == LABEL_OPTIONS


def test_the_student_is_changed_by_these_options_and_no_others():
    assert set(DistillConfig().that_change("student")) == {
        "student_name_or_path",
        "student_revision",
        "multi_label",
        "temperature",
        "labels",
        "student_max_length",
        "shuffle_buffer",
        "training",
    }


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_as_text_is_the_number(value):
    assert DistillConfig(temperature=repr(value)).temperature == value
    assert math.isfinite(DistillConfig(temperature=value).temperature)
