"""Atoms and residues as lines of a PDB file."""

BACKBONE = {"N": (0.0, 0.0, 0.0), "CA": (1.5, 0.0, 0.0), "C": (2.0, 1.4, 0.0), "O": (1.2, 2.3, 0.0)}


def atom_line(
    name,
    residue,
    number,
    xyz=(0.0, 0.0, 0.0),
    *,
    chain="A",
    icode="",
    altloc="",
    element="",
    record="ATOM",
):
    """An atom in the columns of the PDB format; a coordinate may be text."""
    element = element or name[0]
    padded = f"{name:<4}" if len(element) == 2 or len(name) == 4 else f" {name:<3}"
    place = f"{residue:>3} {chain}{number:4d}{icode or ' '}"
    coordinates = "".join(value if isinstance(value, str) else f"{value:8.3f}" for value in xyz)
    start = f"{record:<6}    1 {padded}{altloc or ' '}{place}   {coordinates}"
    return f"{start}  1.00  0.00          {element:>2}"


def residue_lines(residue, number, *, x=0.0, atoms=BACKBONE, **options):
    return [
        atom_line(name, residue, number, (x + dx, y, z), **options)
        for name, (dx, y, z) in atoms.items()
    ]
