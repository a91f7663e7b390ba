"""Requests for benchmarks: drawn scenes that the seedling never saw in training, and prompts about them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL.Image import Image

from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Box
from prompts.tasks import FLORENCE_TASKS, TASKS
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import HOLDOUT_SET
from seedling.scenes.scene import Scene
from server.engine.engine import Engine
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request

FIRST_SEED = 50_000  # apart from the scenes of the report and of the demo
MAX_ANSWER_TOKENS = 128  # of the seedling


def draw_scenes(count: int, first: int = 0) -> list[Scene]:
    """Returns scenes number `first` to `first + count - 1`: the same in every call."""
    return [draw_scene(FIRST_SEED + first + i) for i in range(count)]


def save_scenes(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Writes scenes as PNG files and returns their paths."""
    paths = []
    for i, scene in enumerate(draw_scenes(count, first)):
        scene.image.save(path := folder / f"{i:05}.png")
        paths.append(path)
    return paths


def draw_boxed_image(seed: int) -> LabeledImage:
    """Returns a scene of the holdout glyph set, with every object boxed and named."""
    scene = draw_scene(seed, sets=(HOLDOUT_SET,), objects=(1, 4), words=(0, 2))
    boxes = tuple(Box(label=item.category, box=item.box) for item in scene.objects)
    complete = frozenset({LabelKind.OBJECTS})
    return LabeledImage(f"{seed}.png", "drawn", *scene.image.size, boxes, lambda: scene.image, complete)


def make_all_task_requests(count: int, beams: int = 1, first: int = 0) -> list[Request]:
    """Returns one request for each task that a scene allows, for each of `count` scenes."""
    requests = []
    for i, scene in enumerate(draw_scenes(count, first)):
        rng = np.random.default_rng((FIRST_SEED + first + i, 3))
        scene_samples = [s for token in FLORENCE_TASKS if (s := samples.make_sample(scene, token, rng))]
        requests += [
            Request(scene.image, s.task, s.text, s.region, max_new_tokens=MAX_ANSWER_TOKENS, num_beams=beams)
            for s in scene_samples
        ]
    return requests


def make_new_image_requests(count: int, first: int = 0) -> list[Request]:
    """Returns requests with one image each, which no other range of numbers has, and with alternating tasks."""
    requests: list[Request] = []
    tokens = itertools.cycle(FLORENCE_TASKS)
    for i, scene in enumerate(draw_scenes(count, first)):
        sample = None
        while sample is None:  # a scene may not allow every task
            sample = samples.make_sample(scene, next(tokens), np.random.default_rng((FIRST_SEED + first + i, 5)))
        s = sample
        requests.append(Request(scene.image, s.task, s.text, s.region, max_new_tokens=MAX_ANSWER_TOKENS, num_beams=1))
    return requests


def make_same_image_requests(image: Image, prompts: int, *, limit: int, beams: int = 1) -> list[Request]:
    """Returns `prompts` different requests about one image, with prompts that fit any image."""
    width, height = image.size
    requests: list[Request] = []
    for i in range(prompts):
        task = list(FLORENCE_TASKS.values())[i % len(FLORENCE_TASKS)]
        corner = width * (0.1 + 0.02 * i), height * 0.1
        region = (*corner, width * 0.9, height * 0.9) if task.input_kind == "region" else None
        text = "a cat and a red car" if task.input_kind == "text" else None
        requests.append(Request(image, task, text, region, max_new_tokens=limit, num_beams=beams))
    return requests


def make_fixed_length_requests(images: Sequence[Image], lengths: Sequence[int], beams: int = 1) -> list[Request]:
    """Returns one request per length, with alternating images, for weights whose answers never end by themselves."""
    tasks = [task for task in TASKS.values() if task.input_kind == "nothing"]
    return [
        Request(images[i % len(images)], tasks[i % len(tasks)], max_new_tokens=length, num_beams=beams)
        for i, length in enumerate(lengths)
    ]


def get_image(request: Request) -> Image:
    """Returns the image of a request that is not prepared. Raises TypeError if it is."""
    if isinstance(request.image, PreparedImage):
        raise TypeError("the image is prepared already")
    return request.image


def run_concurrently(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """Submits all requests at once and returns the tokens of their answers.

    As in the server, an image that several requests share is prepared once.
    """
    prepared: dict[int, PreparedImage] = {}
    handles = []
    for request in requests:
        image = request.image
        if not isinstance(image, PreparedImage):
            image = prepared.get(id(image)) or prepared.setdefault(id(image), engine.prepare(image))
        handles.append(engine.submit(replace(request, image=image)))
    return [handle.wait().tokens for handle in handles]
