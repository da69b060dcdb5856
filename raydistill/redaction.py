"""Secrets stay out of all that is written, logged or printed."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "…"
# The name and password of a URI, s3://KEY:SECRET@bucket/…: up to the last @ before the path, or, where a secret with
# a slash in it was not written as %2F, up to the first one at all. A number before a slash is a port.
USER_INFO = re.compile(r"(?<=://)(?:[^\s/?#@]*:[^\s/?#]*@|[^\s/?#@:]*:(?!\d+/)[^\s@]*@)")
SETTING = re.compile(
    r"(?i)([?&](?:sig|[^\s=&#]*(?:key|secret|token|password|signature|credential)[^\s=&#]*)=)[^\s&#'\"]+"
)
# What is known for a secret by its form: tokens of the hub, key ids of AWS, and what an HTTP header shows.
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?<=Bearer )\S+")
SECRET_VARIABLE = re.compile(r"(?i)(?:TOKEN|SECRET|PASSWORD|(?:ACCESS|API|PRIVATE|SECRET)_?KEY(?:_ID)?)$")
SHORTEST = 8  # a shorter value may be a word like any other


def without_secrets(text: str) -> str:
    """A text without passwords of URIs, tokens, and values of environment variables such as HF_TOKEN.

    The user part of a URI is left out, so that it can still be opened with the environment's credentials; all else is
    replaced by `…`.
    """
    text = USER_INFO.sub("", text)
    text = SETTING.sub(rf"\1{HIDDEN}", text)
    text = TOKEN.sub(HIDDEN, text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and SECRET_VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    return text


def redacted(value: Any) -> Any:
    """The same for all texts in plain JSON values; what stands under a name like `hub_token` is a secret."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, dict):
        return {
            name: HIDDEN if item is not None and SECRET_VARIABLE.search(name) else redacted(item)
            for name, item in value.items()
        }
    return value
