"""Which precision the teacher runs in: the exact one, or a reduced one that has passed its audit."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raydistill.audit import Audit, audit_teacher
from raydistill.config import DistillConfig
from raydistill.engines.engine import EXACT
from raydistill.errors import CorpusError, EngineError, ModelError
from raydistill.periodic import every
from raydistill.progress import Console
from raydistill.resources import Plan
from raydistill.specs import Effort, TeacherSpec
from raydistill.stages.faults import our_errors, wait_for
from raydistill.stages.notes import Notes, notes_on
from raydistill.stages.teacher_actor import as_planned, teacher_task

SCORED, NOTE_SECONDS = "scored", 0.5
WORTH_IT = 1.05  # times as fast as fp32: beyond what two measurements differ by


def choose_precision(
    config: DistillConfig,
    spec: TeacherSpec,
    draw_sample: Callable[[], Sequence[str]],
    plan: Plan,
    console: Console,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """What to score with: `precision`, and under `audit` what was found of a reduced one, or what its `fault` is.

    Exact where that was asked for, and by default on a CPU. Anything else is first compared with the exact teacher on
    a sample of the corpus, where a teacher actor will run; below `min_agreement`, or where the teacher cannot run so,
    or gains nothing by what nobody asked for, the exact one is taken.

    Args:
        keep: given what was found, where that ends the run.

    Raises:
        CorpusError: there is no text.
        ModelError: with `strict`, below `min_agreement`, or the teacher cannot run in that precision.
    """
    reduced = as_planned(spec, plan)
    if spec.precision == EXACT or (spec.precision == "auto" and not reduced.use_gpu):
        return {"precision": EXACT, "audit": None}
    exact, sample = dataclasses.replace(reduced, precision=EXACT), list(draw_sample())
    if not sample:
        raise CorpusError(
            f"--data-file {config.data_file[0]}: holds blank texts alone wherever the audit looked. With texts among "
            "them, run the teacher in fp32: it needs no audit."
        )
    remote, pairs = teacher_task(audit_and_note, plan), 2 * len(sample) * len(spec.class_names)
    alone = len(spec.class_names) == 1  # a single class is judged by itself, whoever trains on it
    try:
        with (
            our_errors("the process that audited the teacher died"),
            notes_on(f"audit-{uuid.uuid4().hex}") as notes,
            console.stage("audit", "pairs", pairs) as progress,
        ):

            def look() -> int:
                scored: int = notes.read(SCORED, 0)
                if scored:
                    progress.update(scored)
                return scored

            rule = {"temperature": config.temperature, "multi_label": config.multi_label or alone}
            ref = remote.remote(notes, exact, reduced, sample, **rule)
            audit: Audit = wait_for([ref], 60 * config.stall_timeout, "audit", look)[0]
            progress.update(pairs)
    except EngineError as error:
        found = {"fault": str(error), "passed": False, "seconds": round(progress.seconds, 3)}
        if config.strict:
            keep(found)
            raise
        console.say(f"       {error} The teacher runs in fp32")
        return {"precision": EXACT, "audit": found}
    console.say(f"       {audit}")
    used = passed = audit.agreement >= config.min_agreement
    found = dataclasses.asdict(audit) | {"passed": passed, "seconds": round(progress.seconds, 3)}
    if not passed:
        # So many digits that what is below does not look equal.
        below = f"{audit.precision} agrees on {audit.agreement:.4%}, below --min-agreement {config.min_agreement:g}"
        if config.strict:
            keep(found)
            raise ModelError(f"{below}. Lower it, use --teacher-precision fp32, or leave --strict out.")
        console.say(f"       {below}: the teacher runs in fp32")
    elif audit.speedup < WORTH_IT:
        used = spec.precision != "auto"
        instead = f"--teacher-precision {EXACT} would give exact labels" if used else "the teacher runs in fp32"
        gain = "is slower than fp32" if audit.speedup * WORTH_IT < 1 else "gains nothing"
        console.say(f"       {audit.precision} {gain} here: {instead}")
    return {"precision": audit.precision if used else EXACT, "audit": found}


def audit_and_note(notes: Notes, exact: TeacherSpec, reduced: TeacherSpec, texts: Sequence[str], **rule: Any) -> Audit:
    """As `audit_teacher`; meanwhile, how many pairs it has scored is to be read from the notes."""
    efforts = (Effort(), Effort())

    def note() -> Iterator[None]:
        while True:
            notes.write(SCORED, sum(effort.pairs for effort in efforts))
            yield

    with every(NOTE_SECONDS, note()):
        return audit_teacher(exact, reduced, texts, efforts=efforts, **rule)
