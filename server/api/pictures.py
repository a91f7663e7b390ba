"""Where a request's picture comes from: base64, a data URL, a file, or an address."""

import base64
import binascii
from collections.abc import Callable

import anyio
from PIL import Image

from labels.images import ImageError, decode_image
from server.api.problems import INVALID_PICTURE, Problem
from server.api.remote import fetch
from server.api.schemas import PromptRequest
from server.engine.model.preprocessing import PreparedImage
from server.settings import Settings


async def picture(
    asked: PromptRequest,
    file: bytes | None,
    settings: Settings,
    limiter: anyio.CapacityLimiter,
    prepare: Callable[[Image.Image], PreparedImage],
) -> PreparedImage:
    """The request's picture, upright, and made ready by `prepare`: so small it may wait. `limiter`: how many are
    decoded at once. Raises Problem."""
    source: bytes | str = file if file is not None else asked.image or ""
    field = "image"
    if asked.image_url is not None:
        field = "image_url"
        if not settings.allow_image_urls:
            raise Problem(INVALID_PICTURE, "this server fetches no pictures; send the picture itself as `image`", field)
        source = await fetch(asked.image_url, settings.max_body_bytes, settings.image_url_timeout)
    try:
        return await anyio.to_thread.run_sync(_ready, source, settings.max_pixels, prepare, limiter=limiter)
    except ImageError as error:
        raise Problem(INVALID_PICTURE, str(error), field) from error


def from_text(text: str) -> bytes:
    """Base64 or a data URL → bytes. Line breaks are taken, as `base64` writes them; nothing else foreign is."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise Problem(INVALID_PICTURE, "a data URL must be like data:image/png;base64,iVBOR…", "image")
    elif text[:8].lower().startswith(("http://", "https://")):
        raise Problem(INVALID_PICTURE, "this is an address; send it as `image_url`, or the picture itself", "image")
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        detail = "not base64: it needs the letters A-Z a-z 0-9 + / and = at the end, to a multiple of four"
        raise Problem(INVALID_PICTURE, detail, "image") from None


def _ready(source: bytes | str, max_pixels: int, prepare: Callable[[Image.Image], PreparedImage]) -> PreparedImage:
    data = from_text(source) if isinstance(source, str) else source
    return prepare(decode_image(data, max_bytes=len(data), max_pixels=max_pixels))
