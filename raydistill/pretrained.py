"""Models and tokenizers by name: a hub name or a folder, with one clear line where it is neither.

The one place where they are loaded, and so where it is seen to that nothing in them is run unless that is asked for:
weights come from safetensors, or by leave from a pickled file of which only tensors are taken, and code that a model
brings along is run by leave alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import traceback
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
    has_file,
)
from transformers.utils.hub import extract_commit_hash

from raydistill.errors import ModelError, first_line
from raydistill.model_files import expect_whole
from raydistill.specs import ModelSpec

# Where a repository has pickled weights alone, transformers would ask the hub to convert them, in a thread.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

SAFETENSORS, PICKLED = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
MODEL_FILES = frozenset({".json", ".txt", ".model", ".safetensors", ".bin"})

M = TypeVar("M", bound=ModelSpec)


def pinned(model: M, option: str) -> M:
    """The model as it is now: a hub name at the commit that its revision stands for; a folder as it is.

    Raises ModelError, naming the option that gave it, where it cannot be had, and where it has no weights that may be
    loaded.
    """
    _expect_model(model, option)
    if _is_folder(model):
        if model.revision:
            raise ModelError(f"{option} {model.name_or_path}: is a folder, which has no revision {model.revision}.")
        _expect_weights(model, option)
        return model
    try:
        found = cached_file(model.name_or_path, "config.json", revision=model.revision)
        model = dataclasses.replace(model, revision=extract_commit_hash(found, None))
        _expect_weights(model, option)
    except (OSError, ValueError) as error:
        raise ModelError(f"{option} {model.name_or_path}: {_why_no_config(model, error)}") from None
    return model


def load_config(model: ModelSpec, option: str) -> Any:
    """A model's config. Raises ModelError, naming the option that gave it."""
    _expect_model(model, option)
    try:
        return AutoConfig.from_pretrained(_where(model), **_how(model))
    except Exception as error:  # transformers raises whatever its code makes of a damaged file
        reason = _why_not(error, _why_no_config(model, error))
        raise ModelError(f"{option} {model.name_or_path}: {reason}") from None


def load_tokenizer(model: ModelSpec) -> Any:
    """A model's tokenizer. Raises ModelError."""
    name, folder = model.name_or_path, _folder(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(_where(model), use_fast=model.use_fast_tokenizer, **_how(model))
    except Exception as error:  # as for a config
        reason = _why_not(error, f"has no tokenizer that can be loaded ({first_line(error)}).")
        raise ModelError(f"{name}: {reason}") from None
    wanted = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if folder.is_dir() and tokenizer.vocab_files_names and not any((folder / file).is_file() for file in wanted):
        # transformers makes one up that knows no word.
        raise ModelError(f"{name}: has no tokenizer ({' or '.join(sorted(wanted))}). Save it beside the model.")
    return tokenizer


def expect_own_tokenizer(tokenizer: Any, config: Any) -> None:
    """Raise ModelError where a tokenizer knows tokens that the model of a config has no embedding for."""
    most = getattr(config, "vocab_size", None)
    # One without a file of its words (CANINE's) counts characters, of which the model takes hashes.
    highest = max(tokenizer.get_vocab().values(), default=0) if tokenizer.vocab_files_names else 0
    if most is not None and highest >= most:
        raise ModelError(
            f"{config.name_or_path}: its tokenizer has tokens up to number {highest:,}, and its model knows {most:,}. "
            "They are not of one model: save the model's own tokenizer beside it."
        )


def expect_own_weights(model: ModelSpec, *, new_head: bool = False, **loading: Any) -> None:
    """Raise ModelError as `load_classifier` would, but read names and sizes alone.

    For a model in a folder: of the hub's, the weights may not have been fetched yet.
    """
    if _is_folder(model):
        load_classifier(model, new_head=new_head, device_map="meta", **loading)


def load_classifier(model: ModelSpec, *, new_head: bool = False, **loading: Any) -> Any:
    """A sequence classifier with its weights. Raises ModelError where they cannot be loaded, or are of another model.

    Args:
        new_head: what is missing or of another size at its end is made anew.
        loading: what else transformers' `from_pretrained` is told.
    """
    try:
        loaded, found = AutoModelForSequenceClassification.from_pretrained(
            _where(model),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=None if model.allow_pickle_weights else True,  # None: where there are any
            weights_only=True,
            **_how(model),
            **loading,
        )
        made_up = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
        if len(made_up) <= (len(loaded.state_dict()) // 2 if new_head else 0):
            return loaded
        reason = (
            f"its weights are not those of the {type(loaded).__name__} that its config.json describes: {len(made_up)} "
            f"are missing or of another size ({made_up[0]}, …)."
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = _why_not(error, f"its weights cannot be loaded ({first_line(error)}).")
    except Exception as error:
        if not _is_of_a_pickle(error, model):
            raise
        reason = "its pickled weights hold more than tensors, or are damaged. Give a model with safetensors."
    raise ModelError(f"{model.name_or_path}: {reason}")


def _is_of_a_pickle(error: Exception, model: ModelSpec) -> bool:
    """Whether it comes of weights that are no pickle, or one that was cut short, or one of something else."""
    frames = traceback.extract_tb(error.__traceback__)
    being_read = any(Path(frame.filename).match("torch/serialization.py") for frame in frames)  # it raises anything
    # Transformers takes what it holds, a list maybe, for weights by name.
    being_put_in = any(frame.name == "_load_pretrained_model" for frame in frames)
    of_content = being_put_in and isinstance(error, (TypeError, AttributeError, KeyError, NotImplementedError))
    with contextlib.suppress(Exception):  # the hub may be away by now
        return model.allow_pickle_weights and (being_read or of_content) and _weights_file(model) in PICKLED
    return False


def skeleton(config: Any, model: ModelSpec) -> Any:
    """The sequence classifier of a config, without weights: for what only the module can tell. Raises ModelError."""
    own_class = (getattr(config, "auto_map", None) or {}).get(AutoModelForSequenceClassification.__name__)
    try:
        with torch.device("meta"):
            if own_class and model.trust_remote_code:  # from_config would take it from the main branch
                return get_class_from_dynamic_module(own_class, _where(model), revision=model.revision)(config)
            return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a model makes of numbers that do not go together
        reason = f"no model can be made of its config.json ({first_line(error)})."
        if isinstance(error, OSError):
            reason = f"its code cannot be loaded ({first_line(error)})."
        elif "Unrecognized configuration class" in str(error):
            reason = f"a {config.model_type} model does not classify texts."
        reason = _why_not(error, reason)
        raise ModelError(f"{model.name_or_path}: {reason}") from None


def count_parameters(model: ModelSpec, option: str) -> int:
    """All parameters of the sequence classifier, embeddings included. Raises ModelError."""
    return int(skeleton(load_config(model, option), model).num_parameters())


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


def fingerprint(model: ModelSpec) -> str:
    """What a pinned model is, beyond its name: the hub's commit, or a hash of a folder's config, weights and tokenizer.

    A model whose code is run is another one than the same without.
    """
    with_code = "+code" if model.trust_remote_code else ""
    if not _is_folder(model):
        return f"commit:{model.revision}{with_code}"
    files = {path for path in _folder(model).iterdir() if path.suffix in MODEL_FILES}
    if with_code:
        files |= set(_folder(model).rglob("*.py"))
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(files):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return f"blake2b:{digest.hexdigest()}{with_code}"


def _folder(model: ModelSpec) -> Path:
    return Path(os.path.expanduser(model.name_or_path))


def _is_folder(model: ModelSpec) -> bool:
    return _folder(model).is_dir()


def _where(model: ModelSpec) -> str:
    return str(_folder(model)) if _is_folder(model) else model.name_or_path


def _how(model: ModelSpec) -> dict[str, Any]:
    """What every `from_pretrained` is told; of code one way or the other, since else it would ask at the terminal."""
    revision = {"revision": model.revision} if model.revision else {}
    return {"trust_remote_code": model.trust_remote_code, **revision}


def _expect_model(model: ModelSpec, option: str) -> None:
    name, path = model.name_or_path, _folder(model)
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{option} {name}: the folder has no config.json, so it is no model.")
    if looks_local and not path.is_dir():
        raise ModelError(f"{option} {name}: no such folder.")


def _expect_weights(model: ModelSpec, option: str) -> None:
    """Raise ModelError where there are no weights, or none that may be loaded, or only pointers to them."""
    name, found = model.name_or_path, _weights_file(model)
    if found in PICKLED and not model.allow_pickle_weights:
        raise ModelError(
            f"{option} {name}: its weights are pickled ({found}), and a pickle may run code of whoever made it. Give a "
            "model with safetensors, or have tensors alone taken from it with --allow-pickle-weights."
        )
    if not found:
        where = (
            "" if _is_folder(model) or not constants.HF_HUB_OFFLINE else " on this machine, and HF_HUB_OFFLINE is set"
        )
        raise ModelError(f"{option} {name}: has no weights ({SAFE_WEIGHTS_NAME}){where}.")
    files = [found]
    if found in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        index = cached_file(_where(model), found, revision=model.revision)
        assert index is not None
        try:
            files = sorted(set(map(str, json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ModelError(f"{option} {name}: its {found} is damaged.") from None
        pickled = [file for file in files if not file.endswith(".safetensors")]
        if pickled and found == SAFE_WEIGHTS_INDEX_NAME:
            raise ModelError(f"{option} {name}: its {found} names {pickled[0]}, which is no safetensors file.")
    if _is_folder(model):
        expect_whole([_folder(model) / file for file in files], option)


def _weights_file(model: ModelSpec) -> str | None:
    """The file that its weights lie in, or are listed in, safetensors first; None where there is none."""

    def there(file: str) -> bool:
        return has_file(_where(model), file, model.revision, local_files_only=constants.HF_HUB_OFFLINE)

    return next(filter(there, SAFETENSORS + PICKLED), None)


def _why_not(error: Exception, otherwise: str) -> str:
    """What transformers' error comes down to: a model's own code would have to run, a package is missing, or else."""
    if "trust_remote_code" in str(error):
        return "brings Python code of its own, which is run only with --trust-remote-code. Read it first."
    if isinstance(error, ImportError):
        return f"needs what is not installed here ({first_line(error)})."
    return otherwise


def _why_no_config(model: ModelSpec, error: Exception) -> str:
    if _is_folder(model):
        return f"its config.json cannot be read ({first_line(error)})."
    at = f" at revision {model.revision}" if model.revision else ""
    return (
        f"is no folder here, and the model hub does not have it{at} or cannot be reached. "
        "Check the name, or give a folder with the model."
    )
