"""Every number of the doctor that was chosen, in one table; `book/doctor.md` shows it too.

Below each stands: unit | what it decides | where it comes from. *Chosen* numbers are round ones
with which all verdicts are right on *the sweep*, `tests/doctor_sweep.py`: 132 data sets of
adenylate kinase. After a change run `python book/make_troubleshooting.py`.
"""

# What is a fault
LEAST_SCALE_ERROR = 0.015
"""fraction | a pixel size that is off by less is no fault | chosen"""
LEAST_OFFSET = 3.0
"""Å | a reference whose centre is off by less is no fault | chosen"""
LEAST_ANGLE_DEG = 5.0
"""degrees | a reference that is turned by less is no fault | chosen"""
LEAST_BINNING_ERROR = 0.1
"""fraction | a pixel size that is off by more was binned | chosen; others are sought to 7.5 %"""
LEAST_SHIFT_PX = 0.01
"""pixels | particles whose shifts are all less have none | rounding in files"""
UNIT_PIXEL_MARGIN = 0.03
"""Å | in pixels that differ by less from 1 Å, shifts are those in Å | chosen: 0.15 Å on 5 Å"""
MAP_EDGE_RATIO = 2.0
"""times | a map whose edge differs by more from the box's is refused | chosen"""

# What the images say
SIGNAL_Z = 5.0
"""standard errors | the least correlation that is a signal | statistics: chance reaches it once in
3 million tries"""
CLEAR_Z = 2.5
"""standard errors | the least difference of two hypotheses | statistics: chance reaches it once in
160 tries"""
SEARCHED_CLEAR_Z = 4.0
"""standard errors | the same where a search has fitted a place or a pixel size | statistics: chance
reaches it once in 30,000 tries"""
INDEPENDENT_PLACES = 1.0e6
"""places | N, of which docking keeps the best: chance reaches sqrt(2 log N) standard deviations |
4,608 rotations at some 200 translations that differ at the resolution of the search"""
LEAST_GAIN = 0.01
"""fraction | the least part of the correlation that a fault costs | chosen"""
LEAST_DOCKING_GAIN = 0.03
"""fraction | the least part of the correlation that docking gains | the sweep: a model that stands
right gains 1.6 %, because the particles have other shapes"""
SAME_PREDICTION = 0.985
"""correlation | predictions that are more alike are the same | chosen; on the sweep
`contrast sign` and `CTF sign`, which are told apart, have 0.90"""
RING_GAIN_Z = 1.0
"""standard errors | the least gain of a pixel size in the finest ring with a signal | chosen"""

# Whether the reference is the molecule
IMAGE_HAND_RATIO = 1.2
"""times | the least correlation of a docked reference with images, over its mirror image's | the
sweep: the right model has 1.43, a chain of 7PBL 1.01"""
MAP_HAND_RATIO = 1.3
"""times | the least correlation of a docked model with a map, over its mirror image's and over
chance | the open state in a map of closed adenylate kinase has 2.5, a chain of 7PBL 0.97"""
PROTEIN_VOLUME_PER_ELECTRON = 8.6
"""Å^3 | the volume of a model, its blurred rim included, for what chance reaches in a map | chains
of 7PBL reach 0.13 to 0.19 in maps of adenylate kinase, to 8 Å; chance is 0.19"""

# Whether the molecule is larger or the pixel size is wrong
SHAPE_SCALE_ERROR = 0.03
"""fraction | another shape looks larger by as much, at any detail | closed and open adenylate
kinase look 2.5 % apart"""
DETAIL_RESOLUTION = 8.0
"""Å | detail in which parts of a molecule are seen, whatever its shape; a map is docked into down
to here | chosen: helices lie 10 Å apart"""

# What the search covers
COARSE_CYCLES = 12
"""cycles across the box | the band in which everything is scanned | chosen"""
FINEST_RESOLUTION = 4.0
"""Å | the finest detail that is scored | the default low-pass of training"""
FINEST_PIXELS = 2.05
"""pixels | the finest detail that is scored | just coarser than Nyquist, 2 pixels"""
MOST_COEFFICIENTS = 2000
"""coefficients | the size of the band that is scored | time: 15 s for 500 particles"""
MOST_FAULT_SETS = 16
"""sets | of several faults, that are scored in the whole band | chosen"""
IMAGE_DOCKING_RESOLUTION = 9.0
"""Å | the detail of images that a reference is docked against | chosen"""
LEAST_AGREEMENT = 0.8
"""fraction | of the best reading's agreement, for a second reading to be docked | chosen"""
SEARCH_ROTATIONS = 4608
"""rotations | of the docking search | 15 degrees apart: half a wavelength at the molecule's rim"""
SEARCH_FEATURES = 4.5
"""wavelengths | across the molecule, at the resolution of the docking search | as above"""
