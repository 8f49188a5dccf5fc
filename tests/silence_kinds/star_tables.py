"""Changes to the order, groups and columns of RELION's tables."""

from dataclasses import replace

import numpy as np

from silence_kinds.scene import FIELDS
from silence_kinds.star import MICROSCOPE, of_tables


@of_tables("rows in another order", sound=True)
def rows_permuted(tables, true, scene):
    tables["particles"] = tables["particles"].sample(frac=1, random_state=1)
    tables["optics"] = tables["optics"].iloc[::-1]
    return true


@of_tables("columns in another order", sound=True)
def columns_permuted(tables, true, scene):
    for name in tables:
        tables[name] = tables[name].sample(frac=1, axis=1, random_state=int(scene.rng.integers(99)))
    return true


@of_tables("tables in another order", sound=True)
def tables_swapped(tables, true, scene):
    for name in reversed(list(tables)):
        tables[name] = tables.pop(name)
    return true


@of_tables("a second table of images")
def second_table(tables, true, scene):
    more = tables["particles"].assign(rlnAngleRot=5.0)
    rest = dict(tables)
    tables.clear()
    tables.update(scene.choose({"more": more} | rest, rest | {"more": more}))
    return true


@of_tables("optics groups with other numbers", sound=True)
def other_numbers(tables, true, scene):
    for table in tables.values():
        table["rlnOpticsGroup"] = table["rlnOpticsGroup"] * 3 + 4
    return true


@of_tables("an optics group's number changed in one table")
def number_of_one(tables, true, scene):
    table = tables[scene.choose("optics", "particles")]
    table.loc[0, "rlnOpticsGroup"] = scene.choose(0, 7)


@of_tables("an optics group twice")
def group_twice(tables, true, scene):
    tables["optics"]["rlnOpticsGroup"] = 1
    tables["particles"]["rlnOpticsGroup"] = 1


@of_tables("a group's voltage, aberration or contrast changed", sound=True)
def group_value(tables, true, scene):
    which = scene.rng.integers(3)
    value, optics, old = (120.0, 2.2, 0.2)[which], tables["optics"], true.ctf[FIELDS[which]]
    optics[MICROSCOPE[which]] = value
    return true.with_ctf(**{FIELDS[which]: np.full_like(old, value)})


@of_tables("no optics group in the particles")
def no_group(tables, true, scene):
    del tables["particles"]["rlnOpticsGroup"]


@of_tables("no optics table")
def no_optics(tables, true, scene):
    del tables["optics"]


@of_tables("an optics table without loop_", microscopes=1)
def simple_optics(tables, true, scene):
    tables["optics"] = tables["optics"].iloc[0].to_dict()
    return true


@of_tables("a voltage in both tables, another one")
def voltage_twice(tables, true, scene):
    # RELION reads the optics table.
    which = scene.rng.integers(3)
    tables["particles"][MICROSCOPE[which]] = (100.0, 0.5, 0.3)[which]
    return true


@of_tables("a pixel size in both tables, another one")
def pixel_size_twice(tables, true, scene):
    tables["particles"]["rlnImagePixelSize"] = true.pixel_size * 2
    return true


@of_tables("a pixel size by the magnification, another one")
def pixel_size_by_magnification(tables, true, scene):
    table = tables[scene.choose("optics", "particles")]
    table["rlnMagnification"], table["rlnDetectorPixelSize"] = 1e4, true.pixel_size[0] * 1.5
    return None


@of_tables("a group of another pixel size")
def other_pixel_size(tables, true, scene):
    optics, factor = tables["optics"], scene.choose(1.008, 1.02, 1.3)
    group = optics["rlnOpticsGroup"].tolist()[0]
    optics.loc[optics["rlnOpticsGroup"] == group, "rlnImagePixelSize"] *= factor
    of_it = tables["particles"]["rlnOpticsGroup"].to_numpy() == group
    sizes = np.where(of_it, true.pixel_size * factor, true.pixel_size)
    return replace(true, pixel_size=sizes)


@of_tables("a box of another size")
def other_box(tables, true, scene):
    tables["optics"]["rlnImageSize"] = scene.choose(8, 32)


@of_tables("subtomograms")
def subtomograms(tables, true, scene):
    tables["optics"]["rlnImageDimensionality"] = 3


@of_tables("a column twice, with other values")
def column_twice(tables, true, scene):
    table = tables["particles"]
    column = scene.choose("rlnAngleRot", "rlnDefocusU", "rlnOriginXAngst")
    table.insert(1, column, table[column] * 0.5, allow_duplicates=True)


@of_tables("a particle of no group", microscopes=3)
def values_permuted(tables, true, scene):
    tables["optics"] = tables["optics"].iloc[:-1]
