"""Changes to the values in RELION's tables: units, poses, optics.

Left out, because no reader can know them from the file: an angle of astigmatism or a phase shift in
radians, a spherical aberration in metres (as small as that of a corrected microscope), origins of
pixels in a column of Å while all are small, poses of another refinement of the same images, images
that are mirrored, a hand or a psi of the other sign (the doctor asks the images), a misspelt
optional column (its absence is legitimate; `info` lists it as ignored), one image with two poses
(symmetry expansion), a scale of the CTF (`rlnCtfScalefactor`: the contrast of each image is found
in its likelihood anyway).
"""

from dataclasses import replace

import numpy as np

from silence_kinds.star import ORIGINS, of_tables


@of_tables("origins in pixels", sound=True)
def origins_in_pixels(tables, true, scene):
    table = tables["particles"]
    for name in ORIGINS:
        table[name.removesuffix("Angst")] = table.pop(name) / true.pixel_size
    return true


@of_tables("origins in both units, another value")
def origins_twice(tables, true, scene):
    # RELION reads those in Å.
    tables["particles"]["rlnOriginX"], tables["particles"]["rlnOriginY"] = 1.0, -2.0
    return true


@of_tables("one origin in Å and one in pixels")
def origins_mixed(tables, true, scene):
    table = tables["particles"]
    table["rlnOriginY"] = table.pop("rlnOriginYAngst") / true.pixel_size
    return true


@of_tables("one origin alone")
def one_origin(tables, true, scene):
    del tables["particles"][scene.choose(*ORIGINS)]


@of_tables("origins of another binning")
def far_origins(tables, true, scene):
    tables["particles"][list(ORIGINS)] *= 12


@of_tables("defocus in µm or nm")
def defocus_unit(tables, true, scene):
    tables["particles"][["rlnDefocusU", "rlnDefocusV"]] *= scene.choose(1e-4, 0.01)


@of_tables("defocus of the other sign")
def defocus_sign(tables, true, scene):
    tables["particles"][["rlnDefocusU", "rlnDefocusV"]] *= -1


@of_tables("defocus of one axis alone in another unit")
def one_defocus_unit(tables, true, scene):
    tables["particles"][scene.choose("rlnDefocusU", "rlnDefocusV")] *= 1e-4


@of_tables("no defocus on one axis")
def one_defocus_zero(tables, true, scene):
    tables["particles"]["rlnDefocusV"] = 0.0


@of_tables("defocus axes swapped and turned", sound=True)
def defocus_swapped(tables, true, scene):
    table = tables["particles"]
    u, v = table["rlnDefocusU"].to_numpy(), table["rlnDefocusV"].to_numpy()
    table["rlnDefocusU"], table["rlnDefocusV"] = v, u
    table["rlnDefocusAngle"] += 90
    return true


for name, column, factor in (
    ("voltage in V", "rlnVoltage", 1e3),
    ("voltage in MV", "rlnVoltage", 1e-3),
    ("spherical aberration in µm", "rlnSphericalAberration", 1e3),
    ("amplitude contrast in percent", "rlnAmplitudeContrast", 100),
):

    @of_tables(name)
    def unit(tables, true, scene, column=column, factor=factor):
        tables["optics"][column] *= factor


@of_tables("magnification or detector in another unit")
def detector_unit(tables, true, scene):
    tables["optics"] = tables["optics"].drop(columns="rlnImagePixelSize")
    tables["optics"]["rlnMagnification"] = scene.choose(1e4, 0.0)
    tables["optics"]["rlnDetectorPixelSize"] = true.pixel_size[0] * scene.choose(1e4, 1e-3)


@of_tables("angles in radians")
def radians(tables, true, scene):
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    tables["particles"][angles] = np.deg2rad(tables["particles"][angles])


@of_tables("the same rotations by other angles", sound=True)
def other_angles(tables, true, scene):
    table = tables["particles"]
    if scene.rng.integers(2):
        table[["rlnAngleRot", "rlnAnglePsi"]] += 360
    else:
        table[["rlnAngleRot", "rlnAnglePsi"]] += 180
        table["rlnAngleTilt"] *= -1
    return true


@of_tables("poses of a 2D classification")
def flat_poses(tables, true, scene):
    tables["particles"][["rlnAngleRot", "rlnAngleTilt"]] = 0.0


@of_tables("most poses without a direction of view")
def mostly_flat_poses(tables, true, scene):
    rows = tables["particles"].index[: len(true) * 3 // 4]
    tables["particles"].loc[rows, ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]] = 0.0


@of_tables("a missing angle or defocus")
def missing_column(tables, true, scene):
    column = scene.choose(
        "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnDefocusU", "rlnDefocusV"
    )
    del tables["particles"][column]


@of_tables("a name of a micrograph with blanks")
def blanks(tables, true, scene):
    names = [f"Micrographs/a grid {i}.mrc" for i in range(len(true))]
    tables["particles"].insert(int(scene.rng.integers(3)), "rlnMicrographName", names)
    return true


@of_tables("a number that is none")
def no_number(tables, true, scene):
    column = scene.choose("rlnAngleTilt", "rlnDefocusU", "rlnOriginXAngst", "rlnOpticsGroup")
    table = tables["particles"]
    table[column] = table[column].astype(object)
    table.loc[1, column] = scene.choose("nan", "15OO3", "inf", "None", "1e400", "0x10", "1_0")


@of_tables("flipped phases")
def phase_flipped(tables, true, scene):
    tables["optics"]["rlnCtfDataArePhaseFlipped"] = 1
    return replace(true, phase_flipped=True)


@of_tables("flipped phases of one group")
def some_flipped(tables, true, scene):
    flags = np.zeros(len(tables["optics"]), dtype=int)
    flags[0] = 1
    tables["optics"]["rlnCtfDataArePhaseFlipped"] = flags


@of_tables("images multiplied by their CTF")
def premultiplied(tables, true, scene):
    tables["optics"]["rlnCtfDataAreCtfPremultiplied"] = 1
    return replace(true, uses=("rlnCtfDataAreCtfPremultiplied",))


@of_tables("aberrations")
def aberrations(tables, true, scene):
    columns = {
        "rlnBeamTiltX": 0.3,
        "rlnOddZernike": "[0,0,0.5,0,0,0]",
        "rlnEvenZernike": "[0,0,0,0,0,0,0.4,0,0]",
        "rlnMagMat01": 0.02,
    }
    column = scene.choose(*columns)
    if column == "rlnMagMat01":
        for other, value in (("00", 1.0), ("10", 0.0), ("11", 1.0)):
            tables["optics"][f"rlnMagMat{other}"] = value
    if column == "rlnBeamTiltX":
        tables["optics"]["rlnBeamTiltY"] = 0.0
    tables["optics"][column] = columns[column]
    return replace(true, uses=(column,))


@of_tables("a B-factor of the CTF", sound=True)
def b_factor(tables, true, scene):
    table = tables["particles"].drop(columns="rlnCtfBfactor", errors="ignore")
    values = scene.rng.uniform(10, 80, len(true)).round(2)
    tables["particles"] = table.assign(rlnCtfBfactor=values)
    return true.with_ctf(b_factor=values)
