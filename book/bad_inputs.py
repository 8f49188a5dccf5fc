"""Broken input and the one line that it gets: what file, which particle, what value, what to do.

`CASES` is a table for people too: `book/make_bad_input.py` writes a page of the book from it. A
case is a function that breaks something in a folder of sound files and returns the call that meets
it; `...` in its message stands for what another library says.
"""

import gzip
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np

from cryostar_nb.errors import InputError
from cryostar_nb.fourier import Band
from cryostar_nb.io.maps import read_map
from cryostar_nb.io.options import Reading
from cryostar_nb.io.problems import read_and_tell
from cryostar_nb.io.reading import read_indices, read_particles
from cryostar_nb.io.structures import read_structure
from cryostar_nb.io.vectors import load_band_vectors
from cryostar_nb.prepare.options import Choice
from cryostar_nb.prepare.select import select_particles
from cryostar_nb.runs.landscapes import kept_clusters, landscape_of
from cryostar_nb.runs.run_config import LandscapeConfig

COUNT, BOX = 4, 8  # particles, pixels
NAN = float("nan")


@dataclass(frozen=True)
class Case:
    what: str  # the input, in words
    break_it: Callable[[Path], Callable[[], object]]
    message: str  # without the folder
    file: str  # name of the file that the error is about
    row: int | None = None  # particle, counted from 1
    value: object = None


CASES: list[Case] = []


def case(what: str, message: str, **fields):
    """Put a function into the table."""

    def add(function):
        CASES.append(Case(what, function, message, **fields))
        return function

    return add


def error_of(case: Case, folder: Path) -> InputError:
    """Break the sound files in `folder` and return the error that the reader raises."""
    write_sound_files(folder)
    call = case.break_it(folder)
    try:
        call()
    except InputError as error:
        return error
    raise AssertionError(f"{case.what}: was read as if nothing were wrong")


# Sound files, and ways to change them

STAR = """data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
_rlnImageSize #6
1 300 2.7 0.1 1.5 8
2 300 2.7 0.1 1.5 8

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAngleTilt #3
_rlnAnglePsi #4
_rlnOriginXAngst #5
_rlnOriginYAngst #6
_rlnDefocusU #7
_rlnDefocusV #8
_rlnDefocusAngle #9
_rlnOpticsGroup #10
1@stack.mrcs 10 20 30 0.5 -0.5 15000 14500 5 1
2@stack.mrcs 11 21 31 0.5 -0.5 15001 14501 5 1
3@stack.mrcs 12 22 32 0.5 -0.5 15002 14502 5 2
4@stack.mrcs 13 23 33 0.5 -0.5 15003 14503 5 2
"""


def write_sound_files(folder: Path) -> None:
    """A stack of four particles with metadata in each format, and a map."""
    write_stack(folder / "stack.mrcs", np.random.default_rng(5).standard_normal((COUNT, BOX, BOX)))
    write_volume(folder / "map.mrc", np.random.default_rng(6).standard_normal((BOX, BOX, BOX)))
    (folder / "particles.star").write_text(STAR)
    write_cs(folder / "particles.cs", {})
    (folder / "pose.pkl").write_bytes(
        pickle.dumps((np.stack([np.eye(3)] * COUNT), np.zeros((COUNT, 2))))
    )
    (folder / "ctf.pkl").write_bytes(
        pickle.dumps(np.array([[BOX, 1.5, 15_000, 14_500, 5, 300, 2.7, 0.1, 0]] * COUNT))
    )


def write_stack(path: Path, images: np.ndarray) -> None:
    with mrcfile.new(path, overwrite=True) as handle:
        handle.set_data(np.zeros(images.shape, dtype=np.float32))
        handle.data[...] = images
        handle.set_image_stack()


def write_volume(
    path: Path, values: np.ndarray, voxel_size: float | tuple[float, float, float] = 1.5
) -> None:
    with mrcfile.new(path, overwrite=True) as handle:
        handle.set_data(np.zeros(values.shape, dtype=np.float32))
        handle.data[...] = values  # afterwards: set_data warns of voxels that are not finite
        handle.voxel_size = voxel_size


def patch(path: Path, place: int, content: bytes) -> None:
    """Overwrite some bytes of a file."""
    with path.open("r+b") as handle:
        handle.seek(place)
        handle.write(content)


def int32(value: int) -> bytes:
    return struct.pack("<i", value)


def write_cs(path: Path, changes: dict[str, np.ndarray | None]) -> None:
    """A .cs file of the same particles with changed fields; None leaves a field out."""
    one = np.ones(COUNT, dtype=np.float32)
    fields: dict[str, np.ndarray | None] = {
        "uid": np.arange(1, COUNT + 1, dtype=np.uint64),
        "blob/path": np.array([b"stack.mrcs"] * COUNT),
        "blob/idx": np.arange(COUNT, dtype=np.int32),
        "blob/shape": np.full((COUNT, 2), BOX, dtype=np.uint32),
        "blob/psize_A": 1.5 * one,
        "ctf/accel_kv": 300 * one,
        "ctf/cs_mm": 2.7 * one,
        "ctf/amp_contrast": 0.1 * one,
        "ctf/df1_A": 15_000 * one,
        "ctf/df2_A": 14_500 * one,
        "ctf/df_angle_rad": 0.1 * one,
        "alignments3D/pose": np.zeros((COUNT, 3), dtype=np.float32),
        "alignments3D/shift": np.zeros((COUNT, 2), dtype=np.float32),
        "alignments3D/psize_A": 1.5 * one,
    }
    kept = {name: values for name, values in (fields | changes).items() if values is not None}
    table = np.empty(
        COUNT, dtype=[(name, values.dtype, values.shape[1:]) for name, values in kept.items()]
    )
    for name, values in kept.items():
        table[name] = values
    with path.open("wb") as handle:
        np.save(handle, table, allow_pickle=True)


def star(folder: Path, *changes: tuple[str, str], **options):
    """Change the text of the STAR file; the call reads it."""
    path = folder / "particles.star"
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} comes {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text)
    return lambda: read_particles(path, Reading(**options))


def cs(folder: Path, **changes):
    """Change fields of the .cs file (`__` stands for the stroke in a name); the call reads it."""
    write_cs(
        folder / "particles.cs",
        {name.replace("__", "/"): values for name, values in changes.items()},
    )
    return lambda: read_particles(folder / "particles.cs")


def pickles(folder: Path, **contents):
    """Write other pickles (`pose`, `ctf`); the call reads the stack with them."""
    for name, content in contents.items():
        (folder / f"{name}.pkl").write_bytes(
            content if isinstance(content, bytes) else pickle.dumps(content)
        )
    reading = Reading(poses_pkl=folder / "pose.pkl", ctf_pkl=folder / "ctf.pkl")
    return lambda: read_particles(folder / "stack.mrcs", reading)


def volume(folder: Path, values: np.ndarray | None = None, **options):
    """Write another map, if there are values; the call reads it."""
    if values is not None:
        write_volume(folder / "map.mrc", values, **options)
    return lambda: read_map(folder / "map.mrc")


ROTATIONS = np.stack([np.eye(3)] * COUNT)


# Stacks


@case(
    "a stack of 0 bytes",
    "stack.mrcs: is not a complete MRC file (its header alone takes 1,024, and the file "
    "has 0 bytes); copy or export it again",
    file="stack.mrcs",
    value=0,
)
def empty_stack(folder):
    (folder / "stack.mrcs").write_bytes(b"")
    return star(folder)


@case(
    "a stack cut in its pixels",
    "stack.mrcs: is not a complete MRC file (its header asks for 4 x 8 x 8 pixels and "
    "2,048 bytes, and the file has 2,000 bytes); copy or export it again",
    file="stack.mrcs",
    value=2000,
)
def cut_stack(folder):
    content = (folder / "stack.mrcs").read_bytes()
    (folder / "stack.mrcs").write_bytes(content[:2000])
    return star(folder)


@case(
    "a header that asks for 2 billion images",
    "stack.mrcs: is not a complete MRC file (its header asks for 2147483647 x 8 x 8 "
    "pixels and 549,755,814,656 bytes, and the file has 2,048 bytes); copy or export it "
    "again",
    file="stack.mrcs",
    value=2048,
)
def too_many_images(folder):
    patch(folder / "stack.mrcs", 8, int32(2**31 - 1))
    return star(folder)


@case(
    "an extended header longer than the file",
    "stack.mrcs: is not a complete MRC file (its header asks for 4 x 8 x 8 pixels and "
    "2,147,485,695 bytes, and the file has 2,048 bytes); copy or export it again",
    file="stack.mrcs",
    value=2048,
)
def long_extension(folder):
    patch(folder / "stack.mrcs", 92, int32(2**31 - 1))
    return star(folder)


@case(
    "a negative number of images",
    "stack.mrcs: is not a complete MRC file (its header asks for -4 x 8 x 8 pixels and 0 "
    "bytes, and the file has 2,048 bytes); copy or export it again",
    file="stack.mrcs",
    value=2048,
)
def negative_images(folder):
    patch(folder / "stack.mrcs", 8, int32(-4))
    return star(folder)


@case(
    "a wrong mode byte",
    "stack.mrcs: its header has mode 99, not that of a real image (0, 1, 2, 6 or 12); "
    "export it again, as 32-bit floats",
    file="stack.mrcs",
    value=99,
)
def wrong_mode(folder):
    patch(folder / "stack.mrcs", 12, int32(99))
    return star(folder)


@case(
    "images of complex numbers",
    "stack.mrcs: its header has mode 4, not that of a real image (0, 1, 2, 6 or 12); "
    "export it again, as 32-bit floats",
    file="stack.mrcs",
    value=4,
)
def complex_images(folder):
    patch(folder / "stack.mrcs", 12, int32(4))
    return star(folder)


@case(
    "images that are not square",
    "stack.mrcs: holds an array of shape (4, 8, 9); particle images are square",
    file="stack.mrcs",
    value=(4, 8, 9),
)
def oblong_images(folder):
    write_stack(folder / "stack.mrcs", np.zeros((COUNT, BOX, BOX + 1)))
    return star(folder)


@case(
    "a stack that is not there",
    "particles.star: particle 1 has its image in gone.mrcs, and there is no file "
    "gone.mrcs; give the folder that this name starts from (--root)",
    file="particles.star",
    row=1,
    value="gone.mrcs",
)
def absent_stack(folder):
    return star(folder, ("1@stack.mrcs", "1@gone.mrcs"))


@case(
    "a pixel that is not a number",
    "particles.star: particle 3 (image 3@stack.mrcs) has a pixel of nan; remove it from the file",
    file="particles.star",
    row=3,
    value=NAN,
)
def nan_pixel(folder):
    images = np.random.default_rng(5).standard_normal((COUNT, BOX, BOX))
    images[2, 4, 4] = np.nan
    write_stack(folder / "stack.mrcs", images)
    read = star(folder)
    return lambda: load_band_vectors(read(), Band(BOX, 1.5, 3.5))


@case(
    "a compressed stack under a plain name",
    "stack.mrcs: is compressed with gzip; decompress it first (gunzip)",
    file="stack.mrcs",
    value="gzip",
)
def compressed_stack(folder):
    (folder / "stack.mrcs").write_bytes(gzip.compress((folder / "stack.mrcs").read_bytes()))
    return star(folder)


@case(
    "bytes that the header has signed and unsigned",
    "stack.mrcs: its header has a largest pixel of 200, as of unsigned bytes, and a least pixel of "
    "-3, as of signed ones; export it again, as 32-bit floats",
    file="stack.mrcs",
)
def both_signs(folder):
    patch(folder / "stack.mrcs", 12, int32(0))
    patch(folder / "stack.mrcs", 76, struct.pack("<3f", -3, 200, 90))
    return star(folder)


@case(
    "bytes that only make sense unsigned, and no word of it",
    "stack.mrcs: its pixels go from -128 to 127, and with unsigned numbers from 58 to 213, which "
    "are smoother, and its header does not say which is meant; export it again, as 32-bit floats",
    file="stack.mrcs",
)
def unsigned_bytes(folder):
    rng, header = np.random.default_rng(5), (folder / "stack.mrcs").read_bytes()[:1024]
    grey = rng.normal(130, 30, (COUNT, BOX, BOX)).round().astype(np.uint8)
    (folder / "stack.mrcs").write_bytes(header + grey.tobytes())
    patch(folder / "stack.mrcs", 12, int32(0))
    patch(folder / "stack.mrcs", 76, struct.pack("<3f", 0, -1, -2))
    return star(folder)


@case(
    "pixels in another byte order than their header",
    "stack.mrcs: its pixels go from ...; export it again, as 32-bit floats",
    file="stack.mrcs",
)
def swapped_pixels(folder):
    content = (folder / "stack.mrcs").read_bytes()
    pixels = np.frombuffer(content[1024:], dtype="<f4").astype(">f4")
    (folder / "stack.mrcs").write_bytes(content[:1024] + pixels.tobytes())
    return star(folder)


# STAR files


@case(
    "an empty STAR file",
    "particles.star: has no table with a column rlnImageName; give the particles STAR of "
    "a refinement",
    file="particles.star",
    value="rlnImageName",
)
def empty_star(folder):
    (folder / "particles.star").write_text("")
    return star(folder)


@case(
    "a STAR file that is not text",
    "particles.star: is not text (invalid start byte at byte 0); save it as UTF-8, or "
    "give a STAR file",
    file="particles.star",
    value=0,
)
def binary_star(folder):
    path = folder / "particles.star"
    path.write_bytes(b"\xff\xfe" + STAR.encode("utf-16-le"))
    return lambda: read_particles(path)


@case(
    "a particle table without its line loop_",
    "particles.star: the table data_particles has no line loop_ before its columns; add "
    "it, or write the file again",
    file="particles.star",
)
def missing_loop(folder):
    return star(folder, ("loop_\n_rlnImageName", "_rlnImageName"))


@case(
    "a row with a value too few",
    "particles.star: particle 2 (line 27) has 9 values for 10 columns; the file is cut or"
    " was edited: write it again",
    file="particles.star",
    row=2,
    value=9,
)
def short_row(folder):
    return star(folder, ("2@stack.mrcs 11 ", "2@stack.mrcs "))


@case(
    "a row with a value too many",
    "particles.star: particle 3 (line 28) has 11 values for 10 columns; the file is cut "
    "or was edited: write it again",
    file="particles.star",
    row=3,
    value=11,
)
def long_row(folder):
    return star(folder, ("3@stack.mrcs 12 ", "3@stack.mrcs 12 12 "))


@case(
    "a name with the sign of a comment",
    "particles.star: particle 1 (line 26) has a '#' in 1@stack#1.mrcs, which begins a "
    "comment; rename it",
    file="particles.star",
    row=1,
    value="1@stack#1.mrcs",
)
def comment_in_name(folder):
    return star(folder, ("1@stack.mrcs", "1@stack#1.mrcs"))


@case(
    "two tables of one name: files that were joined",
    "particles.star: has the table data_optics twice (lines 1 and 30); join files with "
    "relion_star_handler, or keep one of them",
    file="particles.star",
    value="optics",
)
def joined_files(folder):
    (folder / "particles.star").write_text(STAR + STAR)
    return star(folder)


@case(
    "particles in two tables",
    "particles.star: has rlnImageName in the tables data_particles and data_more; keep one of them",
    file="particles.star",
    value="more",
)
def two_tables(folder):
    more = STAR[STAR.index("data_particles") :].replace("data_particles", "data_more")
    (folder / "particles.star").write_text(STAR + more)
    return star(folder)


@case(
    "a quotation mark that swallows lines",
    "particles.star: data_particles has 4 lines of values, and 3 were read; look at quotation "
    "marks and ends of lines",
    file="particles.star",
    value=3,
)
def swallowed_line(folder):
    return star(folder, ("11 21 31", "'11 21 31"), ("12 22 32", "12' 22 32"))


@case(
    "a pixel size that the optics table contradicts",
    "particles.star: particle 1 has rlnImagePixelSize = 0.5, and 1.5 in the optics table; delete "
    "the column that is wrong",
    file="particles.star",
    row=1,
    value=0.5,
)
def contradicted_pixel_size(folder):
    return star(folder, ("_rlnOriginXAngst", "_rlnImagePixelSize"))


@case(
    "a pixel size that the magnification contradicts",
    "particles.star: particle 1 has rlnImagePixelSize = 1.5, and 3 Å by rlnDetectorPixelSize and "
    "rlnMagnification; delete what is wrong, or give --pixel-size, in Å",
    file="particles.star",
    row=1,
    value=1.5,
)
def other_magnification(folder):
    names = "_rlnImageSize #6\n_rlnDetectorPixelSize\n_rlnMagnification\n"
    rows = [
        (f"\n{group} 300 2.7 0.1 1.5 8", f"\n{group} 300 2.7 0.1 1.5 8 15 5e4") for group in "12"
    ]
    return star(folder, ("_rlnImageSize #6\n", names), *rows)


@case(
    "poses of a 2D classification",
    "particles.star: particle 1 has the direction of view of 4 of 4 particles; give particles of a "
    "3D refinement, or leave out those without a pose",
    file="particles.star",
    row=1,
    value=4,
)
def flat_poses(folder):
    star(folder, *((f"{10 + i} {20 + i} 3{i}", f"0 0 3{i}") for i in range(COUNT)))
    return lambda: read_and_tell(folder / "particles.star")


@case(
    "a defocus in µm",
    "particles.star: particle 1 has a defocus of 1.475 Å, less than 100 Å, as do 4 in all; give it "
    "in Å: 1 µm is 10,000 Å",
    file="particles.star",
    row=1,
    value=1.475,
)
def defocus_in_micrometres(folder):
    star(folder, *((f"1500{i} 1450{i}", "1.500 1.450") for i in range(COUNT)))
    return lambda: read_and_tell(folder / "particles.star")


@case(
    "a column twice",
    "particles.star: the table data_particles has the column rlnAngleRot twice; delete one",
    file="particles.star",
    value="rlnAngleRot",
)
def column_twice(folder):
    return star(folder, ("_rlnAngleTilt", "_rlnAngleRot"))


@case(
    "an optics group that is not in its table",
    "particles.star: particle 3 is of optics group 2, which the optics table lacks (it "
    "has [1]); add its row",
    file="particles.star",
    row=3,
    value=2,
)
def unknown_group(folder):
    return star(folder, ("2 300 2.7 0.1 1.5 8\n", ""))


@case(
    "an optics group twice",
    "particles.star: the optics table lists group 1 twice; delete one",
    file="particles.star",
    value=1,
)
def group_twice(folder):
    return star(folder, ("2 300 2.7 0.1 1.5 8\n", "1 200 2.7 0.1 1.5 8\n"))


@case(
    "particles without optics groups beside an optics table",
    "particles.star: the particle table has no column rlnOpticsGroup although there is an"
    " optics table; add it, or delete the optics table",
    file="particles.star",
    value="rlnOpticsGroup",
)
def no_groups(folder):
    return star(folder, ("_rlnOpticsGroup #10", "_rlnGroupNumber #10"))


@case(
    "a missing angle",
    "particles.star: has no column rlnAngleTilt, which the pose needs; give the particles"
    " STAR of a refinement",
    file="particles.star",
    value="rlnAngleTilt",
)
def missing_angle(folder):
    return star(folder, ("_rlnAngleTilt", "_rlnOther"))


@case(
    "a missing defocus",
    "particles.star: has no column rlnDefocusU, which the CTF needs; run CTF estimation, "
    "or give a file that has it",
    file="particles.star",
    value="rlnDefocusU",
)
def missing_defocus(folder):
    return star(folder, ("_rlnDefocusU", "_rlnOther"))


@case(
    "an angle that is not a number",
    "particles.star: particle 2 has rlnAngleTilt = nan; give a finite number",
    file="particles.star",
    row=2,
    value=NAN,
)
def nan_angle(folder):
    return star(folder, ("11 21 31", "11 nan 31"))


@case(
    "text in a column of numbers",
    "particles.star: particle 4 has rlnDefocusU = '15OO3'; give a finite number",
    file="particles.star",
    row=4,
    value="15OO3",
)
def text_for_number(folder):
    return star(folder, (" 15003 ", " 15OO3 "))


@case(
    "an image beyond the end of its stack",
    "particles.star: particle 4 is image 5 of stack.mrcs, which holds only 4; the stack "
    "is cut or the wrong one",
    file="particles.star",
    row=4,
    value=5,
)
def beyond_the_stack(folder):
    return star(folder, ("4@stack.mrcs", "5@stack.mrcs"))


@case(
    "images counted from 0",
    "particles.star: particle 1 has rlnImageName = '0@stack.mrcs'; it is written "
    "000001@stack.mrcs, counted from 1",
    file="particles.star",
    row=1,
    value="0@stack.mrcs",
)
def counted_from_zero(folder):
    return star(folder, ("1@stack.mrcs", "0@stack.mrcs"))


@case(
    "a negative pixel size",
    "particles.star: particle 1 has a pixel size of -1.5 Å; correct it or give --pixel-size",
    file="particles.star",
    row=1,
    value=-1.5,
)
def negative_pixel_size(folder):
    return star(folder, ("1 300 2.7 0.1 1.5 8", "1 300 2.7 0.1 -1.5 8"))


@case(
    "an origin along x alone",
    "particles.star: has rlnOriginXAngst and no rlnOriginYAngst; give both, or delete it "
    "where nothing is shifted",
    file="particles.star",
    value="rlnOriginYAngst",
)
def half_an_origin(folder):
    return star(folder, ("_rlnOriginYAngst", "_rlnOriginYInAngst"))


@case(
    "pixel sizes more than 5 % apart",
    "particles.star: particle 3 has a pixel size of 1.6 Å, and most others one of 1.5 Å; "
    "rescale them to one (relion_image_handler --rescale_angpix), or choose those of one "
    "size (select --optics-group)",
    file="particles.star",
    row=3,
    value=1.6,
)
def two_pixel_sizes(folder):
    return star(folder, ("2 300 2.7 0.1 1.5 8", "2 300 2.7 0.1 1.6 8"))


@case(
    "no pixel size",
    "particles.star: has neither rlnImagePixelSize nor rlnDetectorPixelSize and "
    "rlnMagnification; give the pixel size (--pixel-size, in Å)",
    file="particles.star",
)
def no_pixel_size(folder):
    return star(folder, ("_rlnImagePixelSize", "_rlnOther"))


@case(
    "a voltage of zero",
    "particles.star: particle 3 has rlnVoltage = 0; give it in kV, for example 300",
    file="particles.star",
    row=3,
    value=0.0,
)
def zero_voltage(folder):
    return star(folder, ("2 300 2.7", "2 0 2.7"))


@case(
    "a voltage in volts",
    "particles.star: particle 1 has rlnVoltage = 300000; give it in kV, for example 300",
    file="particles.star",
    row=1,
    value=300000.0,
)
def volts(folder):
    return star(folder, ("1 300 2.7", "1 300000 2.7"))


@case(
    "an amplitude contrast in percent",
    "particles.star: particle 1 has rlnAmplitudeContrast = 10; give a fraction, for example 0.1",
    file="particles.star",
    row=1,
    value=10.0,
)
def percent(folder):
    return star(folder, ("1 300 2.7 0.1", "1 300 2.7 10"))


@case(
    "a particle twice",
    "particles.star: particle 4 has the image 3@stack.mrcs and the pose of particle 3; "
    "keep each once (cryostar-nb select --unique)",
    file="particles.star",
    row=4,
    value="3@stack.mrcs",
)
def particle_twice(folder):
    return star(folder, ("4@stack.mrcs 13 23 33", "3@stack.mrcs 12 22 32"))


@case(
    "two stacks of other boxes",
    "particles.star: particle 4 has a box of 10 pixels, and stack.mrcs has boxes of 8; "
    "extract all with one box",
    file="particles.star",
    row=4,
    value=10,
)
def two_boxes(folder):
    write_stack(folder / "other.mrcs", np.zeros((COUNT, 10, 10)))
    return star(folder, ("4@stack.mrcs", "4@other.mrcs"))


@case(
    "metadata of another box",
    "particles.star: particle 3 has a box of 16 pixels by its metadata, and of 8 in its "
    "stack; give the metadata of this stack: another has another pixel size",
    file="particles.star",
    row=3,
    value=16.0,
)
def other_box(folder):
    return star(folder, ("2 300 2.7 0.1 1.5 8", "2 300 2.7 0.1 1.5 16"))


@case(
    "an image outside the project",
    "particles.star: particle 2 has its image in '../stack.mrcs', which leads out of the "
    "project root (the folder of the file); give the root that holds it (--root), or "
    "--allow-outside if you trust the file",
    file="particles.star",
    row=2,
    value="../stack.mrcs",
)
def outside(folder):
    return star(folder, ("2@stack.mrcs", "2@../stack.mrcs"))


@case(
    "images both flipped and multiplied by their CTF",
    "particles.star: particle 1 has rlnCtfDataArePhaseFlipped = 1, and "
    "rlnCtfDataAreCtfPremultiplied as well; one of them is wrong: set it to 0",
    file="particles.star",
    row=1,
    value=1.0,
)
def premultiplied(folder):
    return star(
        folder,
        (
            "_rlnImageSize #6",
            "_rlnImageSize #6\n_rlnCtfDataAreCtfPremultiplied\n_rlnCtfDataArePhaseFlipped",
        ),
        ("1 300 2.7 0.1 1.5 8", "1 300 2.7 0.1 1.5 8 1 1"),
        ("2 300 2.7 0.1 1.5 8", "2 300 2.7 0.1 1.5 8 1 1"),
    )


@case(
    "image names without numbers, of a stack of many",
    "particles.star: particle 1 has no number of its image in stack.mrcs, a stack of 4; write it "
    "as 000001@stack.mrcs",
    file="particles.star",
    row=1,
    value="stack.mrcs",
)
def no_image_number(folder):
    return star(folder, ("1@stack.mrcs", "stack.mrcs"))


@case(
    "a spherical aberration in µm",
    "particles.star: particle 3 has rlnSphericalAberration = 2700; give it in mm, for example 2.7",
    file="particles.star",
    row=3,
    value=2700.0,
)
def aberration_unit(folder):
    return star(folder, ("2 300 2.7 0.1 1.5 8", "2 300 2700 0.1 1.5 8"))


@case(
    "half a magnification matrix",
    "particles.star: has no column rlnMagMat01, which a magnification matrix needs; give all "
    "four, or none",
    file="particles.star",
    value="rlnMagMat01",
)
def half_a_matrix(folder):
    return star(
        folder,
        ("_rlnImageSize #6", "_rlnImageSize #6\n_rlnMagMat00"),
        ("1 300 2.7 0.1 1.5 8", "1 300 2.7 0.1 1.5 8 1.01"),
        ("2 300 2.7 0.1 1.5 8", "2 300 2.7 0.1 1.5 8 1.01"),
    )


@case(
    "Zernike terms of too high an order",
    "particles.star: particle 1 has 7 coefficients in rlnOddZernike; fit it with fewer: up to 6 "
    "are modelled (orders 1 to 4)",
    file="particles.star",
    row=1,
    value=7,
)
def high_orders(folder):
    return star(
        folder,
        ("_rlnImageSize #6", "_rlnImageSize #6\n_rlnOddZernike"),
        ("1 300 2.7 0.1 1.5 8", "1 300 2.7 0.1 1.5 8 [0,0,0,0,0,0,0.5]"),
        ("2 300 2.7 0.1 1.5 8", "2 300 2.7 0.1 1.5 8 [0]"),
    )


@case(
    "subtomograms",
    "particles.star: particle 1 has rlnImageDimensionality = 3; give single images, not "
    "subtomograms",
    file="particles.star",
    row=1,
    value=3.0,
)
def subtomograms(folder):
    return star(
        folder,
        ("_rlnImageSize #6", "_rlnImageDimensionality #6"),
        ("1 300 2.7 0.1 1.5 8", "1 300 2.7 0.1 1.5 3"),
        ("2 300 2.7 0.1 1.5 8", "2 300 2.7 0.1 1.5 3"),
    )


# cryoSPARC


@case(
    "a .cs file without alignments",
    "particles.cs: has no column alignments3D/pose, which the pose needs; give the "
    "particles of a 3D refinement or an ab-initio job, or give the job's passthrough file"
    " too (--passthrough FILE)",
    file="particles.cs",
    value="alignments3D/pose",
)
def no_alignments(folder):
    return cs(folder, alignments3D__pose=None)


@case(
    "a .cs file without its images",
    "particles.cs: has no column blob/path, which finding the images needs; give the "
    "job's passthrough file too (--passthrough J1_passthrough_particles.cs)",
    file="particles.cs",
    value="blob/path",
)
def no_blob(folder):
    write_cs(folder / "J1_passthrough_particles.cs", {})
    return cs(folder, blob__path=None)


@case(
    "the passthrough file of another job",
    "particles.cs: particle 4 has uid 99, which pass.cs lacks; give the passthrough file "
    "of the same job",
    file="particles.cs",
    row=4,
    value=99,
)
def other_job(folder):
    write_cs(folder / "pass.cs", {})
    cs(folder, uid=np.array([1, 2, 3, 99], dtype=np.uint64))
    return lambda: read_particles(folder / "particles.cs", Reading(passthrough=folder / "pass.cs"))


@case(
    "a .cs file with Python objects",
    "particles.cs: holds Python objects, which could run code when read; export the "
    "particles again from cryoSPARC",
    file="particles.cs",
)
def object_cs(folder):
    return cs(folder, blob__path=np.array([b"stack.mrcs"] * COUNT, dtype=object))


@case(
    "a .cs file cut short",
    "particles.cs: cannot be read as a .cs file (...); copy or export it again",
    file="particles.cs",
)
def cut_cs(folder):
    content = (folder / "particles.cs").read_bytes()
    (folder / "particles.cs").write_bytes(content[:-10])
    return lambda: read_particles(folder / "particles.cs")


@case(
    "a .cs file of 0 bytes",
    "particles.cs: cannot be read as a .cs file (...); copy or export it again",
    file="particles.cs",
)
def empty_cs(folder):
    (folder / "particles.cs").write_bytes(b"")
    return lambda: read_particles(folder / "particles.cs")


@case(
    "a .cs file without rows",
    "particles.cs: holds no particles; give a .cs file of particles",
    file="particles.cs",
)
def no_rows(folder):
    table = np.load(folder / "particles.cs")
    with (folder / "particles.cs").open("wb") as handle:
        np.save(handle, table[:0])
    return lambda: read_particles(folder / "particles.cs")


@case(
    "an array in place of a table",
    "particles.cs: holds an array of type float64 and shape (4,); give a .cs file of particles",
    file="particles.cs",
    value=(4,),
)
def plain_array(folder):
    with (folder / "particles.cs").open("wb") as handle:
        np.save(handle, np.zeros(COUNT))
    return lambda: read_particles(folder / "particles.cs")


@case(
    "a pose that is not a number",
    "particles.cs: particle 2 has alignments3D/pose = nan; give a finite number",
    file="particles.cs",
    row=2,
    value=NAN,
)
def nan_pose(folder):
    pose = np.zeros((COUNT, 3), dtype=np.float32)
    pose[1, 2] = np.nan
    return cs(folder, alignments3D__pose=pose)


@case(
    "an alignment without a pixel size",
    "particles.cs: particle 1 has alignments3D/psize_A = 0; its shifts have no unit: "
    "align the particles again",
    file="particles.cs",
    row=1,
    value=0.0,
)
def no_alignment_pixel(folder):
    return cs(folder, alignments3D__psize_A=np.zeros(COUNT, dtype=np.float32))


@case(
    "a negative place in a stack",
    "particles.cs: particle 3 has blob/idx = -1; it is counted from 0",
    file="particles.cs",
    row=3,
    value=-1,
)
def negative_index(folder):
    return cs(folder, blob__idx=np.array([0, 1, -1, 3], dtype=np.int32))


@case(
    "poses of two ab-initio classes",
    "particles.cs: particle 4 is most likely of alignments_class_1, and particle 1 of "
    "alignments_class_0; every class has a frame of its own: give the particles of one "
    "class",
    file="particles.cs",
    row=4,
    value="alignments_class_1",
)
def two_classes(folder):
    first, pose = (
        np.array([0.9, 0.8, 0.7, 0.1], dtype=np.float32),
        np.zeros((COUNT, 3), dtype=np.float32),
    )
    classes = {"alignments_class_0__pose": pose, "alignments_class_1__pose": pose}
    return cs(
        folder,
        alignments3D__pose=None,
        **classes,
        alignments_class_0__class_posterior=first,
        alignments_class_1__class_posterior=1 - first,
    )


# cryoDRGN


class Evil:
    """What a pickle must not be able to do."""

    def __reduce__(self):
        return (eval, ("__import__('os').system('true')",))


@case(
    "a pickle that runs a program",
    "pose.pkl: cannot be read as a pickle of arrays (it asks for builtins.eval); only "
    "NumPy arrays in plain containers are read: save them so",
    file="pose.pkl",
)
def malicious_pickle(folder):
    return pickles(folder, pose=Evil())


@case(
    "a pickle cut short",
    "pose.pkl: cannot be read as a pickle of arrays (...); only NumPy arrays in plain "
    "containers are read: save them so",
    file="pose.pkl",
)
def cut_pickle(folder):
    return pickles(folder, pose=pickle.dumps((ROTATIONS, np.zeros((COUNT, 2))))[:-20])


@case(
    "a pickled array of objects",
    "ctf.pkl: cannot be read as a pickle of arrays (it holds an array of type 'O8', not "
    "of numbers); only NumPy arrays in plain containers are read: save them so",
    file="ctf.pkl",
)
def object_pickle(folder):
    return pickles(folder, ctf=np.full((COUNT, 9), None))


@case(
    "pickled poses of other particles",
    "pose.pkl: holds (5, 3, 3) and not an array of shape (4, 3, 3), a row for each image "
    "of stack.mrcs; give the pickles of this stack",
    file="pose.pkl",
    value=(5, 3, 3),
)
def other_count(folder):
    return pickles(folder, pose=(np.stack([np.eye(3)] * 5), np.zeros((5, 2))))


@case(
    "CTFs without all their columns",
    "ctf.pkl: holds (4, 8) and not an array of shape (4, 9), a row for each image of "
    "stack.mrcs; give the pickles of this stack",
    file="ctf.pkl",
    value=(4, 8),
)
def eight_columns(folder):
    return pickles(folder, ctf=np.ones((COUNT, 8)))


@case(
    "translations in pixels",
    "stack.mrcs: particle 2 has translations in pose.pkl = [3.0, -1.5]; they are "
    "fractions of the box, below 1: divide them by the box",
    file="stack.mrcs",
    row=2,
    value=[3.0, -1.5],
)
def pixels_for_fractions(folder):
    return pickles(folder, pose=(ROTATIONS, np.array([[0, 0], [3, -1.5], [0, 0], [0, 0]])))


@case(
    "a matrix that is no rotation",
    "stack.mrcs: particle 3 has among rotations in pose.pkl a matrix that is no rotation "
    "(off by 3); parse the poses again",
    file="stack.mrcs",
    row=3,
    value=3.0,
)
def no_rotation(folder):
    rotations = ROTATIONS.copy()
    rotations[2] *= 2
    return pickles(folder, pose=(rotations, np.zeros((COUNT, 2))))


@case(
    "a pickled voltage of zero",
    "stack.mrcs: particle 1 has voltage in ctf.pkl = 0; give it in kV, for example 300",
    file="stack.mrcs",
    row=1,
    value=0.0,
)
def pickled_zero_voltage(folder):
    ctf = np.array([[BOX, 1.5, 15_000, 14_500, 5, 0, 2.7, 0.1, 0]] * COUNT)
    return pickles(folder, ctf=ctf)


@case(
    "a stack alone",
    "stack.mrcs: a stack has no poses; give cryoDRGN's poses (--poses-pkl), or a .star or"
    " .cs file of the particles",
    file="stack.mrcs",
)
def stack_alone(folder):
    return lambda: read_particles(folder / "stack.mrcs")


# Maps


@case(
    "a map cut in its voxels",
    "map.mrc: is not a complete MRC file (its header asks for 8 x 8 x 8 pixels and 3,072 "
    "bytes, and the file has 3,000 bytes); copy or export it again",
    file="map.mrc",
    value=3000,
)
def cut_map(folder):
    content = (folder / "map.mrc").read_bytes()
    (folder / "map.mrc").write_bytes(content[:3000])
    return volume(folder)


@case(
    "a map with an extended header longer than the file",
    "map.mrc: is not a complete MRC file (its header asks for 8 x 8 x 8 pixels and "
    "2,147,486,719 bytes, and the file has 3,072 bytes); copy or export it again",
    file="map.mrc",
    value=3072,
)
def long_extension_of_a_map(folder):
    patch(folder / "map.mrc", 92, int32(2**31 - 1))
    return volume(folder)


@case(
    "a map of 64 billion voxels",
    "map.mrc: is not a complete MRC file (its header asks for 4000 x 4000 x 4000 pixels "
    "and 256,000,001,024 bytes, and the file has 3,072 bytes); copy or export it again",
    file="map.mrc",
    value=3072,
)
def huge_map(folder):
    patch(folder / "map.mrc", 0, int32(4000) * 3)
    return volume(folder)


@case(
    "an image in place of a map",
    "map.mrc: holds an array of shape (1, 8, 8); give a map, with three axes of 4 to 1024 voxels",
    file="map.mrc",
    value=(1, 8, 8),
)
def image_for_map(folder):
    return volume(folder, np.zeros((1, BOX, BOX)))


@case(
    "a long thin map",
    "map.mrc: holds an array of shape (4, 4, 200), and most of a cube around it would be "
    "empty; give a map that is nearer to a cube",
    file="map.mrc",
    value=(4, 4, 200),
)
def thin_map(folder):
    return volume(folder, np.zeros((4, 4, 200)))


@case(
    "a map without a voxel size",
    "map.mrc: its header has a voxel size of 0 Å; give the true one, in Å (--map-pixel-"
    "size, or --pixel-size of dock)",
    file="map.mrc",
    value=0.0,
)
def no_voxel_size(folder):
    patch(folder / "map.mrc", 40, bytes(12))
    return volume(folder)


@case(
    "a map that lies nowhere",
    "map.mrc: its header has ORIGIN = [nan, 0.0, 0.0]; write the map again",
    file="map.mrc",
    value=[NAN, 0.0, 0.0],
)
def origin_nowhere(folder):
    patch(folder / "map.mrc", 196, struct.pack("<f", float("nan")))
    return volume(folder)


@case(
    "voxels that are not cubes",
    "map.mrc: its voxels are 1 x 2 x 1 Å; resample it to cubic voxels",
    file="map.mrc",
    value=[1.0, 2.0, 1.0],
)
def oblong_voxels(folder):
    return volume(folder, np.zeros((BOX, BOX, BOX)), voxel_size=(1.0, 2.0, 1.0))


@case(
    "a voxel that is not a number",
    "map.mrc: a voxel is nan; export the map again",
    file="map.mrc",
    value=NAN,
)
def nan_voxel(folder):
    values = np.zeros((BOX, BOX, BOX))
    values[1, 2, 3] = np.nan
    return volume(folder, values)


@case(
    "the same axis twice",
    "map.mrc: its header names the axes [2, 2, 3]; they are 1, 2 and 3 in some order",
    file="map.mrc",
    value=[2, 2, 3],
)
def axis_twice(folder):
    patch(folder / "map.mrc", 64, int32(2))
    return volume(folder)


# Other files


@case(
    "a file of another kind",
    "particles.txt: has the suffix .txt, and is no particle file; give a .star (RELION), "
    "a .cs (cryoSPARC), or a .mrcs with cryoDRGN's pickles",
    file="particles.txt",
    value=".txt",
)
def another_kind(folder):
    return lambda: read_particles(folder / "particles.txt")


@case(
    "an index beyond the particles",
    "chosen.npy: entry 2 is 4, and the 4 particles are counted from 0; correct it",
    file="chosen.npy",
    value=4,
)
def index_beyond(folder):
    np.save(folder / "chosen.npy", [1, COUNT])
    return lambda: read_indices(folder / "chosen.npy", COUNT)


@case(
    "a mask of other particles",
    "mask.npy: is a mask of shape (5,) and there are 4 particles; give one value for each",
    file="mask.npy",
    value=(5,),
)
def other_mask(folder):
    np.save(folder / "mask.npy", np.ones(5, dtype=bool))
    return lambda: read_indices(folder / "mask.npy", COUNT)


@case(
    "an array of objects",
    "chosen.npy: cannot be read as indices (...); give an integer for each particle",
    file="chosen.npy",
)
def object_indices(folder):
    np.save(folder / "chosen.npy", np.array([1, None]), allow_pickle=True)
    return lambda: read_indices(folder / "chosen.npy", COUNT)


# Structures


def atom(
    name: str,
    residue: str,
    number: int,
    x: float,
    *,
    chain: str = "A",
    segment: str = "",
    element: str = "",
) -> str:
    """An atom record of a PDB file, on the x axis."""
    place = f"{residue:>3} {chain}{number:4d}    {x:8.3f}{0:8.3f}{0:8.3f}"
    return f"ATOM      1  {name:<3} {place}  1.00  0.00      {segment:<4}{element or name[0]:>2}\n"


def glycines(x: float = 0.0, **options) -> str:
    """Four residues of a chain, 3.8 Å apart, with their backbones."""
    return "".join(
        atom(name, "GLY", i + 1, x + 3.8 * i + dx, **options)
        for i in range(4)
        for name, dx in (("N", 0.0), ("CA", 1.4), ("C", 2.5))
    )


def pdb(folder: Path, *parts: str):
    (folder / "model.pdb").write_text("".join(parts))
    return lambda: read_structure(folder / "model.pdb")


@case(
    "an alpha carbon with the element calcium",
    "model.pdb: atom CA of chain A ALA 5 has the element Ca, and by its name C; correct the "
    "element column, or leave it empty",
    file="model.pdb",
    value="Ca",
)
def alpha_calcium(folder):
    return pdb(folder, glycines(), atom("CA", "ALA", 5, 16.6, element="CA"))


@case(
    "an atom of a modified residue without an element",
    "model.pdb: atom CL of residue chain A SEP 5 has no element; fill in the column of elements, "
    "or delete it",
    file="model.pdb",
    value="CL of residue chain A SEP 5",
)
def no_element(folder):
    last = atom("N", "SEP", 5, 15.2) + atom("CL", "SEP", 5, 16.6, element="X")
    return pdb(folder, glycines(), last)


@case(
    "cysteines under the name of serine",
    "model.pdb: chain A has 49 electrons by atoms and 41 by residues; correct the elements, or the "
    "residues' names",
    file="model.pdb",
    value=49,
)
def cysteine_named_serine(folder):
    names = ("N", "CA", "C", "O", "CB", "SG")
    return pdb(folder, *(atom(name, "SER", 1, 1.4 * i) for i, name in enumerate(names)))


@case(
    "an assembly in models, each a copy of the first",
    "model.pdb: holds 2 models, and model 2 is the first one moved elsewhere; make one model of "
    "the parts, each chain with a name of its own, or keep one model",
    file="model.pdb",
    value=2,
)
def moved_models(folder):
    first, second = glycines(), glycines(50.0)
    parts = ("MODEL        1\n", first, "ENDMDL\nMODEL        2\n", second, "ENDMDL\n")
    return pdb(folder, *parts)


@case(
    "an assembly in models, each with a chain of its own",
    "model.pdb: holds 2 models, and model 2 has other chains than the first; make one model of "
    "the parts, each chain with a name of its own, or keep one model",
    file="model.pdb",
    value=2,
)
def chains_over_models(folder):
    first, second = glycines(), glycines(50.0, chain="B")
    parts = ("MODEL        1\n", first, "ENDMDL\nMODEL        2\n", second, "ENDMDL\n")
    return pdb(folder, *parts)


@case(
    "two PDB files joined, or frames between END records",
    "model.pdb: line 13 is an END record, and atoms follow it; of joined files keep one; put "
    "MODEL and ENDMDL records around frames",
    file="model.pdb",
    value=13,
)
def atoms_after_end(folder):
    return pdb(folder, glycines(), "END\n", glycines(50.0, chain="B"), "END\n")


@case(
    "two mmCIF files joined",
    "model.cif: holds atoms in 2 data blocks (data_first and data_second); keep one of them",
    file="model.cif",
    value=2,
)
def two_blocks(folder):
    names = ("group_PDB", "id", "type_symbol", "label_atom_id", "Cartn_x", "Cartn_y", "Cartn_z")
    loop = "loop_\n" + "".join(f"_atom_site.{name}\n" for name in names) + "ATOM 1 C CA 0 0 0\n"
    (folder / "model.cif").write_text(f"data_first\n{loop}data_second\n{loop}")
    return lambda: read_structure(folder / "model.cif")


@case(
    "chains without names",
    "model.pdb: has chains without a name, and residue GLY 1 is there twice; give each chain a "
    "name of its own (column 22; segments do not count)",
    file="model.pdb",
    value="GLY 1",
)
def nameless_chains(folder):
    return pdb(folder, glycines(chain=" "), "TER\n", glycines(50.0, chain=" "))


@case(
    "chains without names, but with segments",
    "model.pdb: has chains without a name, and residue GLY 1 is there twice, in the segments PROA "
    "and PROB; give each chain a name of its own (column 22; segments do not count)",
    file="model.pdb",
    value="GLY 1",
)
def segments_for_chains(folder):
    parts = ((0.0, "PROA"), (50.0, "PROB"))
    return pdb(folder, *(glycines(x, chain=" ", segment=name) + "TER\n" for x, name in parts))


# Clusters and landscapes


@case(
    "a cluster of a particle file",
    "particles.star: has no clusters; give a run folder in its place",
    file="particles.star",
)
def cluster_of_a_file(folder):
    path = folder / "particles.star"
    return lambda: select_particles(path, folder / "out.star", Choice(cluster=1))


@case(
    "a cluster of a run that has none",
    "run: has no clusters yet; first: cryostar-nb landscape run",
    file="run",
)
def no_clusters(folder):
    return lambda: kept_clusters(SimpleNamespace(folder=folder / "run"))


@case(
    "the landscape of a run without posteriors",
    "run: has no posterior of its particles yet, which populations come from; first: cryostar-nb "
    "infer run",
    file="run",
)
def no_posterior(folder):
    return lambda: landscape_of(SimpleNamespace(folder=folder / "run"), LandscapeConfig())
