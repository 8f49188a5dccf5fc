"""MRC files, written by NumPy byte for byte."""

import numpy as np

TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
IMOD_STAMP = 1146047817
PIXEL_SIZE = 1.5  # Å


def mrc(data: np.ndarray, mode: int = 2, *, order: str = "<", **header) -> bytes:
    """An MRC file; `header` replaces words, by their place from 0, and `extended` has its bytes.

    Its data are of the mode's type, or of the type `of`, in the byte order `data_order`.
    """
    extended, of = header.pop("extended", b""), header.pop("of", TYPES.get(mode, "f4"))
    data_order = header.pop("data_order", order)
    sections, rows, columns = data.shape
    size, origin = header.pop("pixel_size", PIXEL_SIZE), header.pop("origin", (0, 0, 0))
    words = np.zeros(256, dtype=f"{order}i4")
    real = words.view(f"{order}f4")
    words[:4] = columns, rows, sections, mode
    words[7:10] = columns, rows, sections
    real[10:13] = size * np.array([columns, rows, sections])
    real[13:16], words[16:19] = 90, (1, 2, 3)
    finite = data[np.isfinite(data)]
    real[19:22] = finite.min(), finite.max(), finite.mean()
    words[22], words[23], words[27] = header.pop("space_group", 0), len(extended), 20140
    real[49:52], real[54] = origin, finite.std()
    start = words.tobytes()[:208] + b"MAP " + (b"DD" if order == "<" else b"\x11\x11") + bytes(2)
    content = bytearray(start + words.tobytes()[216:])
    for place, value in header.pop("words", {}).items():
        packed = np.array([value]).astype(
            f"{order}f4" if isinstance(value, float) else f"{order}i4"
        )
        content[4 * place : 4 * place + 4] = packed.tobytes()
    assert not header, header
    return bytes(content) + extended + data.astype(f"{data_order}{of}").tobytes()
