"""RELION STAR files, written for the kinds that change their text or their tables."""

import numpy as np
import pandas as pd
import starfile

from cryostar_nb.geometry import relion_angles_from_rotations
from cryostar_nb.io.star import write_star
from silence_kinds.scene import BOX, FIELDS, Scene, Trial, Truth, kind

Tables = dict[str, pd.DataFrame]
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
MICROSCOPE = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")


def tables_of(scene: Scene, true: Truth) -> Tables:
    """An optics and a particle table, made here, or by this package's writer and read again."""
    if scene.rng.integers(2):
        path = scene.folder / "own.star"
        write_star(path, true.particles(scene.stack))
        return starfile.read(path, always_dict=True)
    groups, group_of = np.unique(
        np.stack([true.ctf[name] for name in FIELDS], axis=1), axis=0, return_inverse=True
    )
    numbers = scene.rng.permutation(len(groups)) + 1
    optics = {
        "rlnOpticsGroupName": [f"opticsGroup{n}" for n in numbers],
        "rlnOpticsGroup": numbers,
        **dict(zip(MICROSCOPE, groups.T, strict=True)),
        "rlnImagePixelSize": true.pixel_size[0],
        "rlnImageSize": BOX,
        "rlnImageDimensionality": 2,
    }
    if true.phase_flipped:
        optics["rlnCtfDataArePhaseFlipped"] = 1
    particles = one_table(true).drop(columns=[*MICROSCOPE, "rlnOriginX", "rlnOriginY"])
    particles = particles.drop(columns=["rlnDetectorPixelSize", "rlnMagnification"])
    particles[list(ORIGINS)] = -true.shifts
    particles["rlnOpticsGroup"] = numbers[group_of.ravel()]
    return {"optics": pd.DataFrame(optics), "particles": particles}


def one_table(true: Truth) -> pd.DataFrame:
    """The particle table of RELION 3.0."""
    angles = relion_angles_from_rotations(true.rotations)
    return pd.DataFrame(
        {
            "rlnImageName": [f"{at + 1:06d}@stack.mrcs" for at in true.place],
            **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True)),
            "rlnOriginX": -true.shifts[:, 0] / true.pixel_size,
            "rlnOriginY": -true.shifts[:, 1] / true.pixel_size,
            "rlnDefocusU": true.ctf["defocus_u"],
            "rlnDefocusV": true.ctf["defocus_v"],
            "rlnDefocusAngle": true.ctf["defocus_angle_deg"],
            "rlnPhaseShift": true.ctf["phase_shift_deg"],
            **dict(zip(MICROSCOPE, (true.ctf[name] for name in FIELDS), strict=True)),
            "rlnMagnification": 1e4,
            "rlnDetectorPixelSize": true.pixel_size,
        }
    )


def text_of(scene: Scene, tables: Tables) -> str:
    """As starfile writes them, or by hand, aligned as RELION does."""
    simple = any(isinstance(table, dict) for table in tables.values())
    if simple or scene.rng.integers(2):
        return starfile.to_string(tables)
    lines = ["", "# version 30001", ""]
    for name, table in tables.items():
        lines += [f"data_{name}", "", "loop_"]
        lines += [f"_{column} #{i}" for i, column in enumerate(table.columns, start=1)]
        for row in table.itertuples(index=False):
            values = (f"{v:.6f}" if isinstance(v, float) else str(v) for v in row)
            lines.append(" ".join(f"{v!r:>12}" if " " in v else f"{v:>12}" for v in values) + " ")
        lines += ["", ""]
    return "\n".join(lines)


def written(scene: Scene, true: Truth | None, text: str | bytes, stack: Truth, **options) -> Trial:
    """The trial of this text beside the stack of the original particles."""
    scene.write_stack(stack)
    path = scene.folder / "particles.star"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return scene.trial(path, true, **options)


def of_tables(what: str, *, sound: bool = False, microscopes: int = 2):
    """A kind that changes the tables of 3.1; it returns the particles that they now describe."""

    def add(change):
        @kind(f"STAR: {what}")
        def run(scene):
            true = scene.truth(microscopes=microscopes)
            tables = tables_of(scene, true)
            changed = change(tables, true, scene)
            return written(scene, changed, text_of(scene, tables), true, sound=sound)

        return change

    return add
