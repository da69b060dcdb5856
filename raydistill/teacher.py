"""The NLI teacher: texts in, NLI logits out. Knows nothing of Ray, of files or of temperature."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from raydistill.engines.budget import CPU_LEAST, cpu_budget, measured_budget
from raydistill.engines.cache import remembered
from raydistill.engines.engine import Engine, Inputs, PendingLogits, engine_name, is_for_memory
from raydistill.engines.load import load_engine
from raydistill.engines.offers import MEASURING_PAYS
from raydistill.errors import first_line
from raydistill.nli import make_encoder, nli_label_ids, teacher_config
from raydistill.pairs import Ints, PairEncoder, TokenizedTexts, budget_batches, padded_tokens
from raydistill.pretrained import load_tokenizer, skeleton
from raydistill.quote import Work
from raydistill.specs import SYSTEMATIC, Effort, TeacherSpec

logger = logging.getLogger(__name__)

Scores = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], dict[int, Exception]]

# What a pair of the batch size stands for where nothing is padded: 32 of them take some 2 GB with a large teacher in
# bf16, and a small one is four times as fast on an H100 as with 4,096 tokens.
PACKED_TOKENS = 2048
WARM_UP = 8  # texts
# A pair that alone is too much for the memory is tried again, for others may have taken that for a moment; so often
# until some texts have been scored.
MEMORY_WAITS, MEMORY_WAIT_SECONDS = 2, 2.0
# What an engine is tried with: short and long pairs, with padding.
PROBE_TEXTS = ("A probe.", "The match was won in the last minute, and nobody had expected it. " * 8)


class Teacher:
    """An NLI sequence classifier that scores every (text, hypothesis) pair.

    Args:
        engine: what runs the classifier.
        encoder: makes its inputs.
        entailment_id, contradiction_id: indices into the logits.
        token_budget: most tokens of one forward pass, padding included.
    """

    def __init__(
        self, engine: Engine, encoder: PairEncoder, *, entailment_id: int, contradiction_id: int, token_budget: int
    ) -> None:
        self.engine, self.encoder, self.token_budget = engine, encoder, token_budget
        self._halvings, self._waits, self._failed = 0, MEMORY_WAITS, False
        self.label_ids = [entailment_id, contradiction_id]

    @classmethod
    def load(cls, spec: TeacherSpec) -> Teacher:
        """Load by name. Raises ModelError for what is not an NLI classifier or cannot be found, and ConfigError."""
        config = teacher_config(spec)
        entailment_id, contradiction_id = nli_label_ids(config.label2id, config.num_labels, spec)
        tokenizer = load_tokenizer(spec)
        encoder = make_encoder(tokenizer, skeleton(config, spec), spec)
        engine = load_engine(spec, tokenizer.pad_token_id, probe_batches(encoder))
        return cls(
            engine,
            encoder,
            entailment_id=entailment_id,
            contradiction_id=contradiction_id,
            token_budget=token_budget(engine, encoder, spec),
        )

    def score(
        self, texts: Sequence[str], effort: Effort | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The raw logits of every pair.

        Args:
            texts: N texts.
            effort: added to, where given.

        Returns:
            (entailment, contradiction), each (N, K) float32.

        Raises:
            FloatingPointError: a logit is not finite; `args[1]` is the index of the text.
            Exception: what the tokenizer raises for a text, or the engine for a single pair, as where the memory does
                not hold it.
            DeviceLostError: see `Engine.recover`.
        """
        entailment, contradiction, faults = self.score_some(texts, effort if effort is not None else Effort())
        if faults:
            raise faults[min(faults)]
        return entailment, contradiction

    def score_some(self, texts: Sequence[str], effort: Effort) -> Scores:
        """Like `score`, but what keeps a text from being scored is returned, not raised.

        Returns:
            (entailment, contradiction) as `score`, NaN where there is no logit, and the faults by index of the text.

        Raises:
            DeviceLostError: see `Engine.recover`.
        """
        started = time.perf_counter()
        tokenized = self.tokenize(texts)
        effort.tokenize_seconds += time.perf_counter() - started
        return self.score_tokenized(tokenized, effort)

    def warm_up(self, texts: Sequence[str]) -> None:
        """Score the first few, for a clock that is to run then: first passes compile and fill caches."""
        self.score_some(texts[:WARM_UP], Effort())

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """The first half of `score_some`, which the model is not needed for."""
        return self.encoder.tokenize(texts)

    def score_tokenized(self, tokenized: TokenizedTexts, effort: Effort) -> Scores:
        """The second half of `score_some`: (N, K) float32 logits of entailment and of contradiction, and the faults."""
        num_classes = len(self.encoder.hypotheses)
        started = time.perf_counter()
        lengths = self.encoder.lengths(tokenized.lengths).reshape(-1)
        logits = np.full((len(lengths), 2), np.nan, dtype=np.float32)
        faults = dict(tokenized.faults)
        waiting = np.flatnonzero(~np.isin(np.arange(len(lengths)) // num_classes, list(faults)))
        if self._halvings:  # memory may have been short for a moment: twice what the last block ended with is tried
            self._halvings -= 1
            self.token_budget *= 2
        before = self.token_budget, self._halvings
        while len(waiting):
            known = len(faults)
            waiting = self._score_pairs(tokenized, lengths, waiting, logits, effort, faults)
            if len(faults) > known:
                self.token_budget, self._halvings = before  # it was one text that was too large, not the batch
            if len(waiting) and len(faults) - len(tokenized.faults) >= SYSTEMATIC and np.isnan(logits).all():
                shortest = waiting[[lengths[waiting].argmin()]]  # those before were the longest
                self._score_pairs(tokenized, lengths, shortest, logits, effort, faults)
                if np.isnan(logits).all():
                    faults |= dict.fromkeys(map(int, waiting // num_classes), faults[next(reversed(faults))])
                    break  # the others would take hours to fail in the same way
                waiting = waiting[waiting != shortest[0]]
        effort.forward_seconds += time.perf_counter() - started
        effort.engine, effort.fallback = engine_name(self.engine), self.engine.fallback

        if np.isfinite(logits).any():
            self._waits = MEMORY_WAITS
        by_text = logits.reshape(-1, num_classes, 2)
        for index in map(int, np.flatnonzero(~np.isfinite(by_text).all(axis=(1, 2)))):
            faults.setdefault(index, FloatingPointError("a logit of the teacher is not finite", index))
        return by_text[..., 0].copy(), by_text[..., 1].copy(), faults

    def work(self, samples: Sequence[Sequence[str]]) -> Work:
        """Count the tokens that scoring each sample would take, sorted by length within it; nothing is scored."""
        counted = [self.encoder.count_tokens(texts) for texts in samples]
        pairs = [self.encoder.lengths(lengths).reshape(-1) for lengths in counted]
        padded = [
            int(lengths.sum()) if self.engine.packs else padded_tokens(lengths, self.token_budget) for lengths in pairs
        ]
        return Work(
            text_tokens=np.concatenate(counted),
            truncated=np.array([(lengths > self.encoder.room.min()).sum() for lengths in counted]),
            tokens=np.array([lengths.sum() for lengths in pairs]),
            padded_tokens=np.array(padded),
        )

    def _score_pairs(
        self,
        tokenized: TokenizedTexts,
        lengths: Ints,
        waiting: Ints,
        logits: npt.NDArray[np.float32],
        effort: Effort,
        faults: dict[int, Exception],
    ) -> Ints:
        """Fill in the logits of pairs; what is left when a batch failed is returned.

        Where the memory ran out, the budget is halved. Else it is for a text in the batch, whose halves are tried by
        themselves. A pair that fails alone makes a fault of its text, whose other pairs are left out.
        """
        num_classes = len(self.encoder.hypotheses)
        done, fault = 0, None
        found = budget_batches(lengths[waiting], self.token_budget, padded=not self.engine.packs)
        batches = [waiting[batch] for batch in found]
        pending: deque[tuple[Ints, PendingLogits]] = deque()
        failed: list[Ints] = []

        def collect() -> None:
            pairs, found = pending[0]
            logits[pairs] = found()[:, self.label_ids]
            pending.popleft()

        def worthwhile(pairs: Ints) -> Ints:
            return pairs[~np.isin(pairs // num_classes, list(faults))]

        try:
            for pairs in batches:
                inputs = self.encoder.encode(tokenized, pairs // num_classes, pairs % num_classes)
                pending.append((pairs, self.engine.start(inputs)))
                effort.pairs += len(pairs)
                effort.tokens += int(lengths[pairs].sum())
                effort.padded_tokens += int(lengths[pairs].sum()) if self.engine.packs else inputs["input_ids"].size
                done += 1
                if len(pending) > self.engine.ahead:
                    collect()
        except Exception as error:
            if not is_for_memory(self.engine, error) and not self._failed:
                self._failed = True  # once will do: each of many texts may fail
                logger.warning("a batch failed", exc_info=True)
            fault = error.with_traceback(None)  # which would keep the activations alive
        while pending:
            try:
                collect()
            except Exception as error:  # a GPU says so when it is asked for the logits
                fault = error.with_traceback(None)
                failed.append(pending.popleft()[0])
        failed += batches[done:]
        if fault is None or not failed:
            return waiting[:0]
        self.engine.recover()
        left = np.concatenate(failed)
        if len(failed[0]) == 1:
            if is_for_memory(self.engine, fault) and self._waits:
                self._waits -= 1
                time.sleep(MEMORY_WAIT_SECONDS)
                return left
            text = int(left[0]) // num_classes
            faults[text] = fault
            return worthwhile(left)
        if not is_for_memory(self.engine, fault):
            for half in np.array_split(failed.pop(0), 2):
                failed.append(self._score_pairs(tokenized, lengths, worthwhile(half), logits, effort, faults))
            return worthwhile(np.concatenate(failed))
        self.token_budget = max(1, self.token_budget // 2)
        self._halvings += 1
        logger.warning("a batch failed (%s): %d tokens a batch from here on", first_line(fault), self.token_budget)
        return left


def token_budget(engine: Engine, encoder: PairEncoder, spec: TeacherSpec) -> int:
    """Tokens of a batch: measured on a GPU, in a second; on a CPU once, where there is much to do."""
    most = spec.batch_size * (PACKED_TOKENS if engine.packs else encoder.max_length)
    batch_of = partial(long_batch, encoder)
    if spec.use_gpu:
        return measured_budget(engine, batch_of, most)
    if spec.work < MEASURING_PAYS:
        return min(most, CPU_LEAST)
    threads = spec.threads or os.cpu_count()
    question = f"tokens of a batch of {engine_name(engine)}, {most} at most, with {threads} threads"
    budget: int = remembered(spec.fingerprint, question, lambda: cpu_budget(engine, batch_of, most))
    return budget


def probe_batches(encoder: PairEncoder) -> list[Inputs]:
    """A few batches of pairs: a short and a long one together, long ones alone, of some 500 tokens, and short ones."""
    tokenized = encoder.tokenize(PROBE_TEXTS)
    mixed = encoder.encode(tokenized, np.array([0, 1]), np.array([0, len(encoder.hypotheses) - 1]))
    short = encoder.encode(tokenized, np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64))
    return [mixed, long_batch(encoder, 512), short]


def long_batch(encoder: PairEncoder, tokens: int) -> Inputs:
    """A batch of two or more long pairs, of about so many tokens."""
    tokenized = encoder.tokenize(PROBE_TEXTS[1:])
    rows = np.arange(max(2, tokens // int(encoder.lengths(tokenized.lengths).max())))
    return encoder.encode(tokenized, np.zeros_like(rows), rows % len(encoder.hypotheses))
