"""Particle files of RELION and cryoSPARC with columns that this package does not know."""

import numpy as np
import pytest

COUNT = 6
STAR = """# version 30001

data_general
_rlnRefinedBy  'somebody else'

# version 30001
data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnAngleRot #3
_rlnAngleTilt #4
_rlnAnglePsi #5
_rlnDefocusU #6
_rlnDefocusV #7
_rlnDefocusAngle #8
_rlnOpticsGroup #9
_rlnOwnColumn #10
000001@stack.mrcs  "a name.mrc"   010.000000   20.1   30.123456789012345 1.2e4 1.1e+04 5 2 007
000002@stack.mrcs\tb.mrc\t11 21 31 12001 11001 5 1 'two words'

000003@stack.mrcs  c.mrc   12 22 32 12002 11002 5 2 nan
# between the rows
000004@stack.mrcs  d.mrc   13 23 33 12003 11003 5 1 <NA>
000005@stack.mrcs  e.mrc   14 24 34 12004 11004 5 1 -
000005@stack.mrcs  e.mrc   14 24 34 12004 11004 5 1 again

data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
_rlnMtfFileName #6
1 300.000000 2.700000 0.100000 1.5000 mtf one.star
2 200.000000 2.700000 0.100000 1.5000 mtf_two.star
"""


@pytest.fixture
def star(tmp_path, rng, write_stack):
    write_stack(tmp_path / "stack.mrcs", rng.standard_normal((COUNT, 8, 8)))
    (tmp_path / "in.star").write_text(STAR.replace("mtf one.star", "mtf_one.star"))
    return tmp_path / "in.star"


@pytest.fixture
def cs(star, tmp_path, rng, write_cs_table):
    """A .cs file and its passthrough file, whose rows come in another order."""
    ones = np.ones(COUNT, dtype=np.float32)
    uid = rng.integers(1, 2**63, COUNT).astype(np.uint64)
    main = {
        "uid": uid,
        "alignments3D/pose": rng.standard_normal((COUNT, 3)).astype(np.float32),
        "alignments3D/shift": rng.standard_normal((COUNT, 2)).astype(np.float32),
        "alignments3D/psize_A": 3 * ones,
        "alignments3D/odd": rng.integers(0, 9, (COUNT, 2, 2)).astype(np.int16),
    }
    order = rng.permutation(COUNT)
    rest = {
        "uid": uid,
        "blob/path": np.array([b"stack.mrcs"] * COUNT),
        "blob/idx": np.arange(COUNT, dtype=np.uint32),
        "blob/shape": np.full((COUNT, 2), 8, dtype=np.uint32),
        "blob/psize_A": 1.5 * ones,
        **{
            f"ctf/{name}": value * ones
            for name, value in {
                "accel_kv": 300,
                "cs_mm": 2.7,
                "amp_contrast": 0.1,
                "df_angle_rad": 0.5,
            }.items()
        },
        **{
            f"ctf/{name}": rng.uniform(1e4, 2e4, COUNT).astype(np.float32)
            for name in ("df1_A", "df2_A")
        },
    }
    passthrough = write_cs_table(
        tmp_path / "pass.cs", {name: values[order] for name, values in rest.items()}
    )
    return write_cs_table(tmp_path / "in.cs", main), passthrough
