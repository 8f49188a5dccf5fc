"""What an error about bad input must carry: its file, its particle and its value, in one line."""

from contextlib import contextmanager

import numpy as np
import pytest

from cryostar_nb.errors import InputError

ANY = object()


@contextmanager
def refused(file=None, *, row=None, value=ANY):
    """Expect an InputError about the file of this name, this particle, and this value."""
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    assert "\n" not in str(error)
    assert (error.file and error.file.name, error.row) == (file, row)
    if value is not ANY:
        np.testing.assert_equal(error.value, value)
