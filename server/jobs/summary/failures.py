"""What failed, grouped by why."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from server.jobs.summary.reasons import like
from server.store.jobs.job_store.records import Failure

_GROUPS, _NAMED = 50, 10


@dataclass(slots=True)
class Group:
    """Failures of one kind for like reasons. `named`: the first few, in order; `reason` is theirs where they all say
    the same."""

    kind: str
    reason: str
    count: int = 0
    named: list[Failure] = field(default_factory=list)

    @property
    def alike(self) -> bool:
        return all(failure.reason == self.named[0].reason for failure in self.named)


def grouped(failures: Iterable[Failure]) -> list[Group]:
    """The largest group first, what has no group of its own last; its memory does not grow with the failures."""
    groups: dict[tuple[str, str], Group] = {}
    others = Group("other", "other reasons")
    for failure in failures:
        key = failure.kind, like(failure.reason)
        if key not in groups and len(groups) < _GROUPS:
            groups[key] = Group(*key)
        group = groups.get(key, others)
        group.count += 1
        if len(group.named) < _NAMED:
            group.named.append(failure)
    for group in groups.values():
        if group.alike:
            group.reason = group.named[0].reason
    ranked = sorted(groups.values(), key=lambda group: (-group.count, group.kind, group.reason))
    return [*ranked, others] if others.count else ranked
