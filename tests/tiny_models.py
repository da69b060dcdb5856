"""Tiny models and tokenizers of real families, made on the fly: no hub, no mocks, the same at every call."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

FAMILIES = ("bert", "distilbert", "roberta", "bart", "deberta-v2", "xlm-roberta")
UNCONVERTED = "xlm"  # a family that OpenVINO cannot convert; here with BERT's tokenizer
NLI_LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
MAX_LENGTH = 64
PUNCTUATION = ".,!?;:'\"()-"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SUBJECTS = ("the striker", "a minister", "the singer", "our bank", "this phone", "the old farmer")
VERBS = ("scored", "lost", "praised", "sold", "found")
OBJECTS = ("twice", "a vote", "the new film", "many shares", "a cheap chip")
OTHER_WORDS = ("text", "example", "about", "is", "probe", "of", "some", "words", "sport", "politics", "money", "art")


def sentences() -> list[str]:
    """150 short English texts, each once, in a fixed order."""
    return [f"{subject} {verb} {what}." for subject in SUBJECTS for verb in VERBS for what in OBJECTS]


def _words() -> list[str]:
    return sorted({word for text in sentences() for word in text.strip(".").split()} | set(OTHER_WORDS))


def make_tokenizer(family: str, **options: Any) -> Any:
    """A family's own tokenizer with a small vocabulary; options go to its class (`padding_side`, …)."""
    options = {"model_max_length": MAX_LENGTH, **options}
    if family in ("bert", "distilbert", UNCONVERTED):
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PUNCTUATION, *LETTERS, *(f"##{c}" for c in LETTERS)]
        words = [word for word in _words() if len(word) > 1]
        kind = DistilBertTokenizer if family == "distilbert" else BertTokenizer
        return kind(vocab={token: i for i, token in enumerate([*tokens, *words])}, **options)
    if family in ("roberta", "bart"):
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        vocab, merges = _byte_level_bpe()
        names = [*special, *vocab, "<mask>"]
        return RobertaTokenizer(vocab={token: i for i, token in enumerate(names)}, merges=merges, **options)
    pieces = [("▁", -3.0), *((f"▁{word}", -4.0) for word in _words())]
    pieces += [(character, -9.0) for character in PUNCTUATION + LETTERS]
    if family == "deberta-v2":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        return DebertaV2Tokenizer(vocab=[*((token, 0.0) for token in special), *pieces], **options)
    if family == "xlm-roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        return XLMRobertaTokenizer(vocab=[*((token, 0.0) for token in special), *pieces, ("<mask>", 0.0)], **options)
    raise ValueError(f"no family {family!r}; there are {', '.join(FAMILIES)}")


def long_texts() -> list[str]:
    """Texts that are far longer than a model reads, of all kinds of words and blanks; some have few tokens."""
    kinds = {
        "a": "a",
        "z": "zyx9?" * 30,
        "w": "the striker",
        "u": "東京",
        "t": "\t",
        "n": "\n",
        "b": " ",
        "m": "<mask>",
    }
    patterns = ["wb", "wn", "zbwt", "abbbn", "bbbbw", "ubw", "u", "z", "b", "n", "t", "tn", "mb", "wmbz", "wbbbbbbbbbb"]
    return [" " * (i % 3) + "".join(kinds[kind] for kind in pattern) * 300 for i, pattern in enumerate(patterns)]


def _byte_level_bpe() -> tuple[list[str], list[tuple[str, str]]]:
    """Bytes and some merges, learnt from the sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*sentences(), " ".join(OTHER_WORDS)], trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    vocab = sorted(learnt["vocab"], key=learnt["vocab"].get)
    return vocab, [tuple(merge) for merge in learnt["merges"]]


def make_config(family: str, tokenizer: Any, labels: Mapping[int, str], **options: Any) -> Any:
    """A family's config at 32 hidden units and two layers, without dropout."""
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "id2label": dict(labels),
        "label2id": {label: index for index, label in labels.items()},
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": MAX_LENGTH,
    }
    encoder = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.3,
    }
    if family == "bert":
        specific: dict[str, Any] = encoder
    elif family == "distilbert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
        names |= {"intermediate_size": "hidden_dim", "hidden_dropout_prob": "dropout"}
        names |= {"attention_probs_dropout_prob": "attention_dropout"}
        specific = {names.get(name, name): value for name, value in encoder.items()} | {"seq_classif_dropout": 0.0}
    elif family in ("roberta", "xlm-roberta"):
        # Positions are numbered from padding_idx + 1 = 2 on.
        specific = {**encoder, "max_position_embeddings": MAX_LENGTH + 2, "bos_token_id": 0, "eos_token_id": 2}
        specific["type_vocab_size"] = 1
    elif family == "deberta-v2":
        specific = {
            **encoder,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_size": 32,
            "pooler_dropout": 0.0,
        }
    elif family == "bart":
        layers = {f"{side}_{what}": number for side in ("encoder", "decoder") for what, number in _BART_SIDE.items()}
        specific = {
            **layers,
            "d_model": 32,
            "dropout": 0.0,
            "init_std": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        }
    elif family == UNCONVERTED:
        specific = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "pad_index": tokenizer.pad_token_id}
    else:
        raise ValueError(f"no family {family!r}; there are {', '.join(FAMILIES)}")
    return AutoConfig.for_model(family, **{**common, **specific, **options})


_BART_SIDE = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}


def make_classifier(
    family: str,
    tokenizer: Any,
    labels: Mapping[int, str] | Sequence[str] = NLI_LABELS,
    *,
    seed: int = 0,
    **options: Any,
) -> Any:
    """A sequence classifier with seeded random weights, whose logits differ visibly between texts, in eval mode."""
    labels = dict(labels) if isinstance(labels, Mapping) else dict(enumerate(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(make_config(family, tokenizer, labels, **options))
    return model.float().eval()


def save_classifier(
    folder: Path | str,
    family: str = "bert",
    labels: Mapping[int, str] | Sequence[str] = NLI_LABELS,
    *,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Save a tiny classifier and its tokenizer as a model folder; options go to its config."""
    tokenizer = make_tokenizer(family)
    make_classifier(family, tokenizer, labels, seed=seed, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def save_encoder(folder: Path | str, family: str = "bert", *, seed: int = 1, **options: Any) -> Path:
    """Save a tiny encoder without a head, as a student to fine-tune; options go to its config."""
    options = {"init_std" if family == "bart" else "initializer_range": 0.1, **options}
    tokenizer = make_tokenizer(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(make_config(family, tokenizer, {0: "LABEL_0", 1: "LABEL_1"}, **options))
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


TRACE = "TINY_MODELS_TRACE"  # the variable that names the file in which code of a model's own says that it has run
OWN_CODE = f"""
import os
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, CanineTokenizer

with open(os.environ["{TRACE}"], "a") as trace:
    trace.write(f"{{os.getpid()}}\\n")

class OwnConfig(BertConfig):
    model_type = "own"

class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig

class OwnTokenizer(BertTokenizer):
    pass

class OwnSlowTokenizer(CanineTokenizer):
    pass
"""


def pickle_weights(folder: Path, weights: Any = None) -> Path:
    """Put pickled weights, its own or others, in the place of a saved model's safetensors."""
    torch.save(load_file(folder / "model.safetensors") if weights is None else weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink(missing_ok=True)
    return folder


def bring_own_code(folder: Path, tokenizer: str = "OwnTokenizer") -> Path:
    """Make a saved BERT one that only code which lies beside it can load."""
    (folder / "own.py").write_text(OWN_CODE)
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnForSequenceClassification"}
    changes = {
        "config.json": {
            "model_type": "own",
            "architectures": ["OwnForSequenceClassification"],
            "auto_map": classes,
        },
        "tokenizer_config.json": {
            "tokenizer_class": tokenizer,
            "auto_map": {"AutoTokenizer": [f"own.{tokenizer}", None]},
        },
    }
    for name, change in changes.items():
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


def bring_class(folder: Path, code: str, **config: Any) -> Path:
    """Have a saved classifier be of the class `Own` of some code that is laid beside it; more goes into its config."""
    (folder / "own.py").write_text(code)
    file = folder / "config.json"
    auto_map = {"AutoModelForSequenceClassification": "own.Own"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": auto_map, **config}))
    return folder


class Malice:
    """Unpickled, it writes to the file that `TRACE` names."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'echo unpickled >> "${TRACE}"',)


def put_on_hub(cache: Path, name: str, *folders: Path) -> list[str]:
    """Lay a repository out as the hub's cache has it, a commit for each folder; the first is what main stands for."""
    repository = cache / f"models--{name.replace('/', '--')}"
    commits = [f"{number:040x}" for number in range(1, len(folders) + 1)]
    for commit, folder in zip(commits, folders, strict=True):
        shutil.copytree(folder, repository / "snapshots" / commit)
    move_main(cache, name, commits[0])
    return commits


def move_main(cache: Path, name: str, commit: str) -> None:
    """Let the main branch of a repository in the hub's cache stand for another commit."""
    main = cache / f"models--{name.replace('/', '--')}" / "refs" / "main"
    main.parent.mkdir(exist_ok=True)
    main.write_text(commit)


def reduced_precision() -> tuple[str, str]:
    """(precision, backend) of a teacher that is not exact and that this machine's CPU does not only emulate."""
    try:
        native = "bf16" in Path("/proc/cpuinfo").read_text()  # asking OpenVINO would load it into every test process
    except OSError:
        native = False
    return ("bf16", "torch") if native else ("int8", "openvino")
