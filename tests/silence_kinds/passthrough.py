"""Changes to the passthrough file of a .cs file, and to what the two have in common."""

import numpy as np

from silence_kinds.cryosparc import CTF, fields_of, permute, save
from silence_kinds.scene import kind


def of_passthrough(what: str, *, sound: bool = False):
    """A kind that changes a passthrough file, which holds CTFs or alignments that the other lacks.

    It is given the job's own fields, and the passthrough's.
    """

    def add(change):
        @kind(f".cs: {what}")
        def run(scene):
            true = scene.truth()
            own, path = fields_of(scene, true), scene.folder / "particles.cs"
            prefix = scene.choose("ctf/", "alignments3D/", "blob/")
            other = {name: own.pop(name) for name in list(own) if name.startswith(prefix)}
            other = {"uid": own["uid"].copy()} | other
            changed = change(own, other, true, scene)
            scene.write_stack(true)
            save(path, own)
            save(scene.folder / "passthrough.cs", other)
            through = scene.folder / "passthrough.cs"
            return scene.trial(path, changed, sound=sound, passthrough=through)

        return change

    return add


@of_passthrough("passthrough unchanged", sound=True)
def passthrough_unchanged(own, other, true, scene):
    return true


@of_passthrough("rows of the passthrough in another order", sound=True)
def passthrough_permuted(own, other, true, scene):
    permute(other, scene)
    return true


@of_passthrough("a passthrough of another job")
def passthrough_other(own, other, true, scene):
    other["uid"] = other["uid"] + np.uint64(3)


@of_passthrough("a uid twice in the passthrough")
def passthrough_twice(own, other, true, scene):
    other["uid"][0] = other["uid"][1]


@of_passthrough("a passthrough with more particles", sound=True)
def passthrough_larger(own, other, true, scene):
    for name, values in other.items():
        other[name] = np.concatenate([values[::-1], values[:2]])
    other["uid"][-2:] = [1, 2]
    return true


@of_passthrough("uids of the job in another order, images in both files")
def uid_permuted(own, other, true, scene):
    for name in ("blob/path", "blob/idx"):
        other[name] = own[name] if name in own else other[name]
        own[name] = other[name]
    own["uid"] = np.roll(own["uid"], 1)


@of_passthrough("stale alignments in the passthrough")
def stale(own, other, true, scene):
    """A class of an ab-initio job in its own file, an earlier refinement in the other."""
    names = [name for name in (*own, *other) if name.startswith("alignments3D/")]
    for name in names:
        values = own.pop(name) if name in own else other[name]
        own[name.replace("alignments3D", "alignments_class_0")] = values
        other[name] = values if name.endswith("psize_A") else values[::-1].copy()
    own["alignments_class_0/class_posterior"] = np.ones(len(true), dtype=np.float32)
    return true


@of_passthrough("stale alignments of one name in the passthrough")
def stale_same_name(own, other, true, scene):
    for name in [name for name in (*own, *other) if name.startswith("alignments3D/")]:
        own[name] = own.get(name, other.get(name))
        other[name] = own[name] if name.endswith("psize_A") else own[name][::-1].copy()
    return true


@of_passthrough("a CTF in both files")
def ctf_twice(own, other, true, scene):
    for name in CTF:
        own[name] = own.get(name, other.get(name))
    other["ctf/df1_A"] = own["ctf/df1_A"] * np.float32(1.2)
    return true
