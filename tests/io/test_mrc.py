"""MRC headers: which bytes are meant, and whether the pixels are what the header says."""

import struct

import numpy as np
import pytest
from refusals import refused

from cryostar_nb.io.maps import read_map
from cryostar_nb.io.mrc import check_pixels, open_mrc

IMOD = 1146047817


@pytest.fixture
def write_mrc(tmp_path):
    """Write bytes under a header that is made by hand: `mode`, `stated` (min, max, mean), `imod`
    flags, the machine stamp and the byte order of the header.
    """

    def write(values, mode, *, stated=None, imod=None, order="<", stamp=None, extra=b""):
        header = bytearray(1024)
        depth, height, width = values.shape
        struct.pack_into(f"{order}4i", header, 0, width, height, depth, mode)
        struct.pack_into(f"{order}3i", header, 28, width, height, depth)
        struct.pack_into(f"{order}3f", header, 40, 2 * width, 2 * height, 2 * depth)
        struct.pack_into(f"{order}3i", header, 64, 1, 2, 3)
        struct.pack_into(f"{order}3f", header, 76, *(stated or (0, -1, -2)))
        if imod is not None:
            struct.pack_into(f"{order}2i", header, 152, IMOD, imod)
        header[208:212] = b"MAP "
        little = {"<": b"\x44\x44\0\0", ">": b"\x11\x11\0\0"}
        header[212:216] = little[stamp or order]
        path = tmp_path / "made.mrc"
        path.write_bytes(bytes(header) + values.tobytes() + extra)
        return path

    return write


@pytest.fixture
def grey(rng):
    """Bytes about 130, as a picture of 256 shades has them."""
    return np.clip(rng.normal(130, 30, (6, 8, 8)), 0, 255).round().astype(np.uint8)


def range_of(values):
    return float(values.min()), float(values.max()), float(values.mean())


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("says", ["range", "IMOD", "both"])
def test_bytes_are_unsigned_where_the_header_says_so(says, order, grey, write_mrc):
    stated = None if says == "IMOD" else range_of(grey)
    imod = None if says == "range" else 0
    path = write_mrc(grey, 0, stated=stated, imod=imod, order=order)
    pixels, header = open_mrc(path)
    np.testing.assert_array_equal(pixels, grey)
    assert check_pixels(path, pixels, header) == ""
    np.testing.assert_array_equal(read_map(path).values[:6], grey)


@pytest.mark.parametrize("imod", [None, 1])
def test_bytes_are_signed_else(imod, rng, write_mrc):
    values = rng.normal(0, 20, (6, 8, 8)).round().astype(np.int8)
    path = write_mrc(values, 0, stated=range_of(values), imod=imod)
    pixels, header = open_mrc(path)
    np.testing.assert_array_equal(pixels, values)
    assert check_pixels(path, pixels, header) == ""
    np.testing.assert_array_equal(open_mrc(write_mrc(values, 0))[0], values)


@pytest.mark.parametrize(
    ("stated", "imod", "value"),
    [((-3.0, 200.0, 90.0), None, None), ((0.0, 200.0, 90.0), 1, None), ((-9.0, 9.0, 0.0), 0, None)],
)
def test_a_header_that_says_both_is_refused(stated, imod, value, grey, write_mrc):
    path = write_mrc(grey, 0, stated=stated, imod=imod)
    with refused("made.mrc", value=value) as caught:
        open_mrc(path)
    assert "unsigned" in str(caught.value) and " signed" in str(caught.value)


def test_two_pixels_in_a_byte_are_refused(grey, write_mrc):
    with refused("made.mrc", value=16):
        open_mrc(write_mrc(grey, 0, imod=16))


@pytest.mark.parametrize("stated", [None, (-3.5, 5.0, 0.1)])
def test_bytes_that_only_make_sense_unsigned_are_refused(stated, grey, write_mrc):
    """Without a statement, and with the range of the floats that they were made from."""
    path = write_mrc(grey, 0, stated=stated)
    with refused("made.mrc") as caught:
        check_pixels(path, *open_mrc(path))
    assert "unsigned" in str(caught.value)


def test_a_map_of_bytes_without_a_statement_is_smooth_with_the_right_sign(write_mrc):
    """Most voxels are near 0, so that the spread tells nothing: the steps between them do."""
    peak = np.exp(-((np.indices((16, 16, 16)) - 8) ** 2).sum(axis=0) / 20)
    path = write_mrc((250 * peak).astype(np.uint8), 0)
    with refused("made.mrc"):
        read_map(path)
    for values in (100 * peak - 20, peak > 0.5):
        path = write_mrc(values.astype(np.int8), 0)
        np.testing.assert_array_equal(read_map(path).values, values.astype(np.int8))


@pytest.mark.parametrize("mode", [1, 2, 6, 12])
@pytest.mark.parametrize("order", "<>")
def test_every_mode_is_read_in_both_byte_orders(mode, order, rng, write_mrc):
    kind = {1: "i2", 2: "f4", 6: "u2", 12: "f2"}[mode]
    values = np.abs(rng.normal(300, 50, (6, 8, 8))).astype(f"{order}{kind}")
    path = write_mrc(values, mode, stated=range_of(values), order=order)
    pixels, header = open_mrc(path)
    np.testing.assert_array_equal(pixels, values)
    assert check_pixels(path, pixels, header) == ""


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_a_wrong_machine_stamp_is_seen_through(mode, rng, write_mrc):
    """The sizes in the header make sense in one byte order alone."""
    kind = {0: "i1", 1: ">i2", 2: ">f4"}[mode]
    values = rng.normal(0, 30, (6, 8, 8)).astype(kind)
    path = write_mrc(values, mode, stated=range_of(values), order=">", stamp="<")
    np.testing.assert_array_equal(open_mrc(path)[0], values)


@pytest.mark.parametrize(("mode", "kind"), [(1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
def test_pixels_in_another_byte_order_than_their_header_are_refused(mode, kind, rng, write_mrc):
    values = np.abs(rng.normal(300, 50, (6, 8, 8))).astype(f">{kind}")
    path = write_mrc(values, mode, stated=range_of(values), order="<")
    with refused("made.mrc") as caught:
        check_pixels(path, *open_mrc(path))
    assert "swapped bytes" in str(caught.value)


def test_floats_with_swapped_bytes_are_refused_without_a_range_too(rng, write_mrc):
    path = write_mrc(rng.normal(0, 1, (6, 8, 8)).astype(">f4"), 2, order="<")
    with refused("made.mrc"):
        check_pixels(path, *open_mrc(path))


def test_unsigned_numbers_of_16_bits_under_the_signed_mode_are_refused(rng, write_mrc):
    values = rng.normal(33_000, 900, (6, 8, 8)).astype("<u2")
    path = write_mrc(values, 1, stated=range_of(values))
    with refused("made.mrc"):
        check_pixels(path, *open_mrc(path))


def test_integers_without_a_range_are_refused_where_another_reading_is_smooth(rng, write_mrc):
    values = (1000 * rng.normal(0, 1, (6, 8, 8))).astype("<i2")
    for written, mode in ((values, 6), (values.byteswap(), 1)):
        path = write_mrc(written, mode)
        with refused("made.mrc"):
            check_pixels(path, *open_mrc(path))
    path = write_mrc(values, 1)
    assert check_pixels(path, *open_mrc(path)) == ""
    path = write_mrc(np.abs(values // 256) * 256, 1)  # may be meant
    assert "swapped bytes" in check_pixels(path, *open_mrc(path))


def test_pixels_far_fainter_than_their_header_says_are_told(rng, write_mrc):
    values = rng.normal(0, 1, (6, 8, 8)).astype("<f4")
    path = write_mrc(values / 1000, 2, stated=range_of(values))
    assert "its header states" in check_pixels(path, *open_mrc(path))


def test_an_old_range_and_bytes_left_over_are_told(rng, write_mrc, capsys):
    values = rng.normal(0, 1, (6, 8, 8)).astype("<f4")
    path = write_mrc(values, 2, stated=(100.0, 800.0, 400.0))
    assert "its header states 100 to 800" in check_pixels(path, *open_mrc(path))
    path = write_mrc(values, 2, extra=bytes(256))
    assert "256 bytes" in check_pixels(path, *open_mrc(path))
    read_map(path)
    assert "made.mrc: goes on for 256 bytes" in capsys.readouterr().err


def test_a_mode_that_is_wrong_is_refused(rng, write_mrc):
    """Floats under a mode of 16 bits leave half of the file over; integers look like zeros."""
    values = rng.normal(0, 1, (6, 8, 8)).astype("<f4")
    path = write_mrc(values, 1)
    with refused("made.mrc", value=values.nbytes // 2):
        check_pixels(path, *open_mrc(path))
    path = write_mrc(np.arange(384, dtype="<i4").reshape(6, 8, 8), 2)
    with refused("made.mrc"):
        check_pixels(path, *open_mrc(path))


@pytest.mark.parametrize(
    ("mark", "kind"),
    [(b"\x1f\x8b", "gzip"), (b"BZh9", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd")],
)
def test_a_compressed_file_under_a_plain_name_is_named(mark, kind, tmp_path):
    (tmp_path / "stack.mrcs").write_bytes(mark + bytes(3000))
    with refused("stack.mrcs", value=kind):
        open_mrc(tmp_path / "stack.mrcs")
