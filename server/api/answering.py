"""Who answers a prompt: the model alone, an adapter by name, or whom a project has promoted."""

from collections.abc import Iterator
from contextlib import contextmanager

from server.api.problems import INVALID_PROMPT, NO_PROJECTS, OTHER_BASE, Problem
from server.api.schemas import Prompt
from server.projects.ensembles import Ensemble
from server.projects.errors import BaseMismatchError
from server.serving import Serving
from server.store.projects.errors import NotFoundError


@contextmanager
def answerer(serving: Serving, prompt: Prompt) -> Iterator[Ensemble]:
    """Who it is, which no promotion takes away before the prompt is submitted within. Raises Problem."""
    if prompt.project is None:
        yield Ensemble.of_one(prompt.adapter)
        return
    if prompt.adapter is not None:
        raise Problem(INVALID_PROMPT, "send `adapter` or `project`, not both", "project")
    try:
        champions = serving.projects().champions
    except Problem as problem:
        if problem.kind is NO_PROJECTS:
            raise Problem(INVALID_PROMPT, f"this server has no projects: {problem.detail}", "project") from None
        raise
    with champions.keep_adapters():
        try:
            panel = champions.find_champion(prompt.project, prompt.task)
        except NotFoundError as error:
            raise Problem(INVALID_PROMPT, str(error), "project") from None
        except BaseMismatchError as error:
            raise Problem(OTHER_BASE, str(error), "project") from None
        yield panel
