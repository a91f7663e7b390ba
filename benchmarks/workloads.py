"""What is asked: drawn scenes that the seedling never saw, and questions about them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL.Image import Image

from prompts.tasks import TASKS
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from seedling.scenes.scene import Scene
from server.engine.engine import Engine
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request

SEED = 50_000  # apart from the report's scenes and the demo's
LONGEST = 128  # tokens of an answer of the seedling's


def scenes(count: int, first: int = 0) -> list[Scene]:
    """The same ones at every call."""
    return [draw_scene(SEED + first + i) for i in range(count)]


def every_task(count: int, beams: int = 1, first: int = 0) -> list[Request]:
    """All tasks that a scene can be asked, for each of `count` scenes."""
    requests = []
    for i, scene in enumerate(scenes(count, first)):
        rng = np.random.default_rng((SEED + first + i, 3))
        asked = [q for token in TASKS if (q := samples.make_sample(scene, token, rng))]
        requests += [
            Request(scene.image, q.task, q.text, q.region, max_new_tokens=LONGEST, num_beams=beams) for q in asked
        ]
    return requests


def new_pictures(count: int, first: int = 0) -> list[Request]:
    """A picture each that no other call with another range has, the tasks in turn."""
    requests: list[Request] = []
    tasks = itertools.cycle(TASKS)
    for i, scene in enumerate(scenes(count, first)):
        question = None
        while question is None:  # not every task can be asked of every scene
            question = samples.make_sample(scene, next(tasks), np.random.default_rng((SEED + first + i, 5)))
        q = question
        requests.append(Request(scene.image, q.task, q.text, q.region, max_new_tokens=LONGEST, num_beams=1))
    return requests


def one_picture(image: Image, prompts: int, *, limit: int, beams: int = 1) -> list[Request]:
    """`prompts` different questions about one picture, of tasks that need no knowledge of it."""
    width, height = image.size
    found: list[Request] = []
    for i in range(prompts):
        task = list(TASKS.values())[i % len(TASKS)]
        corner = width * (0.1 + 0.02 * i), height * 0.1
        region = (*corner, width * 0.9, height * 0.9) if task.input_kind == "region" else None
        text = "a cat and a red car" if task.input_kind == "text" else None
        found.append(Request(image, task, text, region, max_new_tokens=limit, num_beams=beams))
    return found


def forced(images: Sequence[Image], lengths: Sequence[int], beams: int = 1) -> list[Request]:
    """A question a length, the pictures in turn: for weights whose answers never end by themselves."""
    tasks = [task for task in TASKS.values() if task.input_kind == "nothing"]
    return [
        Request(images[i % len(images)], tasks[i % len(tasks)], max_new_tokens=length, num_beams=beams)
        for i, length in enumerate(lengths)
    ]


def together(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """The tokens of the engine's answers, all submitted at once; a picture that several ask about is prepared once, as
    the server does."""
    prepared: dict[int, PreparedImage] = {}
    handles = []
    for request in requests:
        image = request.image
        if not isinstance(image, PreparedImage):
            image = prepared.get(id(image)) or prepared.setdefault(id(image), engine.prepare(image))
        handles.append(engine.submit(replace(request, image=image)))
    return [handle.wait().tokens for handle in handles]
