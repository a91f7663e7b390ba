"""Prints the `file_name` of each image of the COCO file on standard input. Runs as a process of its own.

The parser is fast, but made in C, and it is used on files of strangers: a file may crash it or make it take all memory.
This process has limits, and only it ends. It imports nothing of florist, so that it starts at once.

Prints a JSON value on each line: a string, or null for an image without a name; at the end an object with `error`.
"""

import json
import os
import resource
import sys

import ijson

MAX_MEMORY = 1024 * 1024 * 1024  # bytes
_MAX_SECONDS = 1800  # of CPU time: enough for about 100 GB
_MAX_NAME = 64 * 1024  # characters
_BUFFER = 256 * 1024  # bytes


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_SECONDS, _MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        error = _print_names()
    except MemoryError:
        error = (
            f"needs more than {MAX_MEMORY:,} bytes of memory to be read: it is nested too deeply, or one of its "
            "images, names or numbers is too long"
        )
    except (ijson.JSONError, ValueError, RecursionError) as reason:
        message = reason.args[0] if reason.args and isinstance(reason.args[0], bytes) else str(reason)
        error = f"is broken or truncated: {os.fsdecode(message).partition(chr(10))[0][:200]}"
    print(json.dumps({"error": error}), flush=True)


def _print_names() -> str:
    number = 0
    # As floats: integers of any length and Decimal are slow, and a million digits crash the parser.
    for number, image in enumerate(ijson.items(sys.stdin.buffer, "images.item", buf_size=_BUFFER, use_float=True), 1):
        name = image.get("file_name") if isinstance(image, dict) else None
        if isinstance(name, str) and len(name) > _MAX_NAME:
            return f"has a name of {len(name):,} characters (image {number:,}); the limit is {_MAX_NAME:,}"
        sys.stdout.write(json.dumps(name if isinstance(name, str) else None) + "\n")
    return "" if number else "is not a COCO file with images: it has no `images`"


if __name__ == "__main__":
    main()
