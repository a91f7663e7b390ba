"""The options of processes that decode images. Imports nothing: the settings of the server need it."""

from dataclasses import dataclass

DECODE_SECONDS = 10.0
"""Computing time for one image. The largest that are allowed take up to 3 s as JPEG or PNG, and longer as JPEG 2000."""


@dataclass(frozen=True, slots=True)
class DecoderOptions:
    """How a pool decodes.

    `seconds`: computing time for one image. `quick`: images that take longer, or are expected to, raise SlowImageError
    instead of ImageError, and a process is started before the next image needs it. `nice`: how much the processes
    yield to others. `allow_netpbm`: whether PPM, PGM and PBM files are decoded.
    """

    seconds: float = DECODE_SECONDS
    quick: bool = False
    nice: int = 0
    allow_netpbm: bool = True
