"""Selects the model that answers a prompt: the base model, an adapter, or the champion of a project."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prompts.class_lists import ClassList
from server.api.error_handlers import create_unavailable_problem
from server.api.problems import BASE_MISMATCH, INVALID_PROMPT, ProblemError
from server.api.prompt.schemas import Prompt
from server.engine.class_lists import find_adapter_class_list
from server.lifecycle import Lifecycle, ProjectsDisabledError, UnavailableError
from server.projects.ensembles import Ensemble
from server.projects.errors import BaseMismatchError
from server.store.projects.errors import NotFoundError

if TYPE_CHECKING:
    from server.engine.class_prompts import AnswerHandle
    from server.engine.engine import Engine
    from server.engine.request import Request


@dataclass(frozen=True, slots=True)
class SelectedModel:
    """What answers a prompt, and the classes that it is held to.

    `class_list`: of the project, otherwise of the adapters; None if there is none. `is_declared`: whether it is the
    project's. Only that holds the base model, which may know more classes than the adapters beside it.
    """

    ensemble: Ensemble
    class_list: ClassList | None
    is_declared: bool

    @property
    def has_free_member(self) -> bool:
        """Whether the base model answers beside adapters, without being held to their classes."""
        return self.class_list is not None and not self.is_declared and None in self.ensemble.members

    def submit(self, engine: "Engine", request: "Request", class_list: ClassList | None) -> "AnswerHandle":
        """Submits a request, held to `class_list`. Raises what the engine does."""
        return self.ensemble.submit_held(engine.submit, request, class_list, is_declared=self.is_declared)


@contextmanager
def select_model(lifecycle: Lifecycle, engine: "Engine", prompt: Prompt) -> Iterator[SelectedModel]:
    """Yields the model that answers a prompt. Raises ProblemError.

    Its adapters stay loaded until the block ends: submit the prompt within it.
    """
    if prompt.project is None:
        class_list = find_adapter_class_list(engine, [prompt.adapter])
        yield SelectedModel(Ensemble.of_one(prompt.adapter), class_list, is_declared=False)
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
            declared = champions.find_class_list(prompt.project)
        except NotFoundError as error:
            raise ProblemError(INVALID_PROMPT, str(error), "project") from None
        except BaseMismatchError as error:
            raise ProblemError(BASE_MISMATCH, str(error), "project") from None
        class_list = declared or find_adapter_class_list(engine, ensemble.members)
        yield SelectedModel(ensemble, class_list, is_declared=declared is not None)
