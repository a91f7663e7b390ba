"""Who answers a prompt: the model alone, an adapter by name, or whom a project has promoted."""

from collections.abc import Iterator
from contextlib import contextmanager

from server.api.problems import INVALID_PROMPT, NO_PROJECTS, OTHER_BASE, Problem
from server.api.schemas import Prompt
from server.projects.ensembles import Ensemble, alone
from server.serving import Serving
from server.store.projects.records import BaseMismatchError, NotFoundError


@contextmanager
def answerer(serving: Serving, prompt: Prompt) -> Iterator[Ensemble]:
    """Who it is, which no promotion takes away before the prompt is submitted within. Raises Problem."""
    if prompt.project is None:
        yield alone(prompt.adapter)
        return
    if prompt.adapter is not None:
        raise Problem(INVALID_PROMPT, "send `adapter` or `project`, not both", "project")
    try:
        champions = serving.projects().champions
    except Problem as problem:
        if problem.kind is NO_PROJECTS:
            raise Problem(INVALID_PROMPT, f"this server has no projects: {problem.detail}", "project") from None
        raise
    with champions.asking():
        try:
            panel = champions.answering(prompt.project, prompt.task)
        except NotFoundError as error:
            raise Problem(INVALID_PROMPT, str(error), "project") from None
        except BaseMismatchError as error:
            raise Problem(OTHER_BASE, str(error), "project") from None
        yield panel
