"""How many labels of a job are to review, in sentences for the end of `florist label`."""

from collections.abc import Iterator, Sequence

from server.jobs.summary.statistics import JobStatistics

_SHOWN = 3  # reasons


def describe_reviews(statistics: JobStatistics, uncalibrated: Sequence[str] = ()) -> Iterator[str]:
    """Yields lines about the labels that are to review, and the thresholds of their scores.

    `uncalibrated`: the IDs of steps whose scores are no probabilities. Yields nothing if no step has a threshold and no
    label is to review.
    """
    thresholds = {step.id: step.threshold for step in statistics.steps.values() if step.threshold}
    if not thresholds and not statistics.annotations_to_review:
        return
    yield (
        f"to review: {statistics.annotations_to_review:,} of {statistics.annotations:,} labels, in "
        f"{statistics.images_to_review:,} of {statistics.images:,} images"
    )
    for kind, counts in statistics.kinds.items():
        if not counts.count:
            continue
        steps = [step for step in statistics.steps.values() if step.kind is kind and step.threshold]
        least = sorted({step.threshold for step in steps})
        if least:
            limits = " or ".join(f"{threshold:g}" for threshold in least)
            yield f"  {kind}: {counts.low:,} of {counts.count:,} have a score below {limits}"
        else:
            yield f"  {kind}: not reviewed by score ({counts.count:,})"
    others = [f"{reason} ({n:,})" for reason, n in statistics.reasons.most_common() if not reason.startswith("score ")]
    if others:
        yield f"  other reasons: {'; '.join(others[:_SHOWN])}{'; …' if len(others) > _SHOWN else ''}"
    if named := [id for id in thresholds if id in uncalibrated and statistics.steps[id].scores.count]:
        yield (
            f"  the scores of {', '.join(named)} are not calibrated: a score of 0.5 does not mean that half of such "
            "labels are right"
        )
