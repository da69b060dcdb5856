"""Secrets are in nothing that is written or said: URIs, tokens, the environment's, options by name."""

from __future__ import annotations

import json
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.config import DistillConfig
from raydistill.corpus_files import CorpusFile, corpus_signature
from raydistill.errors import CorpusError, first_line
from raydistill.redaction import without_secrets

TOKEN = "hf_" + "aB3" * 11 + "x"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("s3://KEY:SECRET@bucket/a.txt", "s3://bucket/a.txt"),
        ("s3://KEY:SEC/RE+T@bucket/a.txt", "s3://bucket/a.txt"),
        ("s3://KEY:SEC@RET@bucket/a@b.txt", "s3://bucket/a@b.txt"),
        ("https://:SECRET@host?a=b", "https://host?a=b"),
        (
            "s3://b/x?endpoint_override=http://127.0.0.1:9000&secret_key=SECRET&region=r",
            "s3://b/x?endpoint_override=http://127.0.0.1:9000&secret_key=…&region=r",
        ),
        ("az://b/x?sig=SECRET&X-Amz-Security-Token=SECRET", "az://b/x?sig=…&X-Amz-Security-Token=…"),
        (f"--data-file {TOKEN}: no such file", "--data-file …: no such file"),
        ("'Authorization: Bearer SECRET' was sent", "'Authorization: Bearer … was sent"),
        ("AKIAIOSFODNN7EXAMPLE", "…"),
    ],
)
def test_a_secret_is_taken_out(text, wanted):
    assert without_secrets(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b.txt?region=us-east-1",
        "hdfs://host:8020/user/a@b",
        "hdfs://user@host/x",
        "http://127.0.0.1:5000/a:b@c",
        "s3://bucket/?design=1&monkey",
        "label  1,000 of 2,000 texts (50%) · ETA 3 s",
        "a text: mail someone@example.org, key=1, hf_transfer",
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    assert without_secrets(text) == text


@given(st.text(min_size=1), st.text(min_size=4))
def test_no_password_of_a_uri_is_ever_left(user, password):
    written = quote(password, safe="")
    found = without_secrets(f"--data-file s3://{quote(user, safe='')}:{written}@bucket/corpus.txt: cannot be read.")
    assert found == "--data-file s3://bucket/corpus.txt: cannot be read."


def test_secrets_of_the_environment_are_known(monkeypatch):
    monkeypatch.setenv("SOME_SECRET_ACCESS_KEY", "swordfish/swordfish")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.setenv("SHORT_TOKEN", "test")
    assert without_secrets("swordfish/swordfish and 0123456789 in a test") == "… and … in a test"


def test_an_error_holds_no_secret_wherever_it_goes():
    error = CorpusError("s3://KEY:SECRET@bucket: cannot be read.")
    assert str(error) == "s3://bucket: cannot be read."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert (
        first_line(ValueError("Cannot parse URI: 's3://KEY:SECRET@bucket'\nmore")) == "Cannot parse URI: 's3://bucket'"
    )


def test_the_options_that_are_written_down_hold_no_secret():
    config = DistillConfig(
        data_file=["s3://KEY:SECRET@bucket/a.txt", "s3://bucket/b.txt?session_token=SECRET"],
        teacher_name_or_path="https://user:SECRET@host/model",
        hub_token="SECRET",
    )
    written = json.dumps([config.options(), config.that_change("labels"), config.that_change("student")])
    assert "SECRET" not in written
    assert config.options()["data_file"] == ["s3://bucket/a.txt", "s3://bucket/b.txt?session_token=…"]
    assert config.training["hub_token"] == "SECRET"


def test_a_corpus_is_the_same_with_other_keys():
    def signature(uri):
        return corpus_signature([CorpusFile(uri, 1, 0.0, "text", None)], "text")

    assert signature("s3://KEY:SECRET@bucket/a.txt") == signature("s3://NEW:OTHER@bucket/a.txt")
    assert signature("s3://KEY:SECRET@bucket/a.txt") != signature("s3://KEY:SECRET@bucket/b.txt")
