"""Selects the model that answers a prompt: the base model, an adapter, or the champion of a project."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prompts.class_lists import ClassList
from server.api.error_handlers import create_unavailable_problem
from server.api.problems import BASE_MISMATCH, INVALID_PROMPT, ProblemError
from server.api.prompt.schemas import Prompt
from server.engine.class_lists import find_adapter_class_list, hold_class_list
from server.lifecycle import Lifecycle, ProjectsDisabledError, UnavailableError
from server.projects.ensembles import Ensemble
from server.projects.errors import BaseMismatchError
from server.store.projects.errors import NotFoundError

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.engine.request import Request


@dataclass(frozen=True, slots=True)
class SelectedModel:
    """What answers a prompt, and the classes that it is held to.

    `class_list`: of the project, otherwise of the adapters; None if there is none. `known`: with a list, the
    classes that each member of the ensemble knows; none if nobody knows them.
    """

    ensemble: Ensemble
    class_list: ClassList | None
    known: Mapping[str | None, Sequence[str]]

    @property
    def free_members(self) -> list[str]:
        """Who answers beside adapters with a class list, and has none."""
        is_open = self.class_list is not None and self.class_list.is_open
        return [
            f"adapter {member}" if member else "the base model"
            for member in self.ensemble.members
            if is_open and not self.known[member]
        ]

    def hold(self, request: "Request") -> "list[Request]":
        """Returns the request to each member, held to the class list and what the member knows."""
        return [hold_class_list(request, self.class_list, known) for known in self.known.values()]


@contextmanager
def select_model(lifecycle: Lifecycle, engine: "Engine", prompt: Prompt) -> Iterator[SelectedModel]:
    """Yields the model that answers a prompt. Raises ProblemError.

    Its adapters stay loaded until the block ends: submit the prompt within it.
    """
    if prompt.project is None:
        class_list = find_adapter_class_list(engine, [prompt.adapter])
        ensemble = Ensemble.of_one(prompt.adapter)
        yield SelectedModel(ensemble, class_list, ensemble.list_known_classes(engine) if class_list else {})
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
        yield SelectedModel(ensemble, class_list, ensemble.list_known_classes(engine) if class_list else {})
