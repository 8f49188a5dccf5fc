"""What the tests of files share."""

import pytest


@pytest.fixture
def pdb(tmp_path):
    """Write lines as a PDB file and return its path."""

    def write(*lines, name="model.pdb"):
        path = tmp_path / name
        path.write_text("\n".join([*lines, "END", ""]))
        return path

    return write
