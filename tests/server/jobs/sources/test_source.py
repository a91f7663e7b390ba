"""The errors of sources."""

import pickle

from server.jobs.sources import SourceImageError, SourceImageFault


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(SourceImageError("gone", SourceImageFault.MISSING)))
    assert (str(error), error.fault) == ("gone", SourceImageFault.MISSING)
