// Maps about models: sliders choose a map and the volume that its isosurface encloses, in percent
// of the molecule's. `showMaps(root, data, loaded)` fills the elements of map_view.html; `loaded`
// is a promise that 3Dmol.js has been loaded.
function showMaps(root, data, loaded) {
  const part = (name) => root.querySelector("." + name);
  const structures = packedNumbers(data.structures);
  let viewer = null;

  // The highest level, 1 to 255, that so many voxels reach.
  function levelAround(values, voxels) {
    const histogram = new Array(256).fill(0);
    for (const value of values) histogram[value]++;
    let level = 255, inside = histogram[255];
    while (level > 1 && inside < voxels) inside += histogram[--level];
    return level;
  }

  function drawSurface() {
    const map = data.maps[part("part").value], percent = Number(part("enclosed").value);
    const values = packedBytes(map.values), edge = data.voxel;
    const level = levelAround(values, (percent / 100) * (data.volume / edge ** 3));
    const { vertices, faces } = contour(values, data.size, level - 0.5);
    const [ox, oy, oz] = data.origin;
    const vertexArr = vertices.map(({ x, y, z }) => (
      { x: ox + edge * x, y: oy + edge * y, z: oz + edge * z }
    ));
    viewer.removeAllShapes();
    viewer.addCustom({ vertexArr, faceArr: faces, color: data.colours.map, opacity: 0.6 });
    viewer.render();
    const height = `${(level / map.sd).toFixed(1)} sd`;
    part("level").textContent = `${percent} % of the molecule's volume (${height})`;
    root.dataset.level = level;
  }

  function drawModel() {
    const number = Number(part("part").value), map = data.maps[number];
    const offset = 3 * data.atoms.length * number;
    viewer.removeAllModels();
    viewer.addModel(packedModel(data.atoms, structures, data.step, offset), "pdb");
    const tube = (color) => ({ cartoon: { style: "trace", thickness: 0.6, color } });
    viewer.setStyle({}, tube(data.colours.model));
    if (map.apart.length) viewer.setStyle({ index: map.apart }, tube(data.colours.apart));
    part("name").textContent = map.name;
    root.dataset.part = number;
  }

  loaded.then(() => {
    // A canvas without a background would make what is transparent on it nearly invisible.
    viewer = $3Dmol.createViewer(part("molecule"), { backgroundColor: "white" });
    part("part").addEventListener("input", () => { drawModel(); drawSurface(); });
    part("enclosed").addEventListener("input", drawSurface);
    drawModel();
    viewer.zoomTo();
    viewer.zoom(0.9);
    drawSurface();
    root.dataset.ready = "yes";
  });
}
