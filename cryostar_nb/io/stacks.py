"""Writing a stack of images that is too large for memory."""

from collections.abc import Iterable
from pathlib import Path

import mrcfile
from torch import Tensor

from cryostar_nb.io.files import check_room, replacing


def write_stack(
    path: Path,
    shape: tuple[int, int, int],
    *,
    pixel_size: float,
    label: str,
    batches: Iterable[Tensor],
) -> None:
    """Write images, handed over in batches (image, y, x), to a float32 MRC stack of this shape.

    The file appears when it is complete. `label` stands in its header in place of the time that
    mrcfile puts there, so the same images make the same bytes. `pixel_size` is in Å. Raises
    InputError, before the first batch is asked for, where the disk has too little room.
    """
    count, height, width = shape
    check_room(path, 4 * count * height * width, "the stack")
    first = 0
    with (
        replacing(path) as temporary,
        mrcfile.new_mmap(temporary, shape, mrc_mode=2, overwrite=True) as handle,
    ):
        handle.set_image_stack()
        handle.header.label[0] = label.encode()
        handle.voxel_size = pixel_size
        for images in batches:
            handle.data[first : first + len(images)] = images.numpy()
            first += len(images)
