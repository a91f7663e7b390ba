"""The errors of loading and using LoRA adapters."""


class AdapterError(Exception):
    """An adapter cannot be used. The message says what is wrong and how to fix it."""


class UnknownAdapterError(AdapterError):
    """No adapter with this name is loaded."""


class AdapterCapacityError(AdapterError):
    """The adapter is valid, but the memory for adapters is full."""


class AdapterSuspendedError(AdapterError):
    """The adapter failed on its last prompts. It is tried again after `retry_after` seconds."""

    def __init__(self, name: str, failures: int, retry_after: float) -> None:
        super().__init__(
            f"the adapter {name} failed on its last {failures} prompts; replace it, or retry in {retry_after:.0f} s"
        )
        self.retry_after = retry_after
