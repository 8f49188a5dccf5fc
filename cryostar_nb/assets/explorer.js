// The latent explorer: point at a place of the latent density, and the structure of the nearest
// particle, its projection and the particle's image appear. `exploreLatents(root, data, loaded)`
// fills the elements of explorer.html; `loaded` is a promise that 3Dmol.js has been loaded.
function exploreLatents(root, data, loaded) {
  const part = (name) => root.querySelector("." + name);
  const map = part("map"), context = map.getContext("2d"), status = part("status");
  const structures = packedNumbers(data.structures), reference = packedNumbers(data.reference);
  const predictions = packedBytes(data.predictions), particles = packedBytes(data.particles);
  const count = data.points.length, atoms = data.atoms.length, side = data.side;
  let chosen = 0, pinned = false, viewer = null;

  // Places on the canvas, 0 to 1 to the right and upwards.
  const margin = 14;
  const inside = { width: map.width - 2 * margin, height: map.height - 2 * margin };
  const x = (value) => margin + value * inside.width;
  const y = (value) => map.height - margin - value * inside.height;

  function drawMap() {
    context.clearRect(0, 0, map.width, map.height);
    const highest = Math.log(1 + Math.max(...data.density.flat()));
    const width = inside.width / data.density[0].length;
    const height = inside.height / data.density.length;
    data.density.forEach((row, j) => row.forEach((value, i) => {
      if (!value) return;
      context.fillStyle = `rgba(0, 114, 178, ${0.12 + 0.88 * Math.log(1 + value) / highest})`;
      const top = map.height - margin - (j + 1) * height;
      context.fillRect(margin + i * width, top, width + 0.5, height + 0.5);
    }));
    data.points.forEach(([px, py], i) => {
      context.beginPath();
      context.arc(x(px), y(py), i === chosen ? 8 : 3, 0, 7);
      const colour = data.colours ? data.colours[i] : "rgba(255, 255, 255, 0.9)";
      context.fillStyle = i === chosen && !data.colours ? "#D55E00" : colour;
      context.fill();
      context.lineWidth = i === chosen ? 2.5 : 1;
      context.strokeStyle = i === chosen ? (data.colours ? "#D55E00" : "#ffffff") : "#00476f";
      context.stroke();
    });
  }

  function drawImage(canvas, values, offset) {
    const picture = canvas.getContext("2d").createImageData(side, side);
    for (let row = 0; row < side; row++)
      for (let column = 0; column < side; column++) {
        const value = values[offset + (side - 1 - row) * side + column]; // y points up
        picture.data.set([value, value, value, 255], 4 * (row * side + column));
      }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  function show(index) {
    chosen = index;
    drawMap();
    drawImage(part("prediction"), predictions, index * side * side);
    drawImage(part("particle"), particles, index * side * side);
    if (viewer) viewer.setFrame(index);
    root.dataset.chosen = index;
    const held = pinned ? " (held; click again to let go)" : "";
    const state = !data.states ? "" : data.states[index] ? `, true state ${data.states[index]}`
      : ", no good particle";
    const apart = `${data.apart[index].toFixed(2)} Å from the reference`;
    status.textContent = `Particle ${data.labels[index]}; ${apart}${state}${held}`;
  }

  function nearest(event) {
    const box = map.getBoundingClientRect();
    const px = (event.clientX - box.left) * map.width / box.width;
    const py = (event.clientY - box.top) * map.height / box.height;
    const squares = data.points.map(([a, b]) => (x(a) - px) ** 2 + (y(b) - py) ** 2);
    return squares.indexOf(Math.min(...squares));
  }

  map.addEventListener("pointermove", (event) => {
    if (!pinned && event.pointerType !== "touch") show(nearest(event));
  });
  map.addEventListener("click", (event) => {
    const index = nearest(event);
    pinned = !(pinned && index === chosen);
    show(index);
  });
  map.addEventListener("keydown", (event) => {
    const axis = { ArrowLeft: 0, ArrowRight: 0, ArrowDown: 1, ArrowUp: 1 }[event.key];
    if (axis === undefined) return;
    event.preventDefault();
    const along = (a, b) => data.points[a][axis] - data.points[b][axis];
    const order = [...data.points.keys()].sort(along);
    const step = event.key === "ArrowLeft" || event.key === "ArrowDown" ? -1 : 1;
    pinned = true;
    show(order[Math.min(count - 1, Math.max(0, order.indexOf(chosen) + step))]);
  });

  show(data.first);
  loaded.then(() => {
    viewer = $3Dmol.createViewer(part("molecule"), { backgroundAlpha: 0 });
    const trace = (thickness, color) => ({ cartoon: { style: "trace", thickness, color } });
    const model = (values, offset) => packedModel(data.atoms, values, data.step, offset);
    const frames = [...Array(count).keys()].map(
      (i) => `MODEL ${String(i + 1).padStart(8)}\n${model(structures, 3 * atoms * i)}\nENDMDL`,
    );
    viewer.addModelsAsFrames(frames.join("\n"), "pdb");
    viewer.setStyle({ model: -1 }, trace(0.6, "spectrum"));
    viewer.addModel(model(reference, 0), "pdb");
    viewer.setStyle({ model: -1 }, trace(0.3, "#bbbbbb"));
    viewer.setBackgroundColor("white", 0);
    viewer.zoomTo();
    viewer.setFrame(chosen);
    viewer.render();
    root.dataset.ready = "yes";
  });
}
