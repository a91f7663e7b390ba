"""Prompt lookup (Saxena 2023): grounding repeats phrases of its prompt, so the prompt says what is likely to come."""

from collections.abc import Sequence


def draft(prompt: Sequence[int], said: Sequence[int], count: int) -> list[int]:
    """At most `count` tokens to guess after `said`: those that follow, in the prompt, the last place where its newest
    two tokens stand, or its newest one."""
    for size in (2, 1):
        tail = list(said[-size:])
        if len(tail) < size:
            continue
        for start in range(len(prompt) - size - 1, -1, -1):
            if list(prompt[start : start + size]) == tail:
                # The prompt's own end token is no guess: the answer goes on with a place there.
                return list(prompt[start + size : -1][:count])
    return []
