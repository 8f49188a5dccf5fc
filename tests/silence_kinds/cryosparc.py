"""Changes to cryoSPARC's .cs files.

Left out, because no reader can know them from the file: shifts in Å, and `ctf/scale` and
`alignments3D/alpha` (scales of the image: its contrast is found in its likelihood anyway).
"""

import gzip
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryostar_nb.io.cryosparc import write_cs
from silence_kinds.scene import BOX, Scene, Truth, kind

Table = dict[str, np.ndarray]
CTF = {
    "ctf/df1_A": "defocus_u",
    "ctf/df2_A": "defocus_v",
    "ctf/df_angle_rad": "defocus_angle_deg",
    "ctf/accel_kv": "voltage_kv",
    "ctf/cs_mm": "spherical_aberration_mm",
    "ctf/amp_contrast": "amplitude_contrast",
    "ctf/phase_shift_rad": "phase_shift_deg",
}


def fields_of(scene: Scene, true: Truth) -> Table:
    """The fields of a .cs file, made here, or by this package's writer and read again."""
    if scene.rng.integers(2):
        path = scene.folder / "own.cs"
        write_cs(path, true.particles(scene.stack))
        table = np.load(path)
        return {name: table[name] for name in table.dtype.names}
    count = len(true)
    pose = Rotation.from_matrix(np.swapaxes(true.rotations, 1, 2)).as_rotvec()
    size = true.pixel_size * scene.choose(1, 2)  # of the alignment, often larger than the image's
    return {
        "uid": scene.rng.integers(1, 2**60, count).astype(np.uint64),
        "blob/path": np.array([scene.choose(b"stack.mrcs", b">stack.mrcs")] * count),
        "blob/idx": true.place.astype("<u4"),
        "blob/shape": np.full((count, 2), BOX, dtype="<u4"),
        "blob/psize_A": true.pixel_size.astype("<f4"),
        "blob/sign": np.ones(count, dtype="<f4"),
        **{
            name: (np.deg2rad(true.ctf[key]) if name.endswith("_rad") else true.ctf[key]).astype(
                "<f4"
            )
            for name, key in CTF.items()
        },
        "alignments3D/pose": pose.astype("<f4"),
        "alignments3D/shift": (-true.shifts / size[:, None]).astype("<f4"),
        "alignments3D/psize_A": size.astype("<f4"),
    }


def save(path, fields: Table, *, order: str = "<") -> None:
    """Write a structured array by NumPy."""
    types = [
        (name, values.dtype.newbyteorder(order), values.shape[1:])
        for name, values in fields.items()
    ]
    table = np.empty(len(next(iter(fields.values()))), dtype=types)
    for name, values in fields.items():
        table[name] = values
    with path.open("wb") as handle:
        np.save(handle, table)


def of_fields(what: str, *, sound: bool = False, microscopes: int = 2):
    """A kind that changes fields; it returns the particles that they now describe."""

    def add(change):
        @kind(f".cs: {what}")
        def run(scene):
            true = scene.truth(microscopes=microscopes)
            fields, path = fields_of(scene, true), scene.folder / "particles.cs"
            changed = change(fields, true, scene)
            scene.write_stack(true)
            save(path, fields)
            return scene.trial(path, changed, sound=sound)

        return change

    return add


def permute(table: Table, scene: Scene) -> None:
    """Put the rows of a table into another order."""
    order = scene.rng.permutation(len(table["uid"]))
    table |= {name: values[order] for name, values in table.items()}


@of_fields("unchanged", sound=True)
def unchanged(fields, true, scene):
    return true


@of_fields("rows in another order", sound=True)
def rows_permuted(fields, true, scene):
    permute(fields, scene)
    return true


@of_fields("fields in another order", sound=True)
def fields_permuted(fields, true, scene):
    for name in scene.rng.permutation(list(fields)).tolist():
        fields[name] = fields.pop(name)
    return true


@kind(".cs: byte order")
def byte_order(scene):
    true = scene.truth()
    save(scene.folder / "particles.cs", fields_of(scene, true), order=">")
    scene.write_stack(true)
    return scene.trial(scene.folder / "particles.cs", true)


@of_fields("types of numbers and text", sound=True)
def other_types(fields, true, scene):
    fields["alignments3D/pose"] = fields["alignments3D/pose"].astype("<f8")
    fields["blob/idx"] = fields["blob/idx"].astype(scene.choose("<i8", "<u2", "<i4"))
    fields["blob/path"] = fields["blob/path"].astype(scene.choose("U20", "S40"))
    return true


def of_bytes(what: str, change) -> None:
    """A kind that changes the bytes of a file, which must then be refused."""

    @kind(f".cs: {what}")
    def run(scene):
        true, path = scene.truth(), scene.folder / "particles.cs"
        save(path, fields_of(scene, true))
        path.write_bytes(change(path.read_bytes()))
        scene.write_stack(true)
        return scene.trial(path, None)


of_bytes("two files joined", lambda content: content + content)
of_bytes("a file cut", lambda content: content[:-40])
of_bytes("gzipped content", gzip.compress)


@of_fields("a row twice")
def row_twice(fields, true, scene):
    row = scene.rng.integers(len(true))
    for name, values in fields.items():
        fields[name] = np.concatenate([values, values[row : row + 1]])
    fields["uid"][-1] += scene.choose(0, 1)


@of_fields("a row twice, its file by another path")
def row_twice_other_path(fields, true, scene):
    row_twice(fields, true, scene)
    fields["blob/path"] = fields["blob/path"].astype("S20")
    fields["blob/path"][-1] = b"./stack.mrcs"


@of_fields("images counted one off")
def one_off(fields, true, scene):
    fields["blob/idx"] = fields["blob/idx"].astype(np.int64) + scene.choose(-1, 1)


@of_fields("angles in degrees")
def degrees(fields, true, scene):
    name = "ctf/df_angle_rad"
    fields[name] = np.rad2deg(fields[name])


@of_fields("phase shifts in degrees")
def phase_degrees(fields, true, scene):
    fields["ctf/phase_shift_rad"] = np.linspace(20, 120, len(true), dtype=np.float32)


@of_fields("poses in degrees")
def pose_degrees(fields, true, scene):
    fields["alignments3D/pose"] = np.rad2deg(fields["alignments3D/pose"])


for name, column, factor in (
    ("voltage in V", "ctf/accel_kv", 1e3),
    ("voltage in MV", "ctf/accel_kv", 1e-3),
    ("amplitude contrast in percent", "ctf/amp_contrast", 100),
    ("spherical aberration in µm", "ctf/cs_mm", 1e3),
):

    @of_fields(name)
    def unit(fields, true, scene, column=column, factor=factor):
        fields[column] = fields[column] * np.float32(factor)


@of_fields("defocus in µm")
def defocus_unit(fields, true, scene):
    for name in ("ctf/df1_A", "ctf/df2_A"):
        fields[name] = fields[name] * np.float32(1e-4)


@of_fields("poses of no alignment")
def no_alignment(fields, true, scene):
    count = scene.choose(len(true), len(true) * 3 // 4)
    fields["alignments3D/pose"][:count] = 0
    fields["alignments3D/shift"][:count] = 0


@of_fields("a group of another pixel size")
def other_pixel_size(fields, true, scene):
    sizes = true.pixel_size.copy()
    sizes[::2] *= scene.choose(1.008, 1.02, 1.3)
    fields["blob/psize_A"] = sizes.astype(np.float32)
    return replace(true, pixel_size=sizes)


@of_fields("a box of another size")
def other_box(fields, true, scene):
    fields["blob/shape"] = fields["blob/shape"] * 2


@of_fields("the sign of the images")
def sign(fields, true, scene):
    signs = np.full(len(true), -1.0, dtype=np.float32)
    signs[:: scene.choose(2, 1000)] = scene.choose(1, -1)
    fields["blob/sign"] = signs
    return replace(true, uses=("blob/sign",))  # where it is followed, `images` are still the disk's


@of_fields("aberrations")
def aberrations(fields, true, scene):
    name, size = scene.choose(
        ("ctf/tilt_A", 2), ("ctf/trefoil_A", 2), ("ctf/tetra_A", 4), ("ctf/anisomag", 4)
    )
    fields[name] = np.full((len(true), size), 0.05 if size == 4 else 500, dtype=np.float32)
    return replace(true, uses=(name,))


@of_fields("classes of an ab-initio job", sound=True)
def classes(fields, true, scene):
    for name in ("pose", "shift", "psize_A"):
        fields[f"alignments_class_1/{name}"] = fields.pop(f"alignments3D/{name}")
        other = fields[f"alignments_class_1/{name}"]
        fields[f"alignments_class_0/{name}"] = other if name == "psize_A" else other * 0
    fields["alignments_class_1/class_posterior"] = np.full(len(true), 0.9, dtype=np.float32)
    fields["alignments_class_0/class_posterior"] = np.full(len(true), 0.1, dtype=np.float32)
    return true


@of_fields("particles of two classes")
def two_classes(fields, true, scene):
    classes(fields, true, scene)
    fields["alignments_class_1/class_posterior"][::2] = 0.05
