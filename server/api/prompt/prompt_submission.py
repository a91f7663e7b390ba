"""Submits one prompt to the model that answers it, held to the class list of its project or adapter."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio

from prompts.class_lists import ClassList
from prompts.class_texts import split_classes
from prompts.tasks import Task, check_region_size, describe_unknown_token, find_task
from server.api.prompt.model_selection import select_model
from server.api.prompt.schemas import Prompt
from server.engine.answer_handles import AnswerHandle
from server.engine.class_prompts import submit_classes
from server.engine.errors import InvalidRequestError
from server.engine.request import Constraint, Request
from server.engine.task_tokens import find_unknown_tasks
from server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.engine.model.preprocessing import PreparedImage


@dataclass(frozen=True, slots=True)
class AcceptedPrompt:
    """A prompt that the engine answers.

    `adapter`: what answers as the response names it. `class_list`: what its labels are held to. `warnings`: for the
    client.
    """

    handle: AnswerHandle
    adapter: str | None
    class_list: ClassList | None
    warnings: tuple[str, ...] = ()


class PromptSubmission:
    """Submits the prompts of one request about one image."""

    def __init__(
        self, image: "PreparedImage", engine: "Engine", lifecycle: Lifecycle, client_id: str, deadline: float
    ) -> None:
        """`deadline`: when compiling a list of labels is given up, in the time of the event loop."""
        self._image, self._engine, self._lifecycle = image, engine, lifecycle
        self._client_id, self._deadline = client_id, deadline

    async def submit(self, prompt: Prompt) -> AcceptedPrompt:
        """Submits a prompt: one request to the engine, or one for each of the classes in its text.

        Raises ProblemError, PromptError, TimeoutError, and what `Engine.submit` does.
        """
        if prompt.region is not None:
            check_region_size(prompt.region)
        task = find_task(prompt.task)
        classes = split_classes(task, prompt.text)
        request = self._create_request(prompt, task, classes)
        class_list, can_hold, warnings = await self._prepare_class_list(prompt, request)
        with select_model(self._lifecycle, self._engine, prompt) as model:

            def submit(own: Request) -> AnswerHandle:
                return model.ensemble.submit_held(self._engine.submit, own, class_list, model.known if can_hold else {})

            handle = submit_classes(submit, request, classes)
        unknown = find_unknown_tasks(self._engine, [task.token], model.ensemble.members)
        warnings += map(describe_unknown_token, unknown)
        if class_list is not None and class_list == model.class_list:
            warnings += (
                f"{member}, which answers beside the adapters, has no class list and is not held"
                for member in model.free_members
            )
        return AcceptedPrompt(handle, model.ensemble.name, class_list, tuple(warnings))

    def _create_request(self, prompt: Prompt, task: Task, classes: Sequence[str]) -> Request:
        text = classes[0] if classes else prompt.text
        assert text is None or isinstance(text, str)  # `split_classes` refuses other lists
        return Request(
            self._image,
            task,
            text,
            prompt.region,
            prompt.max_new_tokens,
            prompt.num_beams,
            constrain=prompt.constrain.to_constraint() if prompt.constrain else None,
            client=self._client_id,
            interactive=prompt.priority != "job",
            timeout=self._lifecycle.settings.request_timeout,
        )

    async def _prepare_class_list(self, prompt: Prompt, request: Request) -> tuple[ClassList | None, bool, list[str]]:
        """Returns what the labels of the answer are held to: the request's own labels, or the class list of the model;
        None if nothing holds them. And whether the model can be held, for which it is then compiled, with warnings if
        it cannot.

        Raises ProblemError, InvalidRequestError or TimeoutError.
        """
        if isinstance(request.constrain, Constraint) and request.constrain.labels is not None:
            await self._compile(request)
            return ClassList(request.constrain.labels, "request"), True, []
        with select_model(self._lifecycle, self._engine, prompt) as model:
            class_list, held = model.class_list, model.hold(request)
        if class_list is None or prompt.any_class or not request.task.answers_classes:
            return None, False, []
        if warning := class_list.warning:
            return class_list, False, [warning]
        try:
            for own in held:
                await self._compile(own)
        except InvalidRequestError as error:  # the tokenizer cannot write one of the names
            return class_list, False, [class_list.describe_problem(str(error))]
        return class_list, True, []

    async def _compile(self, request: Request) -> None:
        """Compiles the labels of a request in a thread, as that takes up to a tenth of a second. The engine keeps
        them."""
        constraint = request.constrain
        if not isinstance(constraint, Constraint) or constraint.labels is None:
            return
        if self._engine.find_constraint(request.task, constraint) is not None:
            return
        async with asyncio.timeout_at(self._deadline):
            compile_constraint = partial(self._engine.compile_constraint, request.task, constraint)
            await anyio.to_thread.run_sync(compile_constraint, limiter=self._lifecycle.constraint_limiter)
