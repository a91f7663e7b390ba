"""Images that a JSON body contains as base64."""

import base64
import binascii

from server.api.problems import INVALID_IMAGE, ProblemError


def decode_base64_image(text: str) -> bytes:
    """Returns the bytes of base64 text or of a data URL.

    Ignores line breaks, which the command `base64` writes, but no other foreign characters. Raises ProblemError.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ProblemError(INVALID_IMAGE, "a data URL must look like data:image/png;base64,iVBOR…", "image")
    elif text[:8].lower().startswith(("http://", "https://")):
        detail = "this is a URL; send it as `image_url`, or send the image itself"
        raise ProblemError(INVALID_IMAGE, detail, "image")
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        detail = "not base64: use the characters A-Z a-z 0-9 + / and pad with = to a multiple of four"
        raise ProblemError(INVALID_IMAGE, detail, "image") from None
