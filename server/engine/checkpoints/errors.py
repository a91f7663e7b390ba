"""The error that every step of loading a checkpoint raises."""


class CheckpointError(Exception):
    """A checkpoint cannot be loaded. The message says what is wrong and how to fix it."""
