"""The errors of loading and using LoRA adapters."""


class AdapterError(Exception):
    """An adapter cannot be used. The message says what is wrong and how to fix it."""


class UnknownAdapterError(AdapterError):
    """No adapter with this name is loaded."""


class AdapterCapacityError(AdapterError):
    """The adapter is valid, but the memory for adapters is full."""
