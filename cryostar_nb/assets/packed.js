// Bytes and models that a page holds as text: see `packed` and `atom_columns` in explorer.py.
function packedBytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function packedNumbers(text) {
  return new Int16Array(packedBytes(text).buffer);
}

// The lines of a PDB file of the atoms whose first coordinate, in units of `step`, is at `offset`.
function packedModel(atoms, values, step, offset) {
  const pad = (value, width) => String(value).padStart(width);
  return atoms.map(([name, residue, chain, number], i) => {
    const coordinate = (axis) => (values[offset + 3 * i + axis] * step).toFixed(3);
    const place = [0, 1, 2].map((axis) => pad(coordinate(axis), 8)).join("");
    const serial = pad((i + 1) % 100000, 5), residueNumber = pad(number % 10000, 4);
    return `ATOM  ${serial} ${name} ${residue} ${chain}${residueNumber}    ${place}  1.00  0.00`;
  }).join("\n");
}
