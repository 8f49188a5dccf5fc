// The surface on which values, x outermost, reach a level: "surface nets" (Gibson, MICCAI 1998).
// Each cell of eight voxels that it cuts has a vertex, the mean of where it cuts the cell's edges;
// each edge between two voxels that it cuts has a face, of the vertices of the four cells around.
// (3Dmol.js makes surfaces of voxels without interpolation, and its smoothing shrinks them.)
// Vertices are in voxels; faces are triangles, three numbers of vertices each.
function contour(values, [nx, ny, nz], level) {
  const strides = [ny * nz, nz, 1], vertices = [], faces = [];
  const vertexOf = new Int32Array(values.length).fill(-1); // of the cell with this first voxel
  const corners = [...Array(8).keys()].map((n) => [n >> 2, (n >> 1) & 1, n & 1]);
  const offsets = corners.map(([x, y, z]) => x * strides[0] + y * strides[1] + z);
  const edges = [];
  for (let n = 0; n < 8; n++)
    for (const bit of [4, 2, 1]) if (!(n & bit)) edges.push([n, n | bit]);

  function cut(first, place) {
    let inside = 0, count = 0;
    for (const offset of offsets) inside += values[first + offset] >= level;
    if (inside % 8 === 0) return;
    const sum = [0, 0, 0];
    for (const [a, b] of edges) {
      const low = values[first + offsets[a]] - level, high = values[first + offsets[b]] - level;
      if (low >= 0 === high >= 0) continue;
      const part = low / (low - high);
      for (let i = 0; i < 3; i++)
        sum[i] += corners[a][i] + part * (corners[b][i] - corners[a][i]);
      count++;
    }
    vertexOf[first] = vertices.length;
    const [x, y, z] = sum.map((value, i) => place[i] + value / count);
    vertices.push({ x, y, z });
  }

  function join(first, place) {
    const inside = values[first] >= level;
    for (let axis = 0; axis < 3; axis++) {
      const [i, j] = [(axis + 1) % 3, (axis + 2) % 3], along = first + strides[axis];
      if (!place[i] || !place[j] || inside === values[along] >= level) continue;
      const [a, b] = [strides[i], strides[j]];
      const around = [first, first - a, first - a - b, first - b].map((cell) => vertexOf[cell]);
      const [p, q, r, s] = inside ? around : around.reverse();
      faces.push(p, q, r, p, r, s);
    }
  }

  for (const work of [cut, join])
    for (let x = 0; x < nx - 1; x++)
      for (let y = 0; y < ny - 1; y++)
        for (let z = 0; z < nz - 1; z++) work(x * strides[0] + y * nz + z, [x, y, z]);
  return { vertices, faces };
}
