"""Which precision the teacher runs in: the exact one, or a reduced one that has passed its audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from raydistill.audit import Audit, audit_teacher
from raydistill.config import DistillConfig
from raydistill.engines.engine import EXACT
from raydistill.errors import EngineError, ModelError
from raydistill.progress import Console
from raydistill.resources import Plan
from raydistill.specs import TeacherSpec
from raydistill.stages.faults import our_errors, wait_for
from raydistill.stages.teacher_actor import as_planned, teacher_task

AUDIT_STALLS = 10
WORTH_IT = 1.05  # times as fast as fp32: beyond what two measurements differ by


def choose_precision(
    config: DistillConfig, spec: TeacherSpec, draw_sample: Callable[[], Sequence[str]], plan: Plan, console: Console
) -> dict[str, Any]:
    """What to score with: `precision`, and under `audit` what was found of a reduced one.

    Exact where that was asked for, and by default on a CPU. Anything else is first compared with the exact teacher on
    a sample of the corpus, where a teacher actor will run; below `min_agreement`, or where the teacher cannot run so,
    or gains nothing by what nobody asked for, the exact one is taken.

    Raises:
        ModelError: with `strict`, below `min_agreement`, or the teacher cannot run in that precision.
    """
    reduced = as_planned(spec, plan)
    if spec.precision == EXACT or (spec.precision == "auto" and not reduced.use_gpu):
        return {"precision": EXACT, "audit": None}
    exact, sample = dataclasses.replace(reduced, precision=EXACT), list(draw_sample())
    remote = teacher_task(audit_teacher, plan)
    alone = len(spec.class_names) == 1  # a single class is judged by itself, whoever trains on it
    try:
        with (
            our_errors("the process that audited the teacher died"),
            console.stage("audit", "texts", len(sample)) as progress,
        ):
            rule = {"temperature": config.temperature, "multi_label": config.multi_label or alone}
            ref = remote.remote(exact, reduced, sample, **rule)
            # It says nothing under way, and exact scores take their time.
            audit: Audit = wait_for([ref], AUDIT_STALLS * 60 * config.stall_timeout, "audit")[0]
            progress.update(len(sample))
    except EngineError as error:
        if config.strict:
            raise
        console.say(f"       {error} The teacher runs in fp32")
        return {"precision": EXACT, "audit": None}
    console.say(f"       {audit}")
    used = passed = audit.agreement >= config.min_agreement
    if not passed:
        # So many digits that what is below does not look equal.
        below = f"{audit.precision} agrees on {audit.agreement:.4%}, below --min-agreement {config.min_agreement:g}"
        if config.strict:
            raise ModelError(f"{below}. Lower it, use --teacher-precision fp32, or leave --strict out.")
        console.say(f"       {below}: the teacher runs in fp32")
    elif audit.speedup < WORTH_IT:
        used = spec.precision != "auto"
        instead = f"--teacher-precision {EXACT} would give exact labels" if used else "the teacher runs in fp32"
        console.say(f"       {audit.precision} gains nothing here: {instead}")
    found = dataclasses.asdict(audit) | {"passed": passed, "seconds": round(progress.seconds, 3)}
    return {"precision": audit.precision if used else EXACT, "audit": found}
