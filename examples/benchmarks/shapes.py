"""What benchmarks measure: engines, teachers of well-known shapes (with random weights, for speed alone), and texts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BartConfig, BertConfig, RobertaConfig

from raydistill.engines.engine import Inputs
from raydistill.engines.load import expect_native
from raydistill.engines.offers import check_backend
from raydistill.errors import ConfigError
from raydistill.pairs import budget_batches
from raydistill.specs import TeacherSpec
from raydistill.stages.demo import DemoFiles, demo_documents
from raydistill.teacher import Teacher

LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
NAMES = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
MAX_LENGTH = 512
SHAPES = {
    "bert-tiny": BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, **NAMES
    ),
    "bert-base": BertConfig(**NAMES),
    "bart-base": BartConfig(
        vocab_size=30522,
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
        pad_token_id=0,
        eos_token_id=102,  # the vocabulary's [SEP]
        decoder_start_token_id=102,
        forced_eos_token_id=None,
        **NAMES,
    ),
    "roberta-large": RobertaConfig(
        vocab_size=30522,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=2,
        pad_token_id=0,
        **NAMES,
    ),
}
TOPICS = ["business", "entertainment", "politics", "sports", "tech", "health", "science", "education", "travel"]
TOPICS += ["weather", "crime", "religion", "fashion", "food", "energy", "farming", "housing", "transport", "defence"]
TOPICS += ["music"]
CHOICES = ["demo", *SHAPES]
ENGINES = {
    "cpu": [("torch", "fp32"), ("openvino", "fp32"), ("torch", "bf16"), ("openvino", "bf16"), ("openvino", "int8")],
    "cuda": [("torch", "fp32"), ("torch", "fp16"), ("torch", "bf16"), ("torch-compile", "bf16")],
}


def native_engines(device: str) -> list[tuple[str, str]]:
    """(backend, precision) of the engines for a device that are installed; no format that would only be emulated."""
    native = []
    for backend, precision in ENGINES[device]:
        with contextlib.suppress(ConfigError):
            check_backend(backend, precision, use_gpu=device == "cuda")
            expect_native(TeacherSpec("", (), "{}", backend=backend, precision=precision, use_gpu=device == "cuda"))
            native.append((backend, precision))
    return native


def teacher_of_shape(shape: str, files: DemoFiles) -> Path:
    """A folder with the demo's teacher, or with one of a shape and the demo's vocabulary."""
    if shape == "demo":
        return files.teacher
    folder = files.folder / shape
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(SHAPES[shape]).save_pretrained(folder)
    AutoTokenizer.from_pretrained(files.teacher, model_max_length=MAX_LENGTH).save_pretrained(folder)
    return folder


def profiles_of(files: DemoFiles, documents: int, sentences: int | None = None) -> dict[str, list[str]]:
    """So many whole BBC News documents, and so many first sentences or all that the demo's files have."""
    return {
        "whole documents": demo_documents()[:documents],
        "first sentences": files.corpus.read_text(encoding="utf-8").splitlines()[:sentences],
    }


def of_mixed_length(documents: Sequence[str], seed: int = 0) -> list[str]:
    """The beginnings of documents, of 10 to 1,000 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(text.split()[: int(rng.integers(10, 1000))]) for text in documents]


def batches_of(teacher: Teacher, texts: Sequence[str]) -> list[Inputs]:
    """What a teacher's engine is given for texts."""
    tokenized, classes = teacher.tokenize(texts), len(teacher.encoder.hypotheses)
    lengths = teacher.encoder.lengths(tokenized.lengths).reshape(-1)
    return [
        teacher.encoder.encode(tokenized, pairs // classes, pairs % classes)
        for pairs in budget_batches(lengths, teacher.token_budget, padded=not teacher.engine.packs)
    ]


def distinct_share(batches: Sequence[Inputs]) -> float:
    """Of the tokens of batches, the share that is distinct within its batch."""
    tokens = distinct = 0
    for inputs in batches:
        places = np.broadcast_to(np.arange(inputs["input_ids"].shape[1]), inputs["input_ids"].shape)
        parts = [array.ravel() for array in (*inputs.values(), places)]
        tokens += len(parts[0])
        distinct += np.unique(np.stack(parts), axis=1).shape[1]
    return distinct / tokens
