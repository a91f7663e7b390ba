"""What projects and their store raise, as problems."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from labels.images import ImageError
from server.api import job_problems, problems
from server.api.problems import Fault, Problem
from server.engine.adapters.errors import AdapterCapacityError, AdapterError
from server.projects.errors import (
    BaseMismatchError,
    InitialModelError,
    InvalidAnnotationsError,
    InvalidEnsembleError,
    NoTrainingDataError,
)
from server.store.projects.errors import (
    NameTakenError,
    NotFoundError,
    NothingPromotedError,
    PromotionNotEarnedError,
)

_MOST = 20  # faults that are told
logger = logging.getLogger(__name__)


@contextmanager
def told() -> Iterator[None]:
    """Turns errors into problems; those of jobs, too."""
    with job_problems.told():
        try:
            yield
        except NotFoundError as error:
            raise Problem(problems.NOT_FOUND, str(error)) from None
        except NameTakenError as error:
            raise Problem(problems.NAME_TAKEN, str(error), "name") from None
        except BaseMismatchError as error:
            raise Problem(problems.OTHER_BASE, str(error)) from None
        except NoTrainingDataError as error:
            raise Problem(problems.NOTHING_TO_LEARN, str(error)) from None
        except InitialModelError as error:
            raise Problem(problems.INVALID_REQUEST, str(error), "start") from None
        except PromotionNotEarnedError as error:
            raise Problem(problems.NOT_EARNED, str(error), "model") from None
        except NothingPromotedError as error:
            raise Problem(problems.WRONG_STATE, str(error), "task") from None
        except InvalidEnsembleError as error:
            raise Problem(problems.INVALID_REQUEST, str(error), error.field) from None
        except InvalidAnnotationsError as error:
            faults = [
                Fault(field="annotations" if f.index is None else f"annotations.{f.index}", detail=f.reason[:500])
                for f in error.problems[:_MOST]
            ]
            detail = "; ".join(f"{fault.field}: {fault.detail}" for fault in faults[:3])
            more = f"; and {len(error.problems) - 3} more" if len(error.problems) > 3 else ""
            raise Problem(problems.INVALID_LABELS, detail + more, faults[0].field, faults) from None
        except ImageError as error:
            raise Problem(problems.INVALID_PICTURE, str(error), "image") from None
        except ValidationError as error:
            raise problems.invalid(error.errors(include_url=False, include_context=False)) from None
        except AdapterCapacityError as error:
            raise Problem(problems.NO_ROOM, str(error)) from None
        except AdapterError as error:
            raise Problem(problems.INVALID_ADAPTER, str(error)[:1000]) from None
        except OSError as error:
            logger.error("the folder of projects cannot be written", exc_info=error)
            detail = f"the folder of projects cannot be written: {error.strerror or error}; its operator can mend that"
            raise Problem(problems.NO_ROOM, detail) from None
