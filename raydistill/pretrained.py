"""Models and tokenizers by name: a hub name or a folder, with one clear line where it is neither."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from raydistill.errors import ModelError, first_line

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
LFS_POINTER = b"version https://git-lfs"
MODEL_FILES = frozenset({".json", ".txt", ".model", ".safetensors", ".bin"})


def load_config(name_or_path: str, option: str) -> Any:
    """A model's config. Raises ModelError, naming the option that gave it."""
    _expect_model(name_or_path, option)
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{option} {name_or_path}: {_why_not_loaded(name_or_path, error)}") from None
    _expect_weights(name_or_path, option)
    return config


def load_tokenizer(name_or_path: str, use_fast: bool) -> Any:
    """A model's tokenizer. Raises ModelError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, use_fast=use_fast)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name_or_path}: has no tokenizer that can be loaded ({first_line(error)}).") from None
    folder = Path(name_or_path).expanduser()
    wanted = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if folder.is_dir() and not any((folder / name).is_file() for name in wanted):
        # transformers makes one up that knows no word.
        raise ModelError(f"{name_or_path}: has no tokenizer ({' or '.join(sorted(wanted))}). Save it beside the model.")
    return tokenizer


def skeleton(config: Any) -> Any:
    """The sequence classifier of a config, without weights: for what only the module can tell."""
    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        raise ModelError(f"{config.name_or_path}: a {config.model_type} model does not classify texts.") from None


def longest_input(tokenizer: Any, model: Any, asked: int | None = None) -> int:
    """The most tokens that tokenizer and model both take, or fewer where asked for; 512 where neither says."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < 1 << 20 else []
    positions = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    if positions and positions > 0:
        # RoBERTa and its kin number positions from padding_idx + 1 on, so the last ones of the table are out of reach.
        table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        limits.append(positions - (padding + 1 if padding is not None else 0))
    return int(min([*(limits or [512]), *([asked] if asked else [])]))


def ensure_pad_token(tokenizer: Any) -> int:
    """The id of the padding token, which the model's config must name too.

    A tokenizer without one gets its end token for it. Raises ModelError where it has none either.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer has no padding token and no end token to stand in for one. "
            "Set tokenizer.pad_token and save it."
        )
    return int(tokenizer.pad_token_id)


def fingerprint(name_or_path: str, config: Any) -> str | None:
    """What a model is, beyond its name: the hub's commit, or a hash of a folder's config, weights and tokenizer.

    None where the hub's commit is not known.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        commit = getattr(config, "_commit_hash", None)
        return f"commit:{commit}" if commit else None
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return f"blake2b:{digest.hexdigest()}"


def _expect_model(name_or_path: str, option: str) -> None:
    path = Path(name_or_path).expanduser()
    looks_local = path.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") > 1
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{option} {name_or_path}: the folder has no config.json, so it is no model.")
    if looks_local and not path.is_dir():
        raise ModelError(f"{option} {name_or_path}: no such folder.")


def _expect_weights(name_or_path: str, option: str) -> None:
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        weights = [file for pattern in WEIGHTS for file in path.glob(pattern)]
        if not weights:
            raise ModelError(f"{option} {name_or_path}: the folder has no weights (model.safetensors).")
        for file in weights:
            with file.open("rb") as stream:
                if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise ModelError(f"{option} {file}: is a pointer to the weights, not the weights: git lfs pull.")


def _why_not_loaded(name_or_path: str, error: Exception) -> str:
    if Path(name_or_path).is_dir():
        return f"its config.json cannot be read ({first_line(error)})."
    return (
        "is no folder here, and the model hub does not have it or cannot be reached. "
        "Check the name, or give a folder with the model."
    )
