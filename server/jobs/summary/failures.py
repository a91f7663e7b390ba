"""Failed images, grouped by reason."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from server.jobs.summary.reasons import generalize_reason
from server.store import FailedImage

_MAX_GROUPS, _MAX_EXAMPLES = 50, 10


@dataclass(slots=True)
class FailureGroup:
    """Failures of one kind with similar reasons.

    `examples` are the first few, in order. `reason` is their exact reason if they share it, or else its general form.
    """

    kind: str
    reason: str
    count: int = 0
    examples: list[FailedImage] = field(default_factory=list)

    @property
    def has_one_reason(self) -> bool:
        return all(failure.reason == self.examples[0].reason for failure in self.examples)


def group_failures(failures: Iterable[FailedImage]) -> list[FailureGroup]:
    """Returns the groups, largest first. Beyond a maximum number of groups, failures go into a last group.

    Memory does not grow with the number of failures.
    """
    groups: dict[tuple[str, str], FailureGroup] = {}
    others = FailureGroup("other", "other reasons")
    for failure in failures:
        key = failure.kind, generalize_reason(failure.reason)
        if key not in groups and len(groups) < _MAX_GROUPS:
            groups[key] = FailureGroup(*key)
        group = groups.get(key, others)
        group.count += 1
        if len(group.examples) < _MAX_EXAMPLES:
            group.examples.append(failure)
    for group in groups.values():
        if group.has_one_reason:
            group.reason = group.examples[0].reason
    ranked = sorted(groups.values(), key=lambda group: (-group.count, group.kind, group.reason))
    return [*ranked, others] if others.count else ranked
