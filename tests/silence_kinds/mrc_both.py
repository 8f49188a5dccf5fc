"""Changes to MRC files that concern stacks and maps alike.

Left out, because no reader can know them from the file: images that are mirrored or upside down, a
stack of the order x, y, image where all three sizes are equal, pixels of one type that are
plausible as another and whose header has no extremes, an extended header that is said to be longer
than it is in a file with as many bytes at its end.
"""

import gzip

import numpy as np

from silence_kinds.maps import of_map
from silence_kinds.mrc import mrc
from silence_kinds.stacks import of_stack

PLAUSIBLE = np.linspace(-60, 60, 256, dtype="<f4").tobytes()  # as pixels


def of_both(what: str, **options):
    """A kind for a stack, and the same for a map."""

    def add(change):
        of_stack(what, **options)(change)
        return of_map(what, **options)(change)

    return add


of_both("unchanged", sound=True)(lambda data, scene: mrc(data))
of_both("byte order", sound=True)(lambda data, scene: mrc(data, order=">"))
of_both("signed bytes", sound=True)(lambda data, scene: mrc(data, 0))
of_both("16-bit integers", sound=True)(lambda data, scene: mrc(data, 1, order=scene.choose(*"<>")))
of_both("half precision", sound=True)(lambda data, scene: mrc(data, 12))
of_both("an extended header", sound=True)(
    lambda data, scene: mrc(data, extended=b"x" * int(scene.choose(80, 1024, 64 * len(data))))
)
of_both("data of another byte order than the header")(
    lambda data, scene: mrc(data, scene.choose(1, 2), order="<", data_order=">")
)
of_both("mode 1 in place of 6", known=False)(
    lambda data, scene: mrc((data + 110) * 250, 1, of="u2")
)
of_both("16-bit integers in mode 12", known=False)(lambda data, scene: mrc(data, 12, of="i2"))
of_both("half precision in mode 1", known=False)(lambda data, scene: mrc(data, 1, of="f2"))
of_both("floats in mode 1 or 0", known=False)(
    lambda data, scene: mrc(data, scene.choose(0, 1, 6, 12), of="f4")
)
of_both("bytes in mode 1 or 2", known=False)(
    lambda data, scene: mrc(data, scene.choose(1, 2), of="i1")
)
of_both("doubles in mode 2", known=False)(lambda data, scene: mrc(data, 2, of="f8"))
of_both("mode of complex or 4-bit numbers", known=False)(
    lambda data, scene: mrc(data, scene.choose(3, 4, 101), of="f4")
)
of_both("no mark of the byte order", sound=True)(lambda data, scene: mrc(data, words={53: 0}))
of_both("no mark MAP")(lambda data, scene: mrc(data, words={52: 0, 53: scene.choose(0, 17476)}))
of_both("a wrong mark of the byte order")(lambda data, scene: mrc(data, words={53: 0x1111}))
of_both("an extended header that is not said", known=False)(
    lambda data, scene: mrc(data, extended=PLAUSIBLE, words={23: 0})
)
of_both("a length of the extended header beyond the file", known=False)(
    lambda data, scene: mrc(data, words={23: 1024})
)
of_both("more sections than the file has", known=False)(
    lambda data, scene: mrc(data, words={2: len(data) + 1})
)
of_both("gzipped content", known=False)(lambda data, scene: gzip.compress(mrc(data)))
of_both("a pixel that is no number", known=False)(
    lambda data, scene: mrc(np.where(data == data.max(), scene.choose(np.nan, np.inf), data))
)
of_both("two files joined")(lambda data, scene: mrc(data) * 2)


@of_both("line ends changed in the pixels", known=False)
def line_ends(data, scene):
    """As a copy in text mode does it."""
    content = mrc(data, 1)
    return content[:1024] + content[1024:].replace(b"\n", b"\r\n")


@of_both("columns and rows swapped")
def transposed(data, scene):
    """The header says so."""
    return mrc(data.transpose(0, 2, 1), words={16: 2, 17: 1})


@of_both("an axis twice", known=False)
def axis_twice(data, scene):
    return mrc(data, words={16: 2, 17: 2})
