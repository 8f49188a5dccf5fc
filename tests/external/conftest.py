"""Reading files that others wrote, and projecting a *map* without the package: what the external tests stand on."""

import warnings

import mrcfile
import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture
def read_map():
    """Pixels of an MRC file as float64. Some of these files lack the format's mark or its machine stamp; mrcfile says so."""

    def read(path):
        with (
            warnings.catch_warnings(action="ignore"),
            mrcfile.open(path, permissive=True) as handle,
        ):
            return np.array(handle.data, dtype=np.float64)

    return read


@pytest.fixture
def project_map():
    """Rotate a map (z, y, x) about its centre voxel, x_view = R @ x_ref, by cubic splines, and sum it along z."""

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
