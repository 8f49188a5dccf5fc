// The latent explorer: point at a place of the latent density, and the structure behind it, its projection and the particle
// appear beside it. `exploreLatents(root, data, drawn)` fills the elements that cryostar_nb.explorer writes; `drawn` is a promise
// that 3Dmol.js has been loaded.
function exploreLatents(root, data, drawn) {
  const part = (name) => root.querySelector("." + name);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const numbers = (text) => new Int16Array(bytes(text).buffer);
  const map = part("map"), context = map.getContext("2d"), status = part("status");
  const structures = numbers(data.structures), reference = numbers(data.reference);
  const predictions = bytes(data.predictions), particles = bytes(data.particles);
  const count = data.points.length, atoms = data.atoms.length, side = data.side;
  let chosen = 0, pinned = false, viewer = null;

  // Places on the canvas, 0 to 1 to the right and upwards.
  const margin = 14;
  const x = (value) => margin + value * (map.width - 2 * margin);
  const y = (value) => map.height - margin - value * (map.height - 2 * margin);

  function drawMap() {
    context.clearRect(0, 0, map.width, map.height);
    const highest = Math.log(1 + Math.max(...data.density.flat()));
    const width = (map.width - 2 * margin) / data.density[0].length, height = (map.height - 2 * margin) / data.density.length;
    data.density.forEach((row, j) => row.forEach((value, i) => {
      if (!value) return;
      context.fillStyle = `rgba(0, 114, 178, ${0.12 + 0.88 * Math.log(1 + value) / highest})`;
      context.fillRect(margin + i * width, map.height - margin - (j + 1) * height, width + 0.5, height + 0.5);
    }));
    data.points.forEach(([px, py], i) => {
      context.beginPath();
      context.arc(x(px), y(py), i === chosen ? 8 : 3, 0, 7);
      context.fillStyle = i === chosen ? "#D55E00" : "rgba(255, 255, 255, 0.9)";
      context.fill();
      context.lineWidth = i === chosen ? 2.5 : 1;
      context.strokeStyle = i === chosen ? "#ffffff" : "#00476f";
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

  function frame(values, offset) {
    const pad = (value, width) => String(value).padStart(width);
    return data.atoms.map(([name, residue, chain, number], i) => {
      const place = [0, 1, 2].map((axis) => pad((values[offset + 3 * i + axis] * data.step).toFixed(3), 8)).join("");
      return `ATOM  ${pad((i + 1) % 100000, 5)} ${name} ${residue} ${chain}${pad(number % 10000, 4)}    ${place}  1.00  0.00`;
    }).join("\n");
  }

  function show(index, how) {
    chosen = index;
    drawMap();
    drawImage(part("prediction"), predictions, index * side * side);
    drawImage(part("particle"), particles, index * side * side);
    if (viewer) viewer.setFrame(index);
    root.dataset.chosen = index;
    status.textContent = `Particle ${data.labels[index]}${pinned ? " (held; click again to let go)" : ""}`;
  }

  function nearest(event) {
    const box = map.getBoundingClientRect();
    const px = (event.clientX - box.left) * map.width / box.width, py = (event.clientY - box.top) * map.height / box.height;
    const far = data.points.map(([a, b]) => (x(a) - px) ** 2 + (y(b) - py) ** 2);
    return far.indexOf(Math.min(...far));
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
    const order = [...data.points.keys()].sort((a, b) => data.points[a][axis] - data.points[b][axis]);
    const step = event.key === "ArrowLeft" || event.key === "ArrowDown" ? -1 : 1;
    pinned = true;
    show(order[Math.min(count - 1, Math.max(0, order.indexOf(chosen) + step))]);
  });

  show(data.first);
  drawn.then(() => {
    viewer = $3Dmol.createViewer(part("molecule"), { backgroundAlpha: 0 });
    const frames = [...Array(count).keys()].map((i) => `MODEL ${pad4(i + 1)}\n${frame(structures, 3 * atoms * i)}\nENDMDL`);
    viewer.addModelsAsFrames(frames.join("\n"), "pdb");
    viewer.setStyle({ model: -1 }, { cartoon: { style: "trace", thickness: 0.6, color: "spectrum" } });
    viewer.addModel(frame(reference, 0), "pdb");
    viewer.setStyle({ model: -1 }, { cartoon: { style: "trace", thickness: 0.3, color: "#bbbbbb" } });
    viewer.setBackgroundColor("white", 0);
    viewer.zoomTo();
    viewer.setFrame(chosen);
    viewer.render();
    root.dataset.ready = "yes";
  });

  function pad4(value) {
    return String(value).padStart(8);
  }
}
