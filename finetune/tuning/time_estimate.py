"""How long a run still takes: its steps and its validations, measured while it runs."""

from finetune.tuning.config import TuneConfig

_MEMORY = 50  # steps over which the time of a step is averaged
_MIN_STEPS = 3  # before them there is no estimate
_VALIDATION_MEMORY = 3


class TimeEstimate:
    """Estimates the seconds that are left. It is steady: a single slow step hardly changes it."""

    def __init__(self, config: TuneConfig) -> None:
        self._config = config
        self._steps = self._validations = 0
        self._is_first = True
        self.step_seconds, self.validation_seconds = 0.0, 0.0

    def add_step(self, seconds: float) -> None:
        """Counts a step. The first one is left out, since it also starts processes and compiles kernels."""
        if self._is_first:
            self._is_first = False
            return
        self._steps += 1
        self.step_seconds += (seconds - self.step_seconds) / min(self._steps, _MEMORY)

    def add_validation(self, seconds: float) -> None:
        """Counts a validation."""
        self._validations += 1
        self.validation_seconds += (seconds - self.validation_seconds) / min(self._validations, _VALIDATION_MEMORY)

    @property
    def is_known(self) -> bool:
        """Whether enough steps were measured."""
        return self._steps >= _MIN_STEPS

    def count_validations(self, step: int) -> int:
        """Returns the number of validations after that of a step."""
        config = self._config
        if step >= config.steps:
            return 0
        return -(-config.steps // config.evaluate_every) - step // config.evaluate_every

    def compute_left(self, step: int) -> float | None:
        """Returns the seconds that are left after a step, with validations; None before enough steps were measured."""
        if not self.is_known:
            return None
        left = (self._config.steps - step) * self.step_seconds
        return left + self.count_validations(step) * self.validation_seconds


def format_duration(seconds: float, exact: bool = False) -> str:
    """Returns a duration such as `40 s`, `12 min` or `3 h 20 min`; if `exact`, such as `12 min 31 s`."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    if exact and seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
