"""The label stage of a run: quoted, done before, gone on with or begun anew, and what `run.json` says of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

from raydistill.config import LABEL, DistillConfig
from raydistill.corpus_files import CorpusFile, corpus_signature
from raydistill.corpus_samples import sample_texts
from raydistill.engines.engine import EXACT
from raydistill.errors import DamagedError, ModelError, counted
from raydistill.label_record import tells_labelling
from raydistill.label_store import LabelStore
from raydistill.lease import hold
from raydistill.progress import Console
from raydistill.quote import Quote, cost
from raydistill.rejected import REJECTED, most_rejected
from raydistill.resources import Plan
from raydistill.run_dir import RunDir, versions
from raydistill.specs import BYTES_PER_TOKEN, TeacherSpec, TextCount
from raydistill.stages.checks import Models, no_text, store_counts, tolerance_of
from raydistill.stages.summary import describe_quote


@dataclasses.dataclass(frozen=True)
class LabelStage:
    """What is to be labelled, with what, and where to.

    Args:
        texts: how many there are, and whether that is exact.
        lengths: of some of them, in bytes.
    """

    config: DistillConfig
    models: Models
    run_dir: RunDir
    store: LabelStore
    files: list[CorpusFile]
    texts: TextCount
    lengths: Sequence[int]

    @property
    def teacher_spec(self) -> TeacherSpec:
        """The teacher as workers load it."""
        spec = self.models.teacher
        assert spec is not None
        spec = dataclasses.replace(spec, scored_bytes=BYTES_PER_TOKEN * self.models.labelling["max_length"])
        share = sum(map(spec.work_bytes, self.lengths)) / max(1, sum(self.lengths))
        work = spec.parameters * self.texts[0] * len(spec.class_names)
        return dataclasses.replace(spec, work=work, scored_share=min(share, 1.0) or 1.0)

    def quote(self, plan: Plan, console: Console) -> Quote | None:
        """Foretell what labelling would take; None where there is nothing to do. Raises RaydistillError."""
        from raydistill.stages.quote import quote_labelling

        fresh, folder = self.run_dir.anew, self.run_dir.folder
        with hold(folder, console.say) if folder.is_there() else contextlib.nullcontext():
            if not fresh and self._labelled_before(console):
                return None
            parts = [] if fresh else self.store.parts()
            known = self.store.known_texts(sorted(set(parts) - set(self.store.damaged_parts() if parts else [])))
            scoring = {} if fresh else held_record(self.store, self.run_dir).get("scoring", {})
        spec = dataclasses.replace(self.teacher_spec, precision=scoring.get("precision", self.teacher_spec.precision))
        quote = quote_labelling(
            self.files,
            self.config.text_column,
            self.texts,
            spec,
            known,
            plan,
            console,
            tolerance=tolerance_of(self.config),
            begun=bool(scoring),
        )
        if quote is None:
            console.say("quote  all texts of the sample are labelled already")
            return None
        console.say("quote  of the label stage")
        console.table(describe_quote(quote, self.config.price_per_hour))
        if not scoring and not quote.engine.endswith(EXACT):
            console.say("       if that precision passes its audit, which comes before and is not in the time")
        with hold(folder, console.say):
            more: dict[str, Any] = {"basis": self._quoted(plan, fresh=fresh)}
            if (price := self.config.price_per_hour) is not None:
                names = ("price_per_hour", "cost", "cost_low", "cost_high")
                more |= zip(names, (price, *quote.costs(price)), strict=True)
            self.run_dir.keep_quote(dataclasses.asdict(quote) | more)
        return quote

    def _quoted(self, plan: Plan, *, fresh: bool = False) -> str:
        """What a quote is of: the same for the run that it foretells."""
        known = [] if fresh else self.store.parts()
        speed = [self.config.teacher_backend, self.config.teacher_batch_size, self.config.block_seconds]
        facts = [self._corpus, self.models.labelling, dataclasses.asdict(plan), known, speed]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()

    @property
    def _corpus(self) -> str:
        return corpus_signature(self.files, self.config.text_column)

    def _labelled_before(self, console: Console) -> dict[str, Any] | None:
        """What a complete store says of this very corpus; also to the console."""
        earlier = held_record(self.store, self.run_dir).get("complete") or {}
        if earlier.get("corpus") != self._corpus:
            return None
        with contextlib.suppress(DamagedError):
            if self.store.count_texts() == earlier["texts"] and not self.store.damaged_parts():
                console.say(f"label  done before: {earlier['texts']:,} texts in {self.store.path}")
                return earlier
        return None

    def run(self, plan: Plan, console: Console) -> dict[str, float]:
        """Label the corpus, as far as it is not labelled already.

        Returns:
            seconds by what took them; none where there was nothing to do.

        Raises:
            RaydistillError.
            KeyboardInterrupt: a signal asked for the end.
        """
        record = held_record(self.store, self.run_dir)
        if record.get("scoring"):
            expect_agreement(self.config, record["scoring"], console)
        if earlier := self._labelled_before(console):
            # A kill may have come between the store's record and the run's, which then says less.
            stage = self.run_dir.record.get("stages", {}).get(LABEL, {}) | {"finished": True}
            self.run_dir.update(
                counts=store_counts(earlier),
                labelling=record["labelling"],
                scoring=record["scoring"],
                stages={LABEL: stage},
            )
            return {}
        scoring, seconds = record.get("scoring"), {}
        if not scoring:  # once chosen, a precision stays: the labels of a store are all of one kind
            from raydistill.stages.audit import choose_precision

            def keep(audit: dict[str, Any]) -> None:
                self.run_dir.update(scoring={"precision": None, "audit": audit})

            scoring = choose_precision(self.config, self.teacher_spec, self._sample, plan, console, keep)
            seconds = {"audit": scoring["audit"]["seconds"]} if scoring["audit"] else {}
        with hold(self.store.folder, console.say):
            return seconds | {LABEL: self._make_labels(record, scoring, plan, console)}

    def _make_labels(self, earlier: dict[str, Any], scoring: dict[str, Any], plan: Plan, console: Console) -> float:
        from raydistill.stages.label import label_corpus

        quoted = self.run_dir.record.get("quote") or {}
        foretold = quoted.get("basis") == self._quoted(plan)
        corpus = self._corpus
        at_first = earlier.get("labelling", {}).get("precision")  # as it was asked for; to what that has come stays
        asked = {"precision": at_first} if at_first else {}
        labelling = self.models.labelling | asked
        record = {"labelling": labelling, "scoring": scoring, "versions": versions()}
        self.store.write_record(record | {"complete": None})
        self.run_dir.update(labelling=labelling, scoring=scoring)
        spec = dataclasses.replace(self.teacher_spec, precision=scoring["precision"])
        with console.stage(LABEL, "texts", self.texts[0]) as progress:
            counts = label_corpus(
                self.files,
                self.config.text_column,
                spec,
                self.store,
                plan,
                progress,
                file_bytes=self.config.label_file_mb * 1_000_000,
                most_rejected=most_rejected(self.config.max_rejected, self.texts[0]),
                tolerance=tolerance_of(self.config),
            )
        if counts.rejected:
            where = self.store.folder.where(REJECTED)
            console.say(f"       {counted(counts.rejected, 'text')} could not be scored: {where}")
        if not counts.texts and not counts.rejected:
            raise no_text(self.config)
        if counts.known:
            console.say(f"       {counted(counts.labelled, 'new text')}; {counts.known:,} were labelled before")
        if counts.removed:
            gone = counted(counts.removed, "text")
            console.say(f"       {gone} of the label store no longer in the corpus: kept, not trained on")
        census = self.store.census(about=counts.texts)
        if census.texts != counts.texts:
            raise RuntimeError(f"the label store holds {census.texts} texts, but {counts.texts} were met")
        complete = {
            "id": census.digest,
            "corpus": corpus,
            "texts": counts.texts,
            "distinct": census.distinct,
            "duplicates": counts.texts - census.distinct,
            "blanks": counts.blanks,
            "rejected": counts.rejected,
            "pairs": counts.texts * len(spec.class_names),
        }
        self.store.write_record(record | {"complete": complete})
        seconds = round(progress.seconds, 3)
        stage = dataclasses.asdict(counts) | {"seconds": seconds, "finished": True}
        outcome = {}
        if quoted and quoted.get("actual_seconds") is None:
            outcome = {"quote": quoted | _outcome(quoted, counts.engines, seconds, foretold=foretold)}
        self.run_dir.update(counts=store_counts(complete), stages={LABEL: stage}, **outcome)
        return seconds

    def _sample(self) -> list[str]:
        return sample_texts(self.files, self.config.text_column, self.config.audit_texts)


def _outcome(quoted: dict[str, Any], engines: Collection[str], seconds: float, *, foretold: bool) -> dict[str, Any]:
    """What came of a quote: `actual_seconds`, and `actual_cost` where there was a price; or why it cannot be compared.

    Args:
        engines: what ran the teacher.
        foretold: whether this very run was quoted.
    """
    if not foretold:
        why = "other options, another corpus or other machines than quoted, or a stop in between"
    elif quoted["engine"] not in engines:  # an audit may have chosen otherwise than the quote took for granted
        why = f"{', '.join(sorted(engines)) or 'nothing'} ran the teacher"
    else:
        price = quoted.get("price_per_hour")
        paid = {} if price is None else {"actual_cost": cost(seconds, price)}
        return {"actual_seconds": seconds, "not_compared": None} | paid
    return {"actual_seconds": None, "actual_cost": None, "not_compared": why}


def expect_agreement(config: DistillConfig, scoring: dict[str, Any], console: Console) -> None:
    """Hold labels that are there, of a reduced precision, against the agreement asked for by now; say where it is less.

    Args:
        scoring: of the labels, as `choose_precision` gave it.

    Raises:
        ModelError: it is less, with `strict`.
    """
    if scoring["precision"] in (None, EXACT) or scoring["audit"]["agreement"] >= config.min_agreement:
        return
    found = f"{scoring['audit']['agreement']:.4%}, below --min-agreement {config.min_agreement:g}"
    begun = f"the labels here are of {scoring['precision']}, which agreed on {found}"
    if config.strict:
        raise ModelError(f"{begun}. Lower it, leave --strict out, or start anew with --overwrite-output-dir.")
    console.say(f"       {begun}: they stay so, unless by --overwrite-output-dir")


def held_record(store: LabelStore, run_dir: RunDir) -> dict[str, Any]:
    """What a label store says of its labels, or, if that is damaged or gone, `run.json` of it; nothing of no labels."""
    torn: DamagedError | None = None
    try:
        record = store.record()
        if record and (record.get("complete") or store.parts()):
            return record
    except DamagedError as error:
        torn = error
    spare = run_dir.record
    if tells_labelling(spare) and "scoring" in spare and (torn or store.parts()):
        return {"labelling": spare["labelling"], "scoring": spare["scoring"]}
    if torn:
        raise torn
    return {}
