"""`TrainingArguments` by their own names: typed by transformers, complained of in our words."""

from __future__ import annotations

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import IntervalStrategy, SchedulerType, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SaveStrategy

from raydistill.config import DistillConfig
from raydistill.config_file import read_config_file
from raydistill.errors import ConfigError
from raydistill.training_arguments import (
    DEFAULTS,
    count_updates,
    evaluates_midway,
    field_names,
    share_update,
    training_arguments,
)
from raydistill.training_checks import checked_arguments, expect_metric, gpu_only


def arguments(given=None, **more):
    return training_arguments({**(given or {}), **more}, output_dir="somewhere", use_cpu=True)


def test_nothing_given_is_the_seed_scripts_defaults():
    found = arguments()
    assert found.per_device_train_batch_size == 32
    assert found.per_device_eval_batch_size == 128
    assert found.num_train_epochs == 1.0
    assert found.do_train is True
    assert found.do_eval is True
    assert found.report_to == []
    assert found.output_dir == "somewhere"
    assert found.use_cpu is True


def test_batches_are_drawn_at_random_unless_they_are_to_be_of_like_length():
    assert arguments().train_sampling_strategy == "random"
    assert arguments(train_sampling_strategy="group_by_length").train_sampling_strategy == "group_by_length"


def test_other_defaults_are_transformers_own():
    plain = TrainingArguments(output_dir="somewhere", use_cpu=True)
    found = arguments()
    ours = {*DEFAULTS, "logging_dir", "run_name"}
    for field in dataclasses.fields(TrainingArguments):
        if field.init and field.name not in ours:
            assert getattr(found, field.name) == getattr(plain, field.name), field.name


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("learning_rate", "3e-5", 3e-5),
        ("learning_rate", 3e-5, 3e-5),
        ("eval_delay", -1.0, -1.0),
        ("eval_delay", "-1e-3", -1e-3),
        ("num_train_epochs", "2", 2.0),
        ("per_device_train_batch_size", "8", 8),
        ("per_device_train_batch_size", 8, 8),
        ("seed", "7", 7),
        ("gradient_checkpointing", "true", True),
        ("gradient_checkpointing", True, True),
        ("do_eval", "false", False),
        ("do_eval", False, False),
        ("lr_scheduler_type", "cosine", SchedulerType.COSINE),
        ("lr_scheduler_type", SchedulerType.COSINE, SchedulerType.COSINE),
        ("eval_strategy", "steps", IntervalStrategy.STEPS),
        ("save_strategy", IntervalStrategy.EPOCH, SaveStrategy.EPOCH),
        ("optim", "sgd", "sgd"),
        ("lr_scheduler_kwargs", {"num_cycles": 2}, {"num_cycles": 2}),
        ("lr_scheduler_kwargs", '{"num_cycles": 2}', {"num_cycles": 2}),
        ("label_names", ["a", "b"], ["a", "b"]),
        ("optim_target_modules", ["query", "value"], ["query", "value"]),
        ("report_to", ["tensorboard"], ["tensorboard"]),
        ("report_to", [], []),
        ("learning_rate", [0.001], 0.001),
        ("warmup_steps", "0.1", 0.1),
        ("warmup_steps", 10, 10.0),
        ("max_steps", "-1", -1),
    ],
)
def test_a_field_is_typed_by_transformers_from_text_or_value(name, given, wanted):
    found = getattr(arguments({name: given}), name)
    assert found == wanted
    assert isinstance(found, type(wanted))


@pytest.mark.parametrize("given", ["0", 0, -1, None])
def test_no_number_of_updates_is_no_limit(given):
    assert arguments({"max_steps": given}).max_steps == -1


@pytest.mark.parametrize(
    ("metric", "given", "greater"),
    [
        ("eval_loss", None, False),
        ("mean_absolute_difference", None, False),
        ("eval_mean_absolute_difference", "true", True),
        ("agreement", None, True),
        ("f1/job loss", None, True),
    ],
)
def test_the_best_is_the_greatest_but_of_what_measures_a_difference(metric, given, greater):
    found = arguments({"metric_for_best_model": metric, "greater_is_better": given})
    assert found.greater_is_better is greater


@pytest.mark.parametrize(
    ("name", "value"), [("run_name", False), ("learning_rate", True), ("eval_strategy", False), ("report_to", True)]
)
def test_what_is_no_switch_needs_a_value(name, value):
    with pytest.raises(ConfigError, match=rf"--{name.replace('_', '-')} is no switch: give it a value"):
        arguments({name: value})


def test_a_number_that_yaml_takes_for_text_is_a_number(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning-rate: 3e-5\nweight_decay: 1e-2\n", encoding="utf-8")
    found = arguments(DistillConfig(**read_config_file(str(path))).training)
    assert (found.learning_rate, found.weight_decay) == (3e-5, 1e-2)


@pytest.mark.parametrize("name", ["max_grad_norm", *DEFAULTS])
def test_none_leaves_the_default(name):
    assert getattr(arguments({name: None}), name) == getattr(arguments(), name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("learning_rat", "--learning-rate"),
        ("num_epochs", "--num-train-epochs"),
        ("teacher_batchsize", "--teacher-batch-size"),
        ("per_device_batch_size", "--per-device-"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_known_one(name, near):
    with pytest.raises(ConfigError, match=f"No such option: --{name.replace('_', '-')}") as error:
        arguments({name: "1"})
    assert f"Did you mean {near}" in str(error.value)


def test_an_unknown_name_like_no_other_is_an_error_without_a_suggestion():
    with pytest.raises(ConfigError) as error:
        arguments(xyzzy="1")
    assert str(error.value) == "No such option: --xyzzy."


def test_the_beginning_of_a_name_is_not_taken_for_it():
    with pytest.raises(ConfigError, match="No such option: --learning"):
        arguments(learning="1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "fast"),
        ("per_device_train_batch_size", "8.5"),
        ("gradient_checkpointing", "maybe"),
        ("lr_scheduler_type", "zigzag"),
        ("eval_strategy", "sometimes"),
        ("optim", "none_such"),
        ("warmup_steps", "-3"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_of_one_line(name, value):
    with pytest.raises(ConfigError) as error:
        arguments({name: value})
    assert "\n" not in str(error.value)
    assert name in str(error.value).replace("-", "_") or value in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "-1"),
        ("learning_rate", "nan"),
        ("weight_decay", "-0.1"),
        ("max_grad_norm", "nan"),
        ("adam_beta1", "1.5"),
        ("adam_beta2", "-1"),
        ("adam_epsilon", "-1"),
        ("num_train_epochs", "inf"),
        ("label_smoothing_factor", "2"),
        ("gradient_accumulation_steps", "0"),
        ("max_steps", "1000000000000"),
        ("ddp_timeout", "1" + "0" * 400),
        ("num_train_epochs", "1e308"),
        ("include_num_input_tokens_seen", "some"),
        ("save_steps", "nan"),
        ("eval_steps", "nan"),
        ("neftune_noise_alpha", "inf"),
        ("per_device_train_batch_size", "10000000000"),
        ("learning_rate", [1, 2]),
        ("optim_args", {"a": 1}),
        ("lr_scheduler_kwargs", [1, 2]),
    ],
)
def test_a_number_that_the_optimizer_would_choke_on_is_an_error_before_work_begins(name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} .* must be "):
        arguments({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accelerator_config", 5),
        ("accelerator_config", "{bad"),
        ("lr_scheduler_kwargs", "{bad"),
        ("lr_scheduler_kwargs", [1]),
        ("optim_args", "a"),
        ("gradient_checkpointing_kwargs", {"a": 1}),
        ("gradient_checkpointing_kwargs", {"a": 1, "use_reentrant": True}),
        ("gradient_checkpointing_kwargs", {"every_n_layers": 0}),
        ("save_steps", float("inf")),
    ],
)
@pytest.mark.parametrize("more", [{}, {"learning_rate": 1e-4, "save_total_limit": 3}])
def test_what_a_library_refuses_is_told_with_the_options_name(name, value, more):
    with pytest.raises(ConfigError) as error:
        checked_arguments({**more, name: value})
    said = str(error.value)
    assert said.startswith(f"--{name.replace('_', '-')} {value!r}: ")
    assert said.endswith(".")
    assert "\n" not in said


@pytest.mark.parametrize(
    "given_",
    [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"torch_compile_backend": "inductor", "torch_compile_mode": "max-autotune"},
        {"torch_compile_backend": "eager", "torch_compile_mode": "any"},
        {"seed": 4294967295, "save_steps": -1, "logging_steps": 0.5},
        {"max_grad_norm": 1e10, "save_steps": 10**10, "ddp_timeout": 10**9, "ddp_bucket_cap_mb": 0},
    ],
)
def test_what_a_worker_can_do_is_not_refused(given_):
    found = checked_arguments(given_)
    assert {name: getattr(found, name) for name in given_} == given_


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("include_num_input_tokens_seen", "non_padding", "non_padding"),
        ("include_num_input_tokens_seen", "true", "all"),
        ("liger_kernel_config", {"rope": True}, {"rope": True}),
        ("liger_kernel_config", '{"rope": false}', {"rope": False}),
        ("trackio_static_space_id", False, False),
        ("debug", "", []),
        ("fsdp", [], None),
        ("deepspeed", {}, None),
        ("push_to_hub", "no", False),
        ("seed", 42.0, 42),
        ("max_steps", 1e3, 1000),
        ("torch_compile_backend", "no", "no"),
    ],
)
def test_what_transformers_take_is_taken_however_it_is_written(name, value, wanted):
    found = getattr(checked_arguments({name: value}), name)
    assert (found, type(found)) == (wanted, type(wanted))


def test_an_object_of_a_library_is_taken_as_it_is():
    assert checked_arguments(
        {"accelerator_config": AcceleratorConfig(split_batches=True)}
    ).accelerator_config.split_batches


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (
            {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 0}},
            r"inverse_sqrt cannot be the schedule with --lr-scheduler-kwargs {'timescale': 0} \(division by zero\)\.$",
        ),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "without --lr-scheduler-kwargs at least"),
        ({"ddp_backend": "foo"}, "--ddp-backend 'foo' must be one of .*gloo"),
        ({"use_liger_kernel": True}, "^--use-liger-kernel True: .*pip install liger-kernel"),
        ({"tf32": "maybe"}, "--tf32 'maybe' must be true or false"),
        ({"debug": "underflow_overflow"}, "--debug does not go with raydistill"),
        ({"save_only_model": True}, "--save-only-model does not go with raydistill: .* the optimizer's state"),
    ],
)
def test_what_no_worker_could_do_is_an_error_before_work_begins(given_, said):
    with pytest.raises(ConfigError, match=said):
        checked_arguments(given_)


def test_what_a_cpu_does_not_do_is_named():
    given_ = {"fp16": True, "tf32": "true"}
    assert gpu_only(given_, checked_arguments(given_)) == ("--fp16", "--tf32")
    given_ = {"tf32": False}
    assert gpu_only(given_, checked_arguments(given_)) == ()


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"torch_compile_backend": "7"}, "--torch-compile-backend '7' must be one of .*inductor"),
        (
            {"torch_compile_mode": "fast", "torch_compile_backend": "INDUCTOR"},
            "--torch-compile-mode 'fast' must be one of .*max-autotune",
        ),
    ],
)
def test_a_compiler_that_there_is_not_is_an_error(given_, said):
    with pytest.raises(ConfigError, match=said):
        checked_arguments(given_)


def test_no_option_is_blamed_for_what_all_are_refused_for(monkeypatch):
    def refuse(self):
        raise ImportError("accelerate is too old")

    monkeypatch.setattr(TrainingArguments, "__post_init__", refuse)
    for given_ in ({}, {"seed": 1}, {"seed": 1, "learning_rate": 1e-4}):
        with pytest.raises(ConfigError, match=r"^TrainingArguments: accelerate is too old\.$"):
            checked_arguments(given_)


def test_one_option_is_not_blamed_for_what_another_one_is_refused_for():
    with pytest.raises(ConfigError, match=r"^--optim-args 'a': "):
        checked_arguments({"load_best_model_at_end": True, "eval_strategy": "steps", "optim_args": "a"})


def test_values_that_do_not_go_together_are_an_error_of_one_line():
    with pytest.raises(ConfigError, match="TrainingArguments: ") as error:
        arguments(load_best_model_at_end="true", save_strategy="epoch", eval_strategy="no")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["output_dir", "use_cpu", "local_rank", "remove_unused_columns"])
def test_what_raydistill_sets_itself_is_no_field(name):
    assert name not in field_names()


FORMER = {
    "no_cuda": "true",
    "evaluation_strategy": "epoch",
    "overwrite_output_dir": "true",
    "logging_dir": "logs",
    "tpu_num_cores": "8",
    "warmup_ratio": "0.1",
    "per_gpu_train_batch_size": "4",
    "per_gpu_eval_batch_size": "4",
}


def test_fields_that_transformers_dropped_are_taken_all_the_same():
    config = DistillConfig(**FORMER)
    found = arguments(config.training)
    assert config.use_cpu is True
    assert config.overwrite_output_dir is True
    assert found.eval_strategy == "epoch"
    assert found.per_device_train_batch_size == found.per_device_eval_batch_size == 4


@pytest.mark.parametrize(("value", "way"), [("true", "group_by_length"), (False, "random")])
def test_group_by_length_is_a_sampling_strategy_now(value, way):
    assert arguments(DistillConfig(group_by_length=value).training).train_sampling_strategy == way


def test_group_by_length_is_true_or_false():
    with pytest.raises(ConfigError, match=r"^--group-by-length 'perhaps' must be true or false\.$"):
        DistillConfig(group_by_length="perhaps")


def test_a_warmup_ratio_is_that_share_of_all_steps():
    found = arguments(DistillConfig(warmup_ratio="0.1").training)
    assert [found.get_warmup_steps(steps) for steps in (10, 1000)] == [1, 100]


def test_a_file_in_the_working_directory_changes_nothing(tmp_path, monkeypatch):
    # HfArgumentParser would read <script>.args beside the script.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "raydistill")])
    (tmp_path / "raydistill.args").write_text("--learning_rate 1")
    assert os.path.exists("raydistill.args")
    assert arguments().learning_rate == TrainingArguments(output_dir="x").learning_rate


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 16), st.integers(1, 16))
def test_an_update_stays_as_large_with_other_workers_and_its_batches_no_larger(batch, steps, planned, workers):
    whole = batch * steps * planned
    shared, shared_steps = share_update(batch, steps, planned, workers)
    assert 1 <= shared <= batch
    assert whole <= workers * shared * shared_steps < whole + workers * shared_steps
    if planned % workers == 0:
        assert workers * shared * shared_steps == whole
    if planned == workers:
        assert (shared, shared_steps) == (batch, steps)


@pytest.mark.parametrize(
    ("texts", "workers", "given_", "updates"),
    [
        (100, 1, {"per_device_train_batch_size": 8}, 13),
        (100, 1, {"per_device_train_batch_size": 8, "dataloader_drop_last": True}, 12),
        (100, 2, {"per_device_train_batch_size": 8, "num_train_epochs": 3}, 21),
        (100, 1, {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "num_train_epochs": 1.5}, 6),
        (100, 1, {"max_steps": 7}, 7),
    ],
)
def test_updates_are_counted_as_trainer_does(texts, workers, given_, updates):
    assert count_updates(arguments(given_), texts, workers) == updates


@pytest.mark.parametrize(
    ("given_", "midway"),
    [
        ({}, False),
        ({"do_eval": False}, False),
        ({"eval_strategy": "epoch"}, True),
        ({"eval_strategy": "steps", "eval_steps": 5}, True),
        ({"eval_on_start": "true"}, True),
    ],
)
def test_an_evaluation_before_the_end_is_foreseen(given_, midway):
    assert evaluates_midway(arguments(given_)) is midway


def test_a_schedule_is_tried_with_the_learning_rate_that_is_given():
    polynomial = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 5e-4}}
    assert checked_arguments({**polynomial, "learning_rate": 1e-2})
    with pytest.raises(ConfigError, match="lr_end"):
        checked_arguments({**polynomial, "learning_rate": 1e-5})


def test_what_an_optimizer_looks_up_in_the_student_is_left_to_that():
    assert checked_arguments({"optim": "galore_adamw", "optim_target_modules": ["query"]})


@pytest.mark.parametrize("more", [{}, {"save_strategy": "no"}])
def test_a_figure_that_there_is_not_is_an_error_where_the_student_is_evaluated_midway(more):
    options = {"metric_for_best_model": "agrement", **more}
    expect_metric(checked_arguments(options), ("a", "b"), multi_label=False)
    midway = checked_arguments({**options, "eval_strategy": "steps", "eval_steps": 5})
    with pytest.raises(ConfigError, match="--metric-for-best-model agrement: there is no such figure, but agreement"):
        expect_metric(midway, ("a", "b"), multi_label=False)
