"""Changes to MRC stacks alone, with metadata in any format.

Left out: a header's pixel size that contradicts the metadata's, which wins, as in RELION.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import starfile

from silence_kinds.cryosparc import fields_of, save
from silence_kinds.mrc import IMOD_STAMP, PIXEL_SIZE, mrc
from silence_kinds.pickles import pickles_of
from silence_kinds.scene import Scene, Truth, kind
from silence_kinds.star import tables_of


def metadata_of(scene: Scene, true: Truth) -> tuple:
    """Metadata of the stack, in one of the formats: its path, and how to read it."""
    which = scene.rng.integers(3)
    if which == 0:
        starfile.write(tables_of(scene, true), scene.folder / "particles.star", overwrite=True)
        return scene.folder / "particles.star", {}
    if which == 1:
        save(scene.folder / "particles.cs", fields_of(scene, true))
        return scene.folder / "particles.cs", {}
    rotations, translations, ctf = pickles_of(true)
    poses, ctfs = scene.folder / "pose.pkl", scene.folder / "ctf.pkl"
    pd.to_pickle((rotations, translations), poses)
    pd.to_pickle(ctf, ctfs)
    return scene.stack, {"poses_pkl": poses, "ctf_pkl": ctfs}


def of_stack(what: str, *, sound: bool = False, known: bool = True):
    """A kind that gets images in the order of the stack and returns the bytes of the file.

    A change of the images is to leave them as they are; those that are not `known` any more are
    not to be read in silence.
    """

    def add(change):
        @kind(f"stack: {what}")
        def run(scene):
            true = scene.truth(pixel_size=PIXEL_SIZE)
            path, options = metadata_of(scene, true)
            scene.stack.write_bytes(change(scene.in_stack(true), scene))
            return scene.trial(path, true if known else None, sound=sound, **options)

        return change

    return add


@kind("stack: unsigned bytes, extremes in the header")
def unsigned_stack(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    true = replace(true, images=true.images + 120)
    path, options = metadata_of(scene, true)
    data = scene.in_stack(true)
    scene.stack.write_bytes(mrc(data, 0, of="u1"))
    return scene.trial(path, true, **options)


@kind("stack: unsigned bytes, IMOD's stamp")
def unsigned_imod(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    true = replace(true, images=true.images + 120)
    path, options = metadata_of(scene, true)
    data = scene.in_stack(true)
    stamp = {38: IMOD_STAMP, 39: 0, 19: 0.0, 20: 0.0, 21: 0.0}
    scene.stack.write_bytes(mrc(data, 0, of="u1", words=stamp))
    return scene.trial(path, true, **options)


@kind("stack: signed bytes, IMOD's stamp and flag")
def signed_imod(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    path, options = metadata_of(scene, true)
    data = scene.in_stack(true)
    scene.stack.write_bytes(mrc(data, 0, words={38: IMOD_STAMP, 39: 1}))
    return scene.trial(path, true, sound=True, **options)


@kind("stack: unsigned 16-bit integers")
def unsigned_16(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    true = replace(true, images=(true.images + 110) * 300)
    path, options = metadata_of(scene, true)
    scene.stack.write_bytes(mrc(scene.in_stack(true), 6, order=scene.choose(*"<>")))
    return scene.trial(path, true, sound=True, **options)


@kind("stack: another pixel size in the header")
def header_pixel_size(scene):
    """RELION reads the STAR file's; the header's is often stale."""
    true = scene.truth(pixel_size=PIXEL_SIZE)
    path, options = metadata_of(scene, true)
    scene.stack.write_bytes(mrc(scene.in_stack(true), pixel_size=scene.choose(0.0, 1.0, 7.5)))
    return scene.trial(path, true, **options)


@kind("stack: fewer images than rows")
def fewer_images(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    path, options = metadata_of(scene, true)
    scene.stack.write_bytes(mrc(scene.in_stack(true)[:-1]))
    return scene.trial(path, None, **options)


@kind("stack: fewer images in the header than in the file")
def fewer_in_header(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    path, options = metadata_of(scene, true)
    data = scene.in_stack(true)
    scene.stack.write_bytes(mrc(data, words={2: len(data) - 2, 9: len(data) - 2}))
    return scene.trial(path, None, **options)


@kind("stack: the image number as the fastest axis")
def fastest(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    path, options = metadata_of(scene, true)
    scene.stack.write_bytes(mrc(scene.in_stack(true).transpose(1, 2, 0)))
    return scene.trial(path, None, **options)


@kind("stack: the space group of a volume")
def volume_stack(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    path, options = metadata_of(scene, true)
    scene.stack.write_bytes(mrc(scene.in_stack(true), space_group=scene.choose(1, 401)))
    return scene.trial(path, true, **options)


@kind("stack: constant images")
def constant(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    path, options = metadata_of(scene, true)
    data = scene.in_stack(true)
    data[scene.rng.integers(len(data))] = 3.0
    scene.stack.write_bytes(mrc(data))
    return scene.trial(path, None, **options)


@kind("stack: several stacks, some of one name in other folders, or single images")
def several(scene):
    true = scene.truth()
    data, single = scene.in_stack(true), scene.rng.integers(2)
    tables = tables_of(scene, true)
    if single:
        names = [f"Extract/{n:03d}.mrc" for n in true.place]
        files = {f"Extract/{n:03d}.mrc": data[n : n + 1] for n in range(len(true))}
    else:
        of, within = np.divmod(true.place, 3)
        names = [f"{n + 1}@Extract/{s}/stack.mrcs" for s, n in zip(of, within, strict=True)]
        files = {f"Extract/{s}/stack.mrcs": data[3 * s : 3 * s + 3] for s in set(of.tolist())}
    for name, images in files.items():
        (scene.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (scene.folder / name).write_bytes(mrc(images))
    tables["particles"]["rlnImageName"] = names
    path = scene.folder / scene.choose("particles.star", "Refine3D/job001/particles.star")
    path.parent.mkdir(parents=True, exist_ok=True)
    starfile.write(tables, path, overwrite=True)
    return scene.trial(path, true)


@kind("stack: a name with a backslash, of another case, or with blanks")
def odd_names(scene):
    true = scene.truth(pixel_size=PIXEL_SIZE)
    tables = tables_of(scene, true)
    name = scene.choose("Stack.mrcs", "Extract\\stack.mrcs", "a stack.mrcs")
    tables["particles"]["rlnImageName"] = [f"{n + 1}@{name}" for n in true.place]
    (scene.folder / scene.choose("stack.mrcs", name)).write_bytes(mrc(scene.in_stack(true)))
    path = scene.folder / "particles.star"
    starfile.write(tables, path, overwrite=True)
    return scene.trial(path, true)
