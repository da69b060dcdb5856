"""What makes a model a teacher: an NLI classifier whose labels can be told apart, and what its own labels depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydistill.errors import ModelError, shown
from raydistill.pairs import PairEncoder
from raydistill.pretrained import (
    ensure_pad_token,
    expect_own_tokenizer,
    expect_own_weights,
    fingerprint,
    load_config,
    load_tokenizer,
    longest_input,
    skeleton,
)
from raydistill.specs import TeacherSpec


def describe_teacher(spec: TeacherSpec) -> dict[str, Any]:
    """What makes labels what they are, for `_labels.json`: two runs that agree on it may share a store.

    Loads config and tokenizer, not the weights, and so finds nearly every fault of a teacher before work begins. The
    teacher must be pinned.
    Raises ModelError.
    """
    config = teacher_config(spec)
    entailment_id, contradiction_id = nli_label_ids(config.label2id, config.num_labels, spec)
    tokenizer, bare = load_tokenizer(spec), skeleton(config, spec)
    expect_own_tokenizer(tokenizer, config)
    expect_own_weights(spec)
    max_length = make_encoder(tokenizer, bare, spec).max_length
    return {
        "teacher": spec.name_or_path,
        "teacher_revision": spec.revision,
        "trust_remote_code": spec.trust_remote_code,
        "teacher_parameters": bare.num_parameters(exclude_embeddings=True),
        "teacher_fingerprint": fingerprint(spec),
        "hypothesis_template": spec.hypothesis_template,
        "class_names": list(spec.class_names),
        "max_length": max_length,
        "precision": spec.precision,
        "entailment_id": entailment_id,
        "contradiction_id": contradiction_id,
    }


def make_encoder(tokenizer: Any, model: Any, spec: TeacherSpec) -> PairEncoder:
    """What turns texts into the teacher's inputs; the tokenizer gets a padding token where it has none.

    Args:
        model: the teacher, or its `skeleton`.

    Raises:
        ModelError: there is no room for a text beside some hypothesis, or there can be no padding token.
    """
    ensure_pad_token(tokenizer)
    hypotheses = make_hypotheses(spec.hypothesis_template, spec.class_names)
    try:
        return PairEncoder(tokenizer, hypotheses, longest_input(tokenizer, model, spec.max_length))
    except ModelError as error:
        more = f" Or raise --teacher-max-length {spec.max_length}." if spec.max_length else ""
        raise ModelError(f"{error}{more}") from None


def make_hypotheses(template: str, class_names: Sequence[str]) -> list[str]:
    """One hypothesis for each class name."""
    return [template.format(name) for name in class_names]


def teacher_config(model: TeacherSpec) -> Any:
    """The config of a sequence classifier. Raises ModelError where it is none or cannot be found."""
    config = load_config(model, "--teacher-name-or-path")
    architectures = config.architectures or []
    if isinstance(architectures, str):
        architectures = [architectures]
    architectures = [str(name) for name in architectures]
    if architectures and not any("ForSequenceClassification" in name for name in architectures):
        raise ModelError(
            f"--teacher-name-or-path {model.name_or_path}: is a {architectures[0]}, not a sequence classifier. "
            "Give a model trained for NLI, such as roberta-large-mnli."
        )
    config.label2id = _label_numbers(config, model)
    return config


def _label_numbers(config: Any, spec: TeacherSpec) -> dict[str, int]:
    """The labels of a classifier by name, as its config says once or twice. Raises ModelError where it says nothing."""
    where = f"--teacher-name-or-path {spec.name_or_path}: its config.json"
    try:
        said = {str(name): int(index) for index, name in (config.id2label or {}).items()}
        numbers = {str(name): int(index) for name, index in (config.label2id or said).items()}
    except (AttributeError, TypeError, ValueError):
        raise ModelError(f"{where} does not give each label a number, as label2id should.") from None
    if any(not 0 <= index < config.num_labels for index in numbers.values()):
        raise ModelError(f"{where} numbers labels other than from 0 to {config.num_labels - 1} (label2id).")
    for name, index in numbers.items():
        if said.get(name, index) != index and None in (spec.entailment_id, spec.contradiction_id):
            raise ModelError(
                f"{where} gives the label {shown(name)} two numbers, by id2label and by label2id. Say which are right "
                "with --entailment-id and --contradiction-id."
            )
    return numbers


def nli_label_ids(label2id: Mapping[str, int], num_labels: int, spec: TeacherSpec) -> tuple[int, int]:
    """(entailment, contradiction) indices: as asked, else by the labels' names, in any case and order.

    With two labels the other one (`not_entailment`) stands for contradiction. Raises ModelError where none can be told.
    """
    names = {label.lower(): index for label, index in label2id.items()}
    entailment, contradiction = spec.entailment_id, spec.contradiction_id
    if entailment is None:
        entailment = next((i for name, i in names.items() if name.startswith("entail")), None)
    if contradiction is None:
        contradiction = next((i for name, i in names.items() if name.startswith("contra")), None)
    if contradiction is None and entailment is not None and num_labels == 2:
        contradiction = 1 - entailment
    if (
        entailment is None
        or contradiction is None
        or entailment == contradiction
        or max(entailment, contradiction) >= num_labels
    ):
        labels = ", ".join(f"{index}: {name}" for name, index in sorted(label2id.items(), key=lambda item: item[1]))
        raise ModelError(
            f"--teacher-name-or-path {spec.name_or_path}: which of its {num_labels} labels ({labels}) mean entailment "
            "and contradiction? Say so with --entailment-id and --contradiction-id, or give an NLI model."
        )
    return entailment, contradiction
