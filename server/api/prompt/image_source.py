"""Loads the image of a prompt: from base64, a data URL, a file or a URL."""

from typing import TYPE_CHECKING

import anyio
import numpy as np

from server.api.base64_images import decode_base64_image
from server.api.decoding_errors import translate_decoding_errors
from server.api.problems import INVALID_IMAGE, ProblemError
from server.api.prompt.body import PromptBody
from server.api.prompt.remote_images import fetch_image
from server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.engine.model.preprocessing import PreparedImage


async def load_image(body: PromptBody, lifecycle: Lifecycle, engine: "Engine", client_id: str) -> "PreparedImage":
    """Returns the image of a client with EXIF orientation applied, prepared for the engine. Raises ProblemError."""
    prompt_request, settings = body.prompt_request, lifecycle.settings
    field = "image"
    if body.file is not None:
        data = body.file
    elif prompt_request.image_url is not None:
        field = "image_url"
        if not settings.allow_image_urls:
            detail = "this server does not fetch images; send the image itself as `image`"
            raise ProblemError(INVALID_IMAGE, detail, field)
        data = await fetch_image(prompt_request.image_url, settings.max_body_bytes, settings.image_url_timeout)
    else:
        data = await anyio.to_thread.run_sync(decode_base64_image, prompt_request.image or "")
    with translate_decoding_errors(field):
        decoded = await lifecycle.decoding.decode(data, engine.resizing, client_id)
    width, height, _ = engine.resizing
    pixels = np.frombuffer(decoded.pixels, np.uint8).reshape(height, width, 3)
    return engine.prepare_resized(decoded.size, pixels)
