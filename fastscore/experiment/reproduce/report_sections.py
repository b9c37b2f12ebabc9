"""What a report says, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import folder
from . import report_tables as tables
from .report_facts import Facts, listed, named, part, seeds_named, snapshot_of, whole
from .report_page import Block, Code, Commands, Folded, Heading, Paragraph, Picture, Table
from .report_recipe import PUBLISHED, departures, evaluate_command, sample_command, why_not_comparable

_MANY = 12  # a table of more rows is folded


def title(facts: Facts) -> str:
    """Of the page."""
    model, name = str(facts.plan.get("model")), part(facts.data, "train", "name")
    recipe = PUBLISHED[model].title if model in PUBLISHED else "A network"
    return f"{recipe} by the recipe of CIFAR-10" + (f", on {name}" if name and name != "cifar10" else "")


def blocks(facts: Facts, pictures: Mapping[str, Picture], faults: Sequence[str]) -> list[Block]:
    """The whole report.

    Args:
        facts: what is known.
        pictures: of :func:`report_pictures.draw`.
        faults: what stood in the way of other pictures.
    """
    return [
        Heading(title(facts), 1),
        *_progress(facts),
        *_results(facts),
        *_samples(facts, pictures),
        *_seeds(facts),
        *_snapshots(facts, pictures),
        *_training(facts, pictures),
        *_circumstances(facts),
        *_missing([*facts.unreadable, *faults]),
    ]


def _progress(facts: Facts) -> list[Block]:
    """What is done, and which stage comes next."""
    following = next((name for name, done, _ in facts.stages() if not done), None)
    command = facts.plan.get("command")
    blocks: list[Block] = []
    if following is not None:
        go_on = "; the same command goes on:" if command else "."
        blocks.append(Paragraph(f"Not done yet: what is known so far. Next comes the stage: {following}{go_on}"))
    elif facts.left_out:
        words = f"Done, but for {seeds_named(facts.left_out)}, for which there was no time in --hours {tables.number(facts.plan.get('hours'))}."
        more = part(facts.clock, "left_out", "command")
        blocks.append(Paragraph(words + (" More hours add them:" if more else ""), warning=True))
        blocks += [Commands((str(more),)), Paragraph("All else was made by:")] if more else []
    else:
        blocks.append(Paragraph("All stages are done."))
    if command:
        blocks.append(Commands((str(command),)))
    if command and not facts.out.is_absolute():
        blocks.append(
            Paragraph("Paths are relative: give all commands of this page in the folder in which that one was given.")
        )
    return [*blocks, tables.stages(facts)]


def _results(facts: Facts) -> list[Block]:
    """The numbers, and whether they may be held against the published ones."""
    blocks: list[Block] = [Heading("Results"), *map(Paragraph, tables.in_short(facts)), *_withheld(facts)]
    if facts.measures:
        words = (
            "All numbers are of the samples against the training images. Of distances less is better, of the Inception score, precision "
            "and recall more; none has a unit. A mean, standard deviation and minimum are over the seeds of the samples, of one trained "
            "network: how much another training would change them is not in them."
        )
        blocks += [tables.results(facts), Paragraph(words)]
    else:
        blocks.append(Paragraph("No set of samples is measured yet."))
    reasons = why_not_comparable(facts) if facts.plan or facts.measures else []
    if reasons:
        listed_reasons = "; ".join(reasons)
        blocks.append(Paragraph(f"Not comparable with published numbers: {listed_reasons}.", warning=True))
    elif facts.measures:
        blocks.append(
            Paragraph(
                "The published numbers are the papers' own, of CIFAR-10 without labels, 50,000 samples against the training images. "
                "Hold the mean against them; the minimum is the best of several seeds. Papers often give the KID times 1,000; here it "
                "is as it is."
            )
        )
        if departures(facts):
            blocks.append(
                Paragraph(
                    f"Measured as the papers' numbers are, but not made by the recipe: {'; '.join(departures(facts))}.",
                    warning=True,
                )
            )
    return blocks


def _withheld(facts: Facts) -> list[Block]:
    """Of which samples there are no numbers, since some are not finite."""
    found = []
    for snapshot in facts.measured():
        if snapshot in facts.broken:
            found.append(
                f"{named(snapshot)}: some of the samples that snapshots are chosen by, so that no more were drawn"
            )
        for m in facts.measures:
            bad = whole(m.get("not_finite"))
            if bad and snapshot_of(m) == snapshot:
                found.append(
                    f"{named(snapshot)}, seed {m['seed']}: {bad:,} of {tables.count(m.get('samples'))} samples"
                )
    if not found:
        return []
    words = (
        f"Not finite, and so without numbers: {'; '.join(found)}. A snapshot has no mean where a seed has no number. The run may be "
        "sampled otherwise without training again: copy "
    )
    run, hours = str(facts.out / folder.RUN), ""
    if facts.plan.get("hours") is not None and facts.iterations is not None:
        hours = f" and --iterations {facts.iterations} in place of --hours"
    return [Paragraph((words, Code(run), f" to NEW/run and reproduce with --out NEW{hours}."), warning=True)]


def _samples(facts: Facts, pictures: Mapping[str, Picture]) -> list[Block]:
    """A grid of the chosen snapshot's samples, and one of the last's."""
    blocks: list[Block] = [Heading("Samples")] if {"chosen", "last"} & set(pictures) else []
    for role, snapshot in (("chosen", facts.chosen), ("last", facts.last)):
        if role in pictures and snapshot is not None:
            seed = min((m["seed"] for m in facts.measures if snapshot_of(m) == snapshot), default=0)
            blocks += [pictures[role], Commands((sample_command(facts, snapshot, seed, 100),))]
    return blocks


def _seeds(facts: Facts) -> list[Block]:
    """The numbers of each set of samples, and the commands that make them again."""
    if not facts.measures:
        return []
    found: list[Block] = [Heading("Each set of samples"), tables.each_seed(facts)]
    lines = [f"# {named(snapshot_of(m))}, seed {m['seed']}\n{_command(facts, m)}" for m in facts.measures]
    said = Paragraph(
        (
            "Each command draws the same samples and measures them. In its metrics.json ",
            Code("frechet_distance samples_to_train"),
            ", ",
            Code("kernel_distance"),
            " and ",
            Code("inception_score"),
            " are the numbers above, to rounding; its precision and recall are to the held-out images, those above to the training images.",
        )
    )
    spread = Paragraph(
        "± is a standard deviation within a set of samples: of a kernel distance over 100 subsets, of an Inception score over ten parts."
    )
    return [*found, spread, said, Commands(tuple(lines))]


def _command(facts: Facts, record: Mapping[str, object]) -> str:
    """The one that a record names, or one like it."""
    if isinstance(record.get("command"), str):
        return str(record["command"])
    step, weights = snapshot_of(record)
    num = whole(record.get("samples", record.get("images"))) or 1000
    seed, feature = whole(record.get("seed")) or 0, str(record.get("feature") or facts.feature)
    return evaluate_command(facts, (step, weights), seed, num, feature)


def _snapshots(facts: Facts, pictures: Mapping[str, Picture]) -> list[Block]:
    """How good each snapshot was, and why the least of these numbers is not to be quoted."""
    if not facts.rows:
        return []
    found: list[Block] = [Heading("Snapshots")]
    found += [pictures["snapshots"]] if "snapshots" in pictures else []
    sizes = sorted({size for row in facts.rows if (size := whole(row.get("images"))) is not None})
    few = " or ".join(f"{size:,}" for size in sizes)
    text = (
        f"Choosing by the distance of {few} images is noisy: another seed of them may choose another snapshot. A Frechet "
        "distance of few images is larger than one of many, and that of the chosen snapshot is biased downward, since it is the least of many noisy "
        "numbers. Quote the numbers of the results instead, of samples that are drawn anew."
    )
    if {whole(row.get("seed")) for row in facts.rows} & {m["seed"] for m in facts.measures}:
        text += (
            " The samples of the seed that snapshots were chosen by begin with those very images: the numbers of the other seeds "
            "owe nothing to the choice."
        )
    found.append(Paragraph(text, warning=True))
    table = tables.snapshots(facts)
    commands = Commands(tuple(_command(facts, row) for row in facts.rows))
    if len(table.rows) > _MANY:
        found += [tables.best_snapshots(facts), Folded(f"All {len(table.rows)} snapshots", (table,))]
    else:
        found.append(table)
    return [*found, Folded("Commands that measure them again", (commands,))]


def _training(facts: Facts, pictures: Mapping[str, Picture]) -> list[Block]:
    """The loss, and where the recipe was left."""
    found: list[Block] = [Heading("Training")] if facts.plan else []
    found += [pictures["training"]] if "training" in pictures else []
    if facts.plan:
        if departures(facts):
            found.append(Table(("departures from the recipe",), tuple((words,) for words in departures(facts))))
        else:
            found.append(Paragraph("The plan names no departure from the recipe."))
        hours = facts.plan.get("hours")
        if hours is not None:
            found.append(Paragraph(_fitted(facts)))
    return found


def _fitted(facts: Facts) -> str:
    words = f"The number of iterations and of seeds was fitted into {tables.number(facts.plan.get('hours'))} hours."
    asked, planned = whole(part(facts.plan, "request", "seeds")), len(listed(facts.plan.get("seeds")))
    if asked and planned < asked:
        words += (
            f" Of {asked} seeds {planned} fit: the same command with a larger --hours adds others, and no iterations."
        )
    return words


def _circumstances(facts: Facts) -> list[Block]:
    """Data, machine and times."""
    found: list[Block] = []
    if facts.data:
        found += [Heading("Data"), tables.data(facts)]
    if facts.timing or facts.rows or facts.measures:
        found += [Heading("Machine and time"), tables.machine(facts)]
    if isinstance(facts.timing.get("rows"), list):
        text = (
            "What each stage takes, reckoned from rates that were measured before training; all is with the training:"
        )
        found += [Paragraph(text), tables.estimates(facts)]
    return found


def _missing(faults: Sequence[str]) -> list[Block]:
    """What this report could not show."""
    if not faults:
        return []
    rows: tuple[tuple[Code], ...] = tuple((Code(fault),) for fault in faults)
    return [Heading("Not in this report"), Table(("what stood in the way",), rows)]
