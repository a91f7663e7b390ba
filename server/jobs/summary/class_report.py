"""What became of a job's classes: the labels that were not kept, and the classes that no label has.

The summary page, the end of `florist label` and `GET /v1/jobs/{id}/classes` show it. It is read from the results, so
that it is right after a restart and with many workers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from labels.dropped_labels import OTHER_LABELS, DroppedLabel, DropReason
from server.jobs.recipes.class_lists import describe_class_lists
from server.jobs.recipes.recipe import Recipe
from server.jobs.summary.statistics import JobStatistics
from server.jobs.summary.summary import list_expected_classes

_SHOWN = 10  # labels and classes in a line of text


@dataclass(frozen=True, slots=True)
class ClassReport:
    """The classes of a job.

    `held`: sentences about the class lists that answers were held to. `counts`: the number of labels of each class of
    the ontology or of the class lists, which may be 0. `dropped`: the labels that were not kept, most frequent first.
    `uncounted_images`: images of which that is unknown, since an older florist labeled them.
    """

    held: tuple[str, ...]
    counts: Mapping[str, int]
    dropped: tuple[DroppedLabel, ...] = ()
    uncounted_images: int = 0

    @property
    def missing(self) -> list[str]:
        """The classes that no label has."""
        return [name for name, count in self.counts.items() if not count]

    def count_dropped(self, reason: DropReason) -> list[tuple[str, int]]:
        """Returns the labels that were dropped for a reason, by all steps together, most frequent first."""
        counts = Counter[str]()
        for each in self.dropped:
            counts[each.label] += each.count if each.reason is reason else 0
        return sorted((+counts).items(), key=lambda item: (item[0] == OTHER_LABELS, -item[1], item[0]))

    def describe(self) -> Iterator[str]:
        """Yields sentences for people; none if every class has labels and nothing was dropped."""
        for reason in DropReason:
            if labels := self.count_dropped(reason):
                total = sum(count for _, count in labels)
                listed = _list_some([f"{label} {count:,}" for label, count in labels])
                yield f"not kept: {total:,} label{'s' * (total > 1)}, {reason}: {listed}"
        if missing := self.missing:
            yield f"never found: {len(missing)} of {len(self.counts)} classes: {_list_some(missing)}"
        if self.uncounted_images and self.counts:
            yield f"what was not kept is unknown for {self.uncounted_images:,} images of an older florist"


def create_class_report(
    recipe: Recipe, statistics: JobStatistics, dropped: Iterable[DroppedLabel], uncounted_images: int
) -> ClassReport:
    """Returns the report of a job whose images are counted in `statistics`. `dropped` and `uncounted_images`: what
    `JobResults.count_dropped` returns."""
    expected = list_expected_classes(recipe)
    ranked = {one.name: one.scores.count for one in statistics.rank_classes(expected)}
    counts = {name: ranked[name] for name in expected}
    return ClassReport(tuple(describe_class_lists(recipe)), counts, tuple(dropped), uncounted_images)


def _list_some(items: Sequence[str]) -> str:
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
