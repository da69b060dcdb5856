"""A run from its checks to its summary: prepare (nothing is written), plan, label, train, report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from raydistill.chatter import Chatter, quiet_libraries
from raydistill.class_names import read_class_names
from raydistill.config import LABEL, TRAIN, DistillConfig, options_of
from raydistill.corpus import check_readable
from raydistill.corpus_files import CorpusFile, find_files
from raydistill.corpus_samples import estimate_texts
from raydistill.engines.offers import check_backend
from raydistill.errors import ConfigError, RaydistillError, RunDirError, shown
from raydistill.label_store import LabelStore
from raydistill.lease import hold
from raydistill.progress import Console
from raydistill.quick_imports import quick_imports
from raydistill.resources import Plan, Request, make_plan
from raydistill.result import DistillResult
from raydistill.run_dir import LOG, PRODUCTS, RunDir, versions
from raydistill.specs import TextCount
from raydistill.stages.checks import (
    Models,
    check_models,
    expect_corpus_elsewhere,
    expect_same_labelling,
    no_text,
    tolerance_of,
)
from raydistill.stages.label_stage import LabelStage, held_record
from raydistill.stages.summary import advice, describe_plan, describe_work, summary

LAST_WORDS_SECONDS = 2.0


@contextlib.contextmanager
def _unknown_option_first(config: DistillConfig) -> Iterator[None]:
    """Before what else is wrong, say that a name is no option's: it may be why another one is missing or differs."""
    try:
        yield
    except RaydistillError:
        if config.training:
            from raydistill.training_checks import checked_arguments

            checked_arguments(config.training)
        raise


@dataclasses.dataclass
class Job:
    """A run.

    Made by `prepare`, which sees that its input is good, as far as its beginning tells, and writes nothing; `execute`
    does the work.
    """

    config: DistillConfig
    stages: tuple[str, ...]
    run_dir: RunDir
    store: LabelStore
    class_names: list[str]
    files: list[CorpusFile]
    texts: TextCount
    lengths: list[int]
    started: float
    models: Models = dataclasses.field(default_factory=Models)  # as soon as they have been checked
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # by what took them, as they pass

    @classmethod
    def prepare(cls, config: DistillConfig, stages: tuple[str, ...]) -> Job:
        """Check all but the models, for which heavy libraries must be loaded. Raises RaydistillError."""
        started, labelled_here = time.monotonic(), LABEL in stages
        try:
            os.getcwd().encode()
        except UnicodeError:
            raise ConfigError("the current folder has a name that is not UTF-8, which Ray cannot work in.") from None
        with _unknown_option_first(config):
            config.check(["data_file", "class_names_file", "output_dir"] if labelled_here else ["output_dir"])
        files: list[CorpusFile] = []
        texts, lengths = TextCount(0, True), list[int]()
        if labelled_here:
            if config.labels:
                raise ConfigError("--labels names a store that is there already: it is for `raydistill train` alone.")
            class_names = read_class_names(config.class_names_file)
            files = find_files(config.data_file, config.encoding)
            expect_corpus_elsewhere(config, files)
            lengths = check_readable(files, config.text_column)
            texts = estimate_texts(files, config.text_column)
            if not texts[0]:
                raise no_text(config)
        with _unknown_option_first(config):
            run_dir = RunDir.claim(config, [PRODUCTS[stage] for stage in stages])
        store = LabelStore(run_dir.labels_path if labelled_here or not config.labels else config.labels)
        if not labelled_here:
            class_names = store.complete_record()["labelling"]["class_names"]
            store.expect_all_texts()
        if len(class_names) == 1 and not config.multi_label and TRAIN in stages:
            raise ConfigError(
                f"there is only one class, {shown(class_names[0])}: against no other, its probability is always 1. "
                "Name a second class, or use --multi-label to judge it by itself."
            )
        return cls(config, stages, run_dir, store, class_names, files, texts, lengths, started)

    @property
    def label_stage(self) -> LabelStage:
        """Of models that have been checked."""
        return LabelStage(self.config, self.models, self.run_dir, self.store, self.files, self.texts, self.lengths)

    def execute(self, console: Console, chatter: Chatter | None = None) -> DistillResult:
        """Start or join Ray, check the models, plan, and run the stages; with `dry_run`, print plan and quote only.

        But for its lock, the output directory is touched only when the plan is known to fit, and by a quote only in its
        `run.json`.

        Args:
            chatter: what this process prints, workers' output included, goes to the run's log.

        Raises:
            RaydistillError.
        """
        folder = self.run_dir.folder
        if folder.is_there() or not folder.local:
            with hold(folder, console.say):
                pass  # where another run is at work, or nothing can be written, that is said before Ray is started
        with self._ready(own_process=chatter is not None):
            from raydistill.stages.cluster import expect_shared, free_nodes

            plan = make_plan(
                free_nodes(),
                _request(self.config, self.stages),
                teacher_parameters=self.models.teacher_parameters,
                student_parameters=self.models.student_parameters,
            )
            if self.models.training and LABEL in self.stages and self.texts[1]:
                self.models.training.expect_enough(self.texts[0], plan.train_workers)
            if LABEL in self.stages:
                teacher = self.label_stage.teacher_spec
                check_backend(teacher.backend, teacher.precision, use_gpu=plan.teacher_gpus > 0)
                console.say(f"corpus {describe_work(self.texts, len(self.class_names), len(self.files))}")
            console.say(f"plan   {describe_plan(plan, label=LABEL in self.stages, train=TRAIN in self.stages)}")
            for note in self.models.notes:
                console.say(f"       {note}")
            for option in self.models.training.for_gpus if self.models.training and not plan.train_gpus else ():
                console.say(
                    f"       {option} is for GPUs: on a CPU the student is trained in fp32, or in bf16 with --bf16"
                )
            if self.config.dry_run:
                quote = self.label_stage.quote(plan, console) if LABEL in self.stages else None
                return DistillResult(folder.path, self.store.path, {}, {}, {}, quote)
            with hold(folder, console.say):
                expect_shared(folder, self.store.folder if self.config.labels else None)
                self._begin(plan, console)
                with self.run_dir.log(console.say) if chatter else contextlib.nullcontext() as log:
                    if chatter and log:
                        chatter.keep_in(log)
                    self.seconds["start-up"] = self._passed
                    with _last_words(log is not None):
                        if LABEL in self.stages:
                            self.seconds |= self.label_stage.run(plan, console)
                        if TRAIN in self.stages:
                            with hold(self.store.folder, console.say, shared=True):
                                self._train(plan, console)
                    self.run_dir.update(seconds=self._passed)
        self.seconds |= {"shutdown": round(self._passed - self.run_dir.record["seconds"], 3), "total": self._passed}
        return self._finish(console, logged=chatter is not None)

    @property
    def _passed(self) -> float:
        """Seconds since the run began."""
        return round(time.monotonic() - self.started, 3)

    @contextlib.contextmanager
    def _ready(self, *, own_process: bool) -> Iterator[None]:
        """Ray, and models that are known to be good. Ray starts while libraries load: each takes seconds."""
        quiet_libraries()
        with contextlib.ExitStack() as stack:
            with quick_imports(own_process=own_process), ThreadPoolExecutor(1) as beside:
                from raydistill.stages.cluster import connection, in_a_worker, will_fork

                loading = beside.submit(load_stages, self.stages, models=not will_fork(self.config.address))
                forks = stack.enter_context(connection(self.config.address, worker_output=own_process))
                loading.result()
                # A fork has loaded already what that needs.
                self._check_models(partial(in_a_worker, check_models) if forks else check_models)
            yield

    def _check_models(self, check: Callable[..., Models]) -> None:
        self.models = check(self.config, self.stages, self.class_names)
        self._expect_same_labelling()

    def _begin(self, plan: Plan, console: Console) -> None:
        """Take the output directory, which is held by now, and say so in it."""
        products = [PRODUCTS[stage] for stage in self.stages]
        self.run_dir = RunDir.claim(self.config, products)  # again: another run may have come and gone since `prepare`
        self._expect_same_labelling()
        if LABEL not in self.stages and self.store.complete_record()["labelling"]["class_names"] != self.class_names:
            raise RunDirError(f"{self.store.path}: was made anew just now, of other classes. Start again.")
        if self.run_dir.torn:
            console.say("       run.json is damaged: it is written anew, and the student will be trained anew")
        if self.config.overwrite_output_dir and not self.run_dir.anew and self.run_dir.record:
            console.say("       this very command did not come to its end here: it goes on")
        if self.run_dir.anew and LABEL in self.stages and self.store.folder.is_there():
            with hold(self.store.folder, console.say):
                pass  # another run may be training from the labels that are to be removed
        self.run_dir.begin(self.config, products, versions=versions(), plan=dataclasses.asdict(plan))

    def _expect_same_labelling(self) -> None:
        if self.run_dir.anew or LABEL not in self.stages:
            return
        if record := held_record(self.store, self.run_dir):
            overwriting = self.config.overwrite_output_dir
            expect_same_labelling(record, self.models.labelling, self.store, overwriting=overwriting)
            self.store.expect_own_parts()

    def _train(self, plan: Plan, console: Console) -> None:
        from raydistill.stages.train_stage import run_train_stage

        training = self.models.training
        assert training is not None
        seconds = run_train_stage(training, self.store, self.run_dir, plan, tolerance_of(self.config), console)
        if seconds is not None:
            self.seconds[TRAIN] = seconds

    def _finish(self, console: Console, *, logged: bool) -> DistillResult:
        record = self.run_dir.record
        result = DistillResult(
            output_dir=self.run_dir.folder.path,
            labels=self.store.path,
            counts=record.get("counts", {}),
            figures=record.get("figures", {}) if TRAIN in self.stages else {},
            seconds=self.seconds,
        )
        labelling, training = (record["stages"][stage] if stage in self.seconds else None for stage in (LABEL, TRAIN))
        log = self.run_dir.folder.where(LOG) if logged else None
        console.say("done")
        quoted = record.get("quote") or {}
        if not labelling or quoted.get("actual_seconds") != labelling["seconds"]:  # of an earlier time, or of none
            quoted = None
        console.table(summary(result, labelling, training, quoted, student=TRAIN in self.stages, log=log))
        if training and (advised := advice(result.figures, training["updates"])):
            console.say(advised)
        return result


@contextlib.contextmanager
def _last_words(logged: bool) -> Iterator[None]:
    """Where a stage fails, what its workers said of it is still on its way to the log that the error points at."""
    try:
        yield
    except RaydistillError:
        if logged:
            time.sleep(LAST_WORDS_SECONDS)
        raise


def load_stages(stages: Sequence[str], *, models: bool) -> None:
    """Import what stages are done with, and what models are checked with."""
    if LABEL in stages:
        import raydistill.stages.label

        if models:
            import raydistill.nli
    if TRAIN in stages:
        import raydistill.stages.train_stage

        if models:
            import raydistill.student
            import raydistill.training_checks  # noqa: F401


def _request(config: DistillConfig, stages: Sequence[str]) -> Request:
    """What is asked for the stages that are run; what a shared config says of the other is not held against them."""
    asked = {field.name for field in dataclasses.fields(Request)} & {option.name for option in options_of(stages)}
    return Request(**{name: getattr(config, name) for name in asked})
