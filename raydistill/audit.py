"""What a reduced precision of the teacher changes in the labels, and what it gains."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Sequence

import numpy as np

from raydistill.distillation import Floats, soft_labels
from raydistill.engines.engine import engine_name
from raydistill.errors import DeviceLostError, EngineError, ModelError, RaydistillError, counted, first_line
from raydistill.specs import Effort, TeacherSpec

Logits = tuple[Floats, Floats]
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Audit:
    """A teacher in a reduced precision beside the exact one, on the same texts.

    Attributes:
        precision: the reduced one.
        engine: what runs it.
        texts: how many were compared: those that the exact one can score.
        agreement: the share whose winning class is the same; multi-label: of the K decisions at 0.5 on each text.
            A text that the reduced one cannot score does not agree.
        max_difference, mean_difference: of soft labels, absolute.
        speedup: how many times as fast the reduced one was.
    """

    precision: str
    engine: str
    texts: int
    agreement: float
    max_difference: float
    mean_difference: float
    speedup: float

    def __str__(self) -> str:
        return (
            f"{self.engine} against fp32 on {counted(self.texts, 'text')}: {self.agreement:.1%} of decisions agree, "
            f"soft labels differ by {self.max_difference:.2g} at most and {self.mean_difference:.2g} on average; "
            f"{self.speedup:.1f} times as fast"
        )


def compare(exact: Logits, reduced: Logits, *, temperature: float, multi_label: bool) -> tuple[float, float, float]:
    """(agreement, max_difference, mean_difference) of the soft labels that two sets of logits give.

    Args:
        exact, reduced: (entailment, contradiction), each (N, K), with N ≥ 1.
    """
    wanted, found = (
        soft_labels(*logits, temperature=temperature, multi_label=multi_label) for logits in (exact, reduced)
    )
    same = (wanted > 0.5) == (found > 0.5) if multi_label else wanted.argmax(axis=1) == found.argmax(axis=1)
    off = np.abs(wanted - found)
    return float(same.mean()), float(off.max()), float(off.mean())


def audit_teacher(
    exact: TeacherSpec,
    reduced: TeacherSpec,
    texts: Sequence[str],
    *,
    temperature: float,
    multi_label: bool,
    efforts: Sequence[Effort] | None = None,
) -> Audit:
    """Score texts twice and compare.

    Args:
        efforts: two, new ones, of which another thread may see how far it is.

    Raises:
        EngineError: the teacher cannot score them in that precision.
        ModelError: it cannot score them at all.
        ConfigError.
    """
    import torch  # here, so that the driver need not load it

    from raydistill.engines.load import expect_native
    from raydistill.teacher import Teacher

    expect_native(reduced)
    scores, seconds, precision, name = [], [], "", ""
    for spec, effort in zip((exact, reduced), efforts or (Effort(), Effort()), strict=True):
        try:
            teacher = Teacher.load(spec)
            precision, name = teacher.engine.precision, engine_name(teacher.engine)
            teacher.warm_up(texts)
            scores.append(teacher.score_some(texts, effort))
        except RaydistillError:
            raise
        except Exception as error:  # of a device that is to compute in another number format, anything
            if spec is exact or isinstance(error, (DeviceLostError, MemoryError, torch.OutOfMemoryError)):
                raise  # what may do well the next time
            logger.exception("the teacher fails in %s", precision or spec.precision)
            raise EngineError(f"the teacher fails in a reduced precision ({first_line(error)}).") from error
        seconds.append(effort.busy_seconds)
        del teacher  # two models at a time may not fit a GPU
        gc.collect()  # a narrowed one may hold itself
        if len(scores[-1][2]) == len(texts):
            fault = ModelError if spec is exact else EngineError
            raise fault(f"{name} can score none of the {len(texts):,} texts of the audit.")
    scorable = len(texts) - len(scores[0][2])
    both = np.setdiff1d(np.arange(len(texts)), [*scores[0][2], *scores[1][2]])
    if not len(both):
        raise EngineError(f"{name} can score none of the texts of the audit that fp32 can.")
    logits = [(entailment[both], contradiction[both]) for entailment, contradiction, _ in scores]
    agreement, largest, mean = compare(*logits, temperature=temperature, multi_label=multi_label)
    agreement *= len(both) / scorable
    return Audit(precision, name, scorable, agreement, largest, mean, round(seconds[0] / seconds[1], 3))
