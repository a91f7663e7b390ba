"""Loads the image of a prompt: from base64, a data URL, a file or a URL."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from PIL import Image

from labels.images import ImageError, decode_image
from server.api.base64_images import decode_base64_image
from server.api.problems import INVALID_IMAGE, ProblemError
from server.api.prompt.body import PromptBody
from server.api.prompt.remote_images import fetch_image
from server.settings import Settings

if TYPE_CHECKING:
    from server.engine.model.preprocessing import PreparedImage


async def load_image(
    body: PromptBody,
    settings: Settings,
    limiter: anyio.CapacityLimiter,
    prepare: "Callable[[Image.Image], PreparedImage]",
) -> "PreparedImage":
    """Returns the image with EXIF orientation applied, as `prepare` returns it: it is smaller while it waits.

    `limiter` limits how many images are decoded at a time. Raises ProblemError.
    """
    prompt_request = body.prompt_request
    source: bytes | str = body.file if body.file is not None else prompt_request.image or ""
    field = "image"
    if prompt_request.image_url is not None:
        field = "image_url"
        if not settings.allow_image_urls:
            detail = "this server does not fetch images; send the image itself as `image`"
            raise ProblemError(INVALID_IMAGE, detail, field)
        source = await fetch_image(prompt_request.image_url, settings.max_body_bytes, settings.image_url_timeout)

    def decode_and_prepare() -> "PreparedImage":
        data = decode_base64_image(source) if isinstance(source, str) else source
        return prepare(decode_image(data, max_bytes=len(data), max_pixels=settings.max_pixels))

    try:
        return await anyio.to_thread.run_sync(decode_and_prepare, limiter=limiter)
    except ImageError as error:
        raise ProblemError(INVALID_IMAGE, str(error), field) from error
