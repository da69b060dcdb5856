"""What a run says of itself at its beginning and end. Words only."""

from __future__ import annotations

import dataclasses
from typing import Any

from raydistill.errors import counted
from raydistill.progress import duration
from raydistill.quote import Quote
from raydistill.resources import Plan
from raydistill.result import DistillResult
from raydistill.specs import TextCount

# Agreement, or for multi-label the mean F1, below which a student is of little use, or may only want more updates.
LEARNT, LEARNT_SHORTLY, FEW_UPDATES = 0.5, 0.8, 100


def describe_work(texts: TextCount, num_classes: int, files: int) -> str:
    """One line on the corpus.

    Args:
        texts: how many.
    """
    number, exact, _ = texts
    about = "" if exact else "about "
    pairs = f"{about}{counted(number * num_classes, 'pair')}"
    classes = f"{num_classes} class" + "es" * (num_classes != 1)
    return f"{about}{counted(number, 'text')} × {classes} = {pairs}, in {counted(files, 'file')}"


MOST_CLASSES = 30  # of which each has a line; run.json has them all


def describe_plan(plan: Plan, *, label: bool, train: bool) -> str:
    """One line on what the stages get."""
    parts = []
    if label:
        actors = _between_counts(plan.teacher_actors_min, plan.teacher_actors_max, "teacher actor")
        parts.append(f"{actors} of {_size(plan.teacher_cpus, plan.teacher_gpus)}")
    if train:
        workers = _between_counts(plan.train_workers_min, plan.train_workers, "train worker")
        parts.append(f"{workers} of {_size(plan.train_cpus, plan.train_gpus)}")
    return f"{counted(plan.nodes, 'node')}: {', then '.join(parts)}"


def summary(
    result: DistillResult,
    labelling: dict[str, Any] | None,
    training: dict[str, Any] | None,
    quoted: dict[str, Any] | None,
    *,
    student: bool,
    log: str | None,
) -> list[tuple[str, str]]:
    """The table that closes a run.

    Args:
        labelling, training: what `run.json` says of the stages, of those there were this time.
        quoted: what it says of a quote that this time bears out.
        student: whether a student was to be trained.
    """
    counts = result.counts
    duplicates = f"{counted(counts['duplicates'], 'duplicate')}; {counts['blanks']:,} blank ones dropped"
    rows = [("texts", f"{counts['texts']:,}, {duplicates}"), ("pairs", f"{counts['pairs']:,}")]
    rejected = f"{counted(counts['rejected'], 'text')}: labels/_rejected.jsonl"
    rows += [("rejected", rejected)] if counts["rejected"] else []
    rows += [("teacher", _describe_labelling(labelling))] if labelling and labelling["engines"] else []
    rows += [("quote", _describe_outcome(quoted))] if quoted else []
    rows += [("training", _describe_training(training))] if training else []
    classes = [name for name in result.figures if name.startswith("f1/")]  # the others' names are ours
    rows += [
        (name if name in classes else name.replace("_", " "), f"{value:.4f}")
        for name, value in result.figures.items()
        if name not in classes or len(classes) <= MOST_CLASSES
    ]
    rows += [("time", ", ".join(f"{name} {duration(value)}" for name, value in result.seconds.items()))]
    rows += [("labels", result.labels)]
    rows += [("student", result.output_dir)] if student else []
    rows += [("log", log)] if log else []
    return rows


def advice(figures: dict[str, float], updates: int) -> str | None:
    """What to try where a student has learnt too little of the labels to be of use; None where it has."""
    learnt = figures.get("agreement", figures.get("f1_macro", 1.0))
    if learnt >= (LEARNT_SHORTLY if updates < FEW_UPDATES else LEARNT):
        return None
    return (
        f"The student has learnt little of the labels in {counted(updates, 'update')}: try more --num-train-epochs, "
        "a higher --learning-rate, or more texts."
    )


def describe_quote(quote: Quote, price_per_hour: float | None) -> list[tuple[str, str]]:
    """A table of what the label stage will take, in money too if the price of an hour is given."""
    about = "" if quote.exact else "about "
    told = {"50": "50% to", "90": "90% to", "99": "99% to", "100": "longest"}
    of_texts = ", ".join(f"{words} {quote.text_tokens[at]:,}" for at, words in told.items())
    rows = [
        ("texts", f"{about}{quote.texts:,}, {quote.duplicates:.1%} duplicates within a block"),
        ("tokens", f"of a text: {of_texts}; {quote.truncated:.1%} of the texts are truncated"),
        ("pairs", f"{about}{quote.pairs:,} to be scored, {quote.tokens:,} tokens, {quote.padding:.1%} padding"),
        ("teacher", f"{quote.engine}; {quote.pairs_per_second:,.0f} pairs/s in each of {quote.actors}"),
        ("time", _between(dataclasses.asdict(quote))),
    ]
    if quote.known:
        rows.insert(1, ("labelled", f"{quote.known:.1%} of the texts are labelled already"))
    if quote.rejected:
        rows.insert(3, ("rejected", f"{quote.rejected:.1%} of the texts that were tried could not be scored"))
    if price_per_hour is not None:
        amount, low, high = (_amount(cost) for cost in quote.costs(price_per_hour))
        rows.append(("cost", f"{amount} ({low} to {high}) at {price_per_hour:,.2f} an hour"))
    return rows


def _describe_outcome(quoted: dict[str, Any]) -> str:
    """A quote beside what came of it; in money too where the quote was."""
    quoted_cost, paid = quoted.get("cost"), quoted.get("actual_cost")
    cost = "" if quoted_cost is None or paid is None else f" for {_amount(paid)}, quoted at {_amount(quoted_cost)}"
    return f"{_between(quoted)}, took {duration(quoted['actual_seconds'])}{cost}"


def _between(quote: dict[str, Any]) -> str:
    return f"{duration(quote['seconds'])} ({duration(quote['low'])} to {duration(quote['high'])})"


def _amount(cost: float) -> str:
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.2g}"


def _between_counts(least: int, most: int, noun: str) -> str:
    return counted(most, noun) if least == most else f"{least} to {counted(most, noun)}"


def _describe_labelling(labelling: dict[str, Any]) -> str:
    """One line on what scored the pairs, and where the time of the actors went."""
    effort = labelling["effort"]
    parts = {name: effort[f"{name}_seconds"] for name in ("forward", "tokenize", "wait")}
    whole = sum(parts.values())
    return (
        f"{', '.join(sorted(labelling['engines']))}; "
        f"{effort['pairs'] / (whole - parts['wait']):,.0f} pairs/s per actor, "
        f"{1 - effort['tokens'] / effort['padded_tokens']:.1%} padding; its time: "
        + ", ".join(f"{name} {seconds / whole:.1%}" for name, seconds in parts.items())
        + f"; start-up {duration(labelling['startup_seconds'])}, "
        + f"merging and counting at the end {duration(labelling['seconds'] - labelling['last_block_seconds'])}, "
        + f"reading {duration(effort['read_seconds'])}, writing {duration(effort['write_seconds'])} besides"
    )


def _describe_training(training: dict[str, Any]) -> str:
    """One line on where the time of the train stage went: its first worker's, and what came before and after."""
    parts = {name: seconds for name, seconds in training["worker_seconds"].items() if name != "loading"}
    parts = {"start-up": training["seconds"] - sum(parts.values())} | parts
    updates = f"{counted(training['updates'], 'update')}, {training['padding']:.1%} padding; its time: "
    if parts["start-up"] < 0:
        return f"{updates}nearly all in an earlier run"
    return updates + ", ".join(f"{name} {seconds / training['seconds']:.1%}" for name, seconds in parts.items())


def _size(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
