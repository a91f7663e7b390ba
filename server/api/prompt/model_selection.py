"""Selects the model that answers a prompt: the base model, an adapter, or the champion of a project."""

from collections.abc import Iterator
from contextlib import contextmanager

from server.api.error_handlers import create_unavailable_problem
from server.api.problems import BASE_MISMATCH, INVALID_PROMPT, ProblemError
from server.api.prompt.schemas import Prompt
from server.lifecycle import Lifecycle, ProjectsDisabledError, UnavailableError
from server.projects.ensembles import Ensemble
from server.projects.errors import BaseMismatchError
from server.store.projects.errors import NotFoundError


@contextmanager
def select_model(lifecycle: Lifecycle, prompt: Prompt) -> Iterator[Ensemble]:
    """Yields the model that answers a prompt. Raises ProblemError.

    Its adapters stay loaded until the block ends: submit the prompt within it.
    """
    if prompt.project is None:
        yield Ensemble.of_one(prompt.adapter)
        return
    if prompt.adapter is not None:
        raise ProblemError(INVALID_PROMPT, "send `adapter` or `project`, not both", "project")
    try:
        champions = lifecycle.require_projects().champions
    except ProjectsDisabledError as error:
        raise ProblemError(INVALID_PROMPT, f"this server has no projects: {error}", "project") from None
    except UnavailableError as error:
        raise create_unavailable_problem(error) from None
    with champions.keep_adapters():
        try:
            ensemble = champions.find_champion(prompt.project, prompt.task)
        except NotFoundError as error:
            raise ProblemError(INVALID_PROMPT, str(error), "project") from None
        except BaseMismatchError as error:
            raise ProblemError(BASE_MISMATCH, str(error), "project") from None
        yield ensemble
