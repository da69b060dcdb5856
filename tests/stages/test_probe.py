"""What a dry run finds out of the teacher: in a given time, and without what is done once on each machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raydistill.engines import exported
from raydistill.quote import Probe
from raydistill.specs import Effort, TeacherSpec
from raydistill.stages import quote
from raydistill.stages.quote import probe_teacher
from raydistill.teacher import Teacher

CLASSES = ("sport", "money", "art")
LONG = "rain over the sea " * 40


def probe(teacher: Path, texts: Sequence[str], **changes: Any) -> Probe:
    spec = TeacherSpec(str(teacher), CLASSES, "About {}.", **{"backend": "torch", "work": 0.0} | changes)
    return probe_teacher(spec, [texts], 1, begun=False)[0]


def test_of_a_slow_teacher_no_more_is_scored_than_the_time_allows(
    tiny_teacher_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Teacher.score_some

    def slow(self: Teacher, texts: Sequence[str], effort: Effort) -> Any:
        before = effort.padded_tokens
        found = plain(self, texts, effort)
        seconds = 0.01 * (effort.padded_tokens - before)
        time.sleep(seconds)
        effort.forward_seconds += seconds
        return found

    monkeypatch.setattr(Teacher, "score_some", slow)
    monkeypatch.setattr(quote, "PROBE_SECONDS", 0.4)
    whole = 3 * 64  # tokens of one text: 1.9 seconds
    found = probe(tiny_teacher_dir, [LONG] * 9)
    assert found.texts >= 1
    assert sum(found.seconds) < 1.6
    assert found.padded_tokens[0] < whole
    assert sum(probe(tiny_teacher_dir, [*["rain"] * 8, *[LONG] * 20]).seconds) < 2 * 0.4 + 0.6
    monkeypatch.setattr(quote, "PROBE_SECONDS", 15.0)
    assert probe(tiny_teacher_dir, [LONG]).padded_tokens[0] == whole


def test_what_is_done_once_on_each_machine_is_not_of_the_start(
    tiny_teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = exported.convert

    def slowly(*given: Any) -> None:
        time.sleep(5)
        convert(*given)

    monkeypatch.setattr(exported, "convert", slowly)
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path))
    first = probe(tiny_teacher_dir, ["some rain"], backend="openvino", fingerprint="a teacher")
    assert 0 < first.start_seconds < 5
    assert probe(tiny_teacher_dir, ["some rain"], backend="openvino").start_seconds > 5  # each process makes its own
