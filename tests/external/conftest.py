"""What the external tests stand on: files that others wrote, maps projected without the package."""

import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy import ndimage


def pytest_collection_modifyitems(items):
    """Every external test is slow: its files are large."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def read_map():
    """Pixels of an MRC file as float64, also of one without the format's mark or stamp."""

    def read(path):
        with (
            warnings.catch_warnings(action="ignore"),
            mrcfile.open(path, permissive=True) as handle,
        ):
            return np.array(handle.data, dtype=np.float64)

    return read


@pytest.fixture
def project_map():
    """Rotate a map (z, y, x) about its centre voxel, x_view = R @ x_ref, and sum it along z."""

    def project(density, rotation):
        centre = np.full(3, len(density) // 2)
        to_reference = rotation.T[::-1, ::-1]  # on (z, y, x) indices; the map's value at R^T x_view
        view = ndimage.affine_transform(
            density, to_reference, offset=centre - to_reference @ centre, order=3
        )
        return view.sum(axis=0)

    return project


@pytest.fixture
def mirror():
    """The map of the other hand: z turned round about the centre voxel."""

    def mirrored(density):
        n = len(density)
        return density[(2 * (n // 2) - np.arange(n)) % n]

    return mirrored
