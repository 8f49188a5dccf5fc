"""The text of PDB and mmCIF files: every atom record is read, or the file is refused."""

import codecs
import gzip
import re
import zlib
from pathlib import Path

import gemmi

from cryostar_nb.errors import InputError
from cryostar_nb.io.elements import complete_elements, is_left_aligned
from cryostar_nb.io.files import existing_file, one_line, refuse

_SUFFIX = re.compile(r"\.(pdb|ent|cif|mmcif)(\.gz)?$")
_UNREADABLE = (RuntimeError, ValueError, EOFError, OSError, zlib.error)


def read_document(path: Path | str, *, split_chain_on_ter: bool = False) -> gemmi.Structure:
    """All models of a PDB or mmCIF file (also gzipped), each chain in one piece.

    The elements of known residues are completed by the names of their atoms. Raises InputError for
    a file that is missing, cannot be parsed or holds no atoms, for coordinates that are no numbers,
    elements that contradict the names, and atom records that the parser would leave out.
    """
    path = existing_file(path, "a PDB or mmCIF file")
    suffix = _SUFFIX.search(path.name.lower())
    if suffix is None:
        problem = "a structure is read from .pdb, .ent, .cif or .mmcif (also .gz)"
        refuse(path, problem, path.suffix, "convert or rename the file")
    try:
        text = _text(path)
        if suffix[1] in ("pdb", "ent"):
            document, records = _read_pdb(path, text, split_chain_on_ter)
        else:
            document, records = _read_mmcif(path, text)
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        problem = f"cannot be read as a structure ({one_line(error)})"
        raise InputError(problem, file=path, remedy="check that it is complete") from error
    if records == 0:
        refuse(path, "holds no atoms", None, "give a PDB or mmCIF file with a model")
    read = sum(model.count_atom_sites() for model in document)
    if read != records:
        problem = f"holds {records:,} atom records, of which {{value}} can be read"
        refuse(path, problem, read, "write it again, as one model in one piece")
    document.merge_chain_parts()
    complete_elements(path, document)
    return document


def _text(path: Path) -> str:
    """The text of a file, unpacked, without a byte-order mark, each line ended by a newline."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_pdb(path: Path, text: str, split: bool) -> tuple[gemmi.Structure, int]:
    """A PDB file, and the number of its atom records.

    Raises InputError for coordinates that are no numbers, which gemmi reads as 0, for letters
    that move columns, and for atoms after an END record, which it leaves out.
    """
    lines = text.split("\n")
    numbers = [i for i, line in enumerate(lines) if line[:6].upper() in ("ATOM  ", "HETATM")]
    end = next((i for i, line in enumerate(lines) if line.rstrip().upper() == "END"), len(lines))
    for i in numbers:
        if not lines[i].isascii():
            problem = "line {value} has letters beyond ASCII, which move its columns"
            refuse(path, problem, i + 1, "replace them")
        if lines[i][26:27].isdigit():
            problem = "line {value} has a residue number of five digits"
            refuse(path, problem, i + 1, "write it as mmCIF, or renumber the residues")
        for field in (lines[i][30:38], lines[i][38:46], lines[i][46:54]):
            try:
                float(field.replace("_", "x"))  # Python reads 1_0 as 10
            except ValueError:
                problem = f"line {i + 1} has the coordinate {field!r}"
                refuse(path, problem, field, "give a number")
    if numbers and numbers[-1] > end:
        problem = "line {value} is an END record, and atoms follow it"
        remedy = "of joined files keep one; put MODEL and ENDMDL records around frames"
        refuse(path, problem, end + 1, remedy)
    for i in numbers:
        if lines[i][76:80].strip().isdigit():  # the number of a line, as before 1996
            lines[i] = lines[i][:72]
    if any(is_left_aligned(lines[i]) for i in numbers):
        for i in numbers:  # the column of a name does not tell its element
            if not lines[i][76:78].strip():
                lines[i] = f"{lines[i][:76]:<76} X{lines[i][78:]}"
    ascii_text = "\n".join(lines).encode("ascii", "replace").decode()
    document = gemmi.read_pdb_string(ascii_text, split_chain_on_ter=split)
    for line in lines[: numbers[0] if numbers else 0]:
        if line.startswith("NUMMDL"):
            document.info["NUMMDL"] = line[6:].strip()
    return document, len(numbers)


def _read_mmcif(path: Path, text: str) -> tuple[gemmi.Structure, int]:
    """The one block of an mmCIF file that has atoms, and the number of its atom records."""
    blocks = gemmi.cif.read_string(text)
    counted = [(block, len(block.find_values("_atom_site.Cartn_x"))) for block in blocks]
    with_atoms = [(block, records) for block, records in counted if records]
    if len(with_atoms) > 1:
        names = " and ".join(f"data_{block.name}" for block, _ in with_atoms[:2])
        problem = f"holds atoms in {{value}} data blocks ({names})"
        refuse(path, problem, len(with_atoms), "keep one of them")
    if not with_atoms:
        return gemmi.Structure(), 0
    block, records = with_atoms[0]
    loop = block.find_loop("_atom_site.Cartn_x").get_loop()
    if loop is not None and "_atom_site.type_symbol" not in loop.tags:
        loop.add_columns(["_atom_site.type_symbol"], "?")
    return gemmi.make_structure_from_block(block), records
