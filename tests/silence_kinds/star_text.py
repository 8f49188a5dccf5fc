"""Changes to the text of RELION STAR files.

Left out, because no reader can know them from the file: a last number that is cut in its digits,
rows that are missing at the end, a second folder with files of the same names (the nearest is
taken, as documented).
"""

import gzip
import re

import numpy as np

from silence_kinds.scene import kind
from silence_kinds.star import one_table, tables_of, text_of, written


def of_text(what: str, *, sound: bool = False, known: bool = True):
    """A kind that changes the text of a file, of either version; the particles stay as they are.

    Where they are not `known` any more, the file must not be read in silence.
    """

    def add(change):
        @kind(f"STAR: {what}")
        def run(scene):
            true = scene.truth()
            tables = {"": one_table(true)} if scene.rng.integers(2) else tables_of(scene, true)
            text = change(text_of(scene, tables), scene)
            return written(scene, true if known else None, text, true, sound=sound)

        return change

    return add


def rows_of(text: str) -> tuple[list[str], list[int]]:
    """The lines, and the places of the particles' rows."""
    lines = text.split("\n")
    return lines, [place for place, line in enumerate(lines) if "@" in line]


of_text("unchanged", sound=True)(lambda text, scene: text)
of_text("CRLF", sound=True)(lambda text, scene: text.replace("\n", "\r\n"))
of_text("byte-order mark")(lambda text, scene: "\ufeff" + text)
of_text("byte-order mark before data_")(lambda text, scene: "\ufeff" + text[text.index("data_") :])
of_text("UTF-16")(lambda text, scene: text.encode("utf-16"))
of_text("gzipped content")(lambda text, scene: gzip.compress(text.encode()))
of_text("tabs", sound=True)(lambda text, scene: re.sub(r"(?<=\S) +(?=\S)", "\t", text))
of_text("no numbers after the names", sound=True)(lambda text, scene: re.sub(r" #\d+", "", text))
of_text("wrong numbers after the names")(lambda text, scene: re.sub(r"#\d+", "#3", text))
of_text("old Mac line ends")(lambda text, scene: text.replace("\n", "\r"))
of_text("another name of the block", sound=True)(
    lambda text, scene: re.sub(r"data_(particles)?\n", "data_images\n", text)
)
of_text("numbers with a decimal comma")(lambda text, scene: re.sub(r"(\d)\.(\d)", r"\1,\2", text))
of_text("Fortran's exponents")(lambda text, scene: re.sub(r"(\d\.\d+)\b", r"\1D+00", text))
of_text("no image numbers", known=False)(lambda text, scene: re.sub(r"\d+@", "", text))
of_text("two files joined", known=False)(lambda text, scene: text + text)


@of_text("a comment or an empty line among the rows")
def comment_line(text, scene):
    lines, rows = rows_of(text)
    place = rows[scene.rng.integers(1, len(rows) - 1)]
    return "\n".join([*lines[:place], scene.choose("# a comment", "", "  "), *lines[place:]])


@of_text("a comment after a row or a header")
def comment_after(text, scene):
    lines, rows = rows_of(text)
    place = scene.choose(rows[1], rows[0] - 1)
    lines[place] += " # a comment"
    return "\n".join(lines)


@kind("STAR: rows commented out")
def commented_out(scene):
    true = scene.truth()
    lines, rows = rows_of(text_of(scene, tables_of(scene, true)))
    for place in rows[:2]:
        lines[place] = f"# {lines[place]}"
    return written(scene, true.rows(np.arange(2, len(true))), "\n".join(lines), true)


@of_text("a value too few in a row", known=False)
def value_too_few(text, scene):
    lines, rows = rows_of(text)
    place, values = (row := scene.choose(*rows)), lines[row].split()
    del values[scene.rng.integers(len(values))]
    lines[place] = " ".join(values)
    return "\n".join(lines)


@of_text("a value too many in a row", known=False)
def value_too_many(text, scene):
    lines, rows = rows_of(text)
    for place in rows if scene.rng.integers(2) else [scene.choose(*rows)]:
        lines[place] += " 0.5"
    return "\n".join(lines)


@of_text("a column more in every row, at its front", known=False)
def shifted_columns(text, scene):
    lines, rows = rows_of(text)
    for place in rows:
        lines[place] = "1 " + lines[place]
    return "\n".join(lines)


@of_text("a name less in the header", known=False)
def name_less(text, scene):
    lines, rows = rows_of(text)
    names = [i for i in range(rows[0]) if lines[i].startswith("_rln") and "Image" not in lines[i]]
    del lines[names[-scene.rng.integers(2, 6)]]
    return "\n".join(lines)


@of_text("a row twice", known=False)
def row_twice(text, scene):
    lines, rows = rows_of(text)
    again = re.sub(r"(\d\.\d+)", r"\g<1>0", lines[scene.choose(*rows)])
    return "\n".join([*lines[: rows[-1] + 1], again, *lines[rows[-1] + 1 :]])


@of_text("a row twice, its file by another path", known=False)
def row_twice_other_path(text, scene):
    lines, rows = rows_of(text)
    again = re.sub(r"0+(\d+@)", r"\1./", lines[scene.choose(*rows)])
    return "\n".join([*lines[: rows[-1] + 1], again, *lines[rows[-1] + 1 :]])


@of_text("images counted one off", known=False)
def one_off(text, scene):
    step = scene.choose(-1, 1)
    return re.sub(r"(\d+)@", lambda match: f"{int(match[1]) + step:06d}@", text)


@of_text("a table of one name with another content, before")
def decoy_before(text, scene):
    name = re.findall(r"data_\w*", text)[-1]
    return f"\n{name}\n\nloop_\n_rlnMicrographName\nm1.mrc\nm2.mrc\n\n{text}"


@of_text("a number in another spelling", sound=True)
def other_spelling(text, scene):
    lines, rows = rows_of(text)
    for place in rows:
        lines[place] = re.sub(r"\s(\d{2,}\.\d+)", lambda m: f" {float(m[1]):.9e}", lines[place])
    return "\n".join(lines)
