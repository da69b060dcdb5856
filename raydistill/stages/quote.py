"""The quote: some stretches of the corpus are read, and the real teacher scores some of their texts."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import ray

from raydistill.corpus import line_bytes, text_id
from raydistill.corpus_files import CorpusFile
from raydistill.corpus_samples import read_stretches
from raydistill.engines.engine import EXACT, engine_name
from raydistill.errors import CorpusError, EngineError, ModelError, counted
from raydistill.known_texts import KnownIds
from raydistill.progress import Console
from raydistill.quote import Probe, Quote, Stretch, Work, make_quote
from raydistill.resources import Plan
from raydistill.specs import SYSTEMATIC, Effort, TeacherSpec, TextCount, Tolerance
from raydistill.stages.faults import our_errors, wait_for
from raydistill.stages.label import block_bytes, engine_hint
from raydistill.stages.teacher_actor import as_planned, teacher_task

SMALLEST_STRETCH_BYTES, LARGEST_STRETCH_BYTES = 8 << 10, 256 << 10
PROBES = 8  # teachers at a time: more tell nothing new
PROBE_SECONDS, CHUNK_SECONDS = 15.0, 1.0
SHORT = 64  # characters
STAGE_SECONDS = 1.0  # what Ray Data takes to start, beside what loads the teacher, and the last block to be written


def quote_labelling(
    files: Sequence[CorpusFile],
    text_column: str,
    texts: TextCount,
    spec: TeacherSpec,
    known: KnownIds,
    plan: Plan,
    console: Console,
    *,
    tolerance: Tolerance,
    begun: bool = False,
) -> Quote | None:
    """Probe the teacher with the resources that its actors will have; None where there is nothing new to label.

    Args:
        texts: how many there are, and whether that is exact.
        known: those that are labelled already.
        begun: labels have been made in the number format that the spec has.

    Raises:
        CorpusError, ModelError.
    """
    size = block_bytes(files, spec, plan, tolerance.block_seconds)
    stretches, samples, read = [], [], 0.0
    stretch = min(max(size, SMALLEST_STRETCH_BYTES), LARGEST_STRETCH_BYTES)
    for place, found in enumerate(read_stretches(files, text_column, stretch)):
        for lines in found:
            read += sum(spec.work_bytes(line_bytes(line)) for line in lines)
            occurrences = Counter(lines)
            blanks = occurrences.pop("", 0)
            distinct = list(occurrences)
            where = known.find([text_id(text) for text in distinct])
            new = [text for text, at in zip(distinct, where, strict=True) if at < 0]
            if distinct:
                stretches.append(Stretch(place, occurrences.total(), blanks, len(distinct), len(new)))
                samples.append(new)
    if not stretches:
        raise CorpusError(f"{files[0].path}: holds blank texts alone wherever the quote looked. Run without --dry-run.")
    if not any(samples):
        return None
    spec = as_planned(spec, plan)
    try:
        work, probes = _probes(spec, samples, plan, console, tolerance, begun=begun)
    except EngineError as error:  # in its place, as its audit would
        if spec.strict or begun or spec.precision == EXACT:
            raise
        console.say(f"       {error} The teacher runs in fp32")
        spec = dataclasses.replace(spec, precision=EXACT)
        work, probes = _probes(spec, samples, plan, console, tolerance, begun=begun)
    if hint := engine_hint(probes[0].engine, spec, probes[0].fallback):
        console.say(f"       {probes[0].engine} runs the teacher{hint}")
    return make_quote(
        texts,
        len(spec.class_names),
        stretches,
        work,
        probes,
        actors=plan.teacher_actors_max,
        block_size=size / read,
    )


def _probes(
    spec: TeacherSpec,
    samples: Sequence[Sequence[str]],
    plan: Plan,
    console: Console,
    tolerance: Tolerance,
    *,
    begun: bool,
) -> tuple[Work, list[Probe]]:
    """What the sample is to the teacher, and what as many teachers as there will be, or some of them, find."""
    remote, at_once = teacher_task(probe_teacher, plan), min(plan.teacher_actors_max, PROBES)
    with (
        our_errors("the process that tried the teacher died"),
        console.stage("probe", "teachers" if at_once > 1 else "teacher", at_once) as progress,
    ):
        asked, sample = time.monotonic(), ray.put(samples)
        waiting = [remote.remote(spec, sample, number, begun=begun) for number in range(at_once)]
        probes, works = [], []
        while waiting:
            (probe, work, seconds), waiting = wait_for(waiting, tolerance.stall_seconds, "probe")
            until_begun = max(0.0, time.monotonic() - asked - seconds)  # a process had to start
            start = STAGE_SECONDS + until_begun + probe.start_seconds
            probes.append(dataclasses.replace(probe, start_seconds=start))
            works += [work] if work else []
            progress.update(len(probes))
    return works[0], probes


def probe_teacher(
    spec: TeacherSpec, samples: Sequence[Sequence[str]], number: int, *, begun: bool
) -> tuple[Probe, Work | None, float]:
    """Load the teacher and score texts of the sample, some at a time, for some `PROBE_SECONDS`.

    Args:
        samples: the new texts of each stretch.
        number: which of the probes at work this is: 0 also finds out about tokens.
        begun: as for `quote_labelling`.

    Returns:
        the probe, what the sample is to the teacher, and how long all that took here.

    Raises:
        EngineError: it cannot be run in that number format, or scores nothing in it.
        ModelError, ConfigError.
    """
    began = time.monotonic()
    from raydistill.engines.cache import Once
    from raydistill.engines.load import expect_native  # here, so that the driver need not load torch
    from raydistill.teacher import Teacher

    if not begun:
        expect_native(spec)
    imported, done_once = time.monotonic(), Once.seconds
    teacher = Teacher.load(spec)
    load = time.monotonic() - imported - (Once.seconds - done_once)  # what the run will find done takes no time there
    texts = [text for sample in samples for text in sample]
    order = np.random.default_rng(number).permutation(len(texts))

    def seconds(effort: Effort) -> float:  # a GPU's next block is tokenised beside its work
        return max(effort.tokenize_seconds, effort.forward_seconds) if spec.use_gpu else effort.busy_seconds

    # The first pass compiles and fills caches; the second tells how long a text may be to be scored in the time, for a
    # large teacher on a CPU takes many seconds for one. More follow as the time allows.
    efforts: list[Effort] = []
    at, most, rejected = 0, 0.0, 0
    teacher.score_some([texts[order[0]][:SHORT]], Effort())
    until, short = time.monotonic() + PROBE_SECONDS, Effort()
    teacher.score_some([texts[order[0]][:SHORT]], short)
    room = max(SHORT, int(SHORT / seconds(short) * PROBE_SECONDS)) if short.pairs else SHORT
    while at < len(order) and (time.monotonic() < until or (not efforts and at < SYSTEMATIC)):
        effort = Effort()
        chunk = [texts[order[at]][:room]]
        work = spec.work_bytes(len(chunk[0]))
        while at + len(chunk) < len(order) and work < most:
            chunk.append(texts[order[at + len(chunk)]][:room])
            work += spec.work_bytes(len(chunk[-1]))
        *_, faults = teacher.score_some(chunk, effort)
        efforts += [effort] if effort.pairs else []
        rejected += len(faults)
        at += len(chunk)
        most = work * min(4.0, CHUNK_SECONDS / seconds(effort))
    if not efforts:
        fault = ModelError if teacher.engine.precision == EXACT else EngineError
        name = engine_name(teacher.engine)
        raise fault(f"{name} can score none of {counted(at, 'text')} of a sample.")
    # Small ones do not fill a batch; where all are small, so is the corpus.
    full = [effort for effort in efforts if seconds(effort) > CHUNK_SECONDS / 2] or efforts
    probe = Probe(
        full[0].engine,
        full[0].fallback,
        texts=at,
        rejected=rejected,
        padded_tokens=tuple(effort.padded_tokens for effort in full),
        seconds=tuple(map(seconds, full)),
        start_seconds=imported - began + load,
    )
    return probe, teacher.work(samples) if number == 0 else None, time.monotonic() - began
