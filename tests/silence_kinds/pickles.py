"""Changes to cryoDRGN's pickles.

Left out, because no reader can know them from the file: rows of another order or of another stack
of as many images, transposed rotations, translations below a pixel in pixels, angles in radians.
"""

import pickle
from dataclasses import replace

import numpy as np

from silence_kinds.cryosparc import CTF
from silence_kinds.scene import BOX, Truth, kind


def pickles_of(true: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations, translations and CTFs, in the order of the stack."""
    order = np.argsort(true.place)
    ordered, count = true.rows(order), len(true)
    ctf = [np.full(count, BOX), ordered.pixel_size, *(ordered.ctf[key] for key in CTF.values())]
    width = BOX * ordered.pixel_size[:, None]
    return ordered.rotations, -ordered.shifts / width, np.stack(ctf, axis=1)


def of_pickles(what: str, *, sound: bool = False):
    """A kind that changes the three arrays; it returns them and what they now describe."""

    def add(change):
        @kind(f"pickles: {what}")
        def run(scene):
            true = scene.truth()
            rotations, translations, ctf, changed = change(*pickles_of(true), true, scene)
            stack, protocol = scene.write_stack(true), int(scene.rng.integers(6))
            pose = rotations if translations is None else (rotations, translations)
            for name, content in (("pose", pose), ("ctf", ctf)):
                (scene.folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
            poses_pkl, ctf_pkl = (scene.folder / f"{name}.pkl" for name in ("pose", "ctf"))
            return scene.trial(stack, changed, sound=sound, poses_pkl=poses_pkl, ctf_pkl=ctf_pkl)

        return change

    return add


@of_pickles("unchanged", sound=True)
def pickles_unchanged(rotations, translations, ctf, true, scene):
    return rotations, translations, ctf, true


@of_pickles("byte order, precision or order in memory", sound=True)
def other_arrays(rotations, translations, ctf, true, scene):
    change = scene.choose(lambda x: x.astype(">f8"), lambda x: x.astype("f4"), np.asfortranarray)
    return change(rotations), change(translations), change(ctf), true


@of_pickles("translations in pixels or Å")
def translations_unit(rotations, translations, ctf, true, scene):
    factor = scene.choose(BOX, BOX * true.pixel_size[0])
    return rotations, translations * factor, ctf, None


@of_pickles("CTFs of a larger box", sound=True)
def larger_box(rotations, translations, ctf, true, scene):
    ctf[:, 0], ctf[:, 1] = 2 * BOX, ctf[:, 1] / 2
    return rotations, translations, ctf, true


@of_pickles("columns of the CTF in another order")
def ctf_columns(rotations, translations, ctf, true, scene):
    a, b = scene.choose((3, 6), (4, 2), (5, 6))  # others are refused: a voltage of 0.1 kV, ...
    ctf[:, [a, b]] = ctf[:, [b, a]]
    return rotations, translations, ctf, None


for name, columns, factor in (
    ("defocus in µm", [2, 3], 1e-4),
    ("voltage in V", [5], 1e3),
    ("voltage in MV", [5], 1e-3),
    ("spherical aberration in µm", [6], 1e3),
    ("amplitude contrast in percent", [7], 100),
    ("a pixel size in µm", [1], 1e-4),
):

    @of_pickles(name)
    def unit(rotations, translations, ctf, true, scene, columns=columns, factor=factor):
        ctf[:, columns] *= factor
        return rotations, translations, ctf, None


@of_pickles("matrices that are no rotations")
def no_rotations(rotations, translations, ctf, true, scene):
    wrong = rotations * scene.choose(np.array([1, 1, -1]), 2.0, 0.0)
    return wrong, translations, ctf, None


@of_pickles("poses of no alignment")
def pickled_identity(rotations, translations, ctf, true, scene):
    return np.stack([np.eye(3)] * len(true)), translations * 0, ctf, None


@of_pickles("an image of another pixel size")
def pickled_pixel_size(rotations, translations, ctf, true, scene):
    sizes = true.pixel_size.copy()
    sizes[::2] *= 1.02
    order = np.argsort(true.place)
    ctf[:, 1] = sizes[order]
    translations = -true.shifts[order] / (BOX * sizes[order, None])
    return rotations, translations, ctf, replace(true, pixel_size=sizes)


@of_pickles("fewer rows, or one more")
def other_count(rotations, translations, ctf, true, scene):
    if scene.rng.integers(2):
        return rotations[:-1], translations[:-1], ctf, None
    return rotations, translations, np.concatenate([ctf, ctf[:1]]), None
