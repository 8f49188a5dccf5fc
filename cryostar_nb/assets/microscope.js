// A molecule that turns, its projection, and the image behind the lens: `microscope.py` describes
// the data. `lookThroughMicroscope(root, data, loaded)` fills the elements of microscope.html;
// `loaded` is a promise that 3Dmol.js has been loaded.
function lookThroughMicroscope(root, data, loaded) {
  const part = (name) => root.querySelector("." + name);
  const { size, shown, pixel, sigma, positions, electrons } = data;
  const edge = (size - shown) / 2;
  const ratios = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, Infinity];
  let pose = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

  // The matrix of a unit quaternion (x, y, z, w): eq. 3.8 of the book.
  function matrix(x, y, z, w) {
    return [
      [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
      [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
      [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ];
  }

  // The sum of two-dimensional Gaussians, y upwards: eq. 2.4.
  function project() {
    const image = new Float64Array(size * size), reach = Math.ceil(4 * sigma / pixel);
    positions.forEach((at, i) => {
      const [x, y] = [0, 1].map(
        (axis) => pose[axis].reduce((sum, value, k) => sum + value * at[k], 0) / pixel + size / 2);
      const left = Math.round(x) - reach, low = Math.round(y) - reach;
      const profile = (from, centre) => Array.from({ length: 2 * reach + 1 },
        (_, k) => Math.exp(-0.5 * ((from + k - centre) * pixel / sigma) ** 2));
      const across = profile(left, x), up = profile(low, y);
      const peak = electrons[i] / (2 * Math.PI * sigma * sigma);
      for (let row = Math.max(0, -low); row <= 2 * reach && low + row < size; row++)
        for (let k = Math.max(0, -left); k <= 2 * reach && left + k < size; k++)
          image[(low + row) * size + left + k] += peak * up[row] * across[k];
    });
    return image;
  }

  // The CTF at a frequency k, in 1/Å, and a defocus in Å: eq. 2.8 and 2.9, at 300 kV.
  function transfer(k, defocus) {
    const wavelength = 0.0196875, aberration = 2.7e7, w = 0.1;
    const gamma = -Math.PI * wavelength * defocus * k * k
      + Math.PI / 2 * aberration * wavelength ** 3 * k ** 4 - Math.asin(w);
    return -Math.sin(gamma);
  }

  // The Fourier transform of one line, in place; `sign` -1 is forward. Its length is a power of 2.
  function transformLine(real, imaginary, sign) {
    const n = real.length;
    for (let i = 1, j = 0; i < n; i++) {
      let bit = n >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) {
        [real[i], real[j]] = [real[j], real[i]];
        [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
      }
    }
    for (let length = 2; length <= n; length *= 2) {
      const angle = sign * 2 * Math.PI / length;
      for (let k = 0; k < length / 2; k++) {
        const c = Math.cos(angle * k), s = Math.sin(angle * k);
        for (let start = k; start < n; start += length) {
          const other = start + length / 2;
          const a = real[other] * c - imaginary[other] * s;
          const b = real[other] * s + imaginary[other] * c;
          real[other] = real[start] - a;
          imaginary[other] = imaginary[start] - b;
          real[start] += a;
          imaginary[start] += b;
        }
      }
    }
  }

  function transformImage(real, imaginary, sign) {
    const a = new Float64Array(size), b = new Float64Array(size);
    for (const [line, step] of [[size, 1], [1, size]])
      for (let row = 0; row < size; row++) {
        for (let k = 0; k < size; k++) {
          a[k] = real[row * line + k * step];
          b[k] = imaginary[row * line + k * step];
        }
        transformLine(a, b, sign);
        for (let k = 0; k < size; k++) {
          real[row * line + k * step] = a[k];
          imaginary[row * line + k * step] = b[k];
        }
      }
  }

  function behindLens(image, defocus) {
    const real = image.slice(), imaginary = new Float64Array(size * size);
    transformImage(real, imaginary, -1);
    const frequency = (i) => (i < size / 2 ? i : i - size) / (size * pixel);
    for (let row = 0; row < size; row++)
      for (let column = 0; column < size; column++) {
        const k = Math.hypot(frequency(row), frequency(column));
        const factor = transfer(k, defocus) / (size * size);
        real[row * size + column] *= factor;
        imaginary[row * size + column] *= factor;
      }
    transformImage(real, imaginary, 1);
    return real;
  }

  function middle(image) {
    const cut = new Float64Array(shown * shown);
    for (let row = 0; row < shown; row++)
      cut.set(image.subarray((row + edge) * size + edge, (row + edge) * size + edge + shown), row * shown);
    return cut;
  }

  // The same noise in every pose, so that it does not flicker.
  const noise = new Float64Array(shown * shown);
  let seed = 1;
  const random = () => (seed = seed * 16807 % 2147483647) / 2147483647;
  for (let i = 0; i < noise.length; i++)
    noise[i] = Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());

  function variance(values) {
    const mean = values.reduce((a, b) => a + b) / values.length;
    return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  }

  function draw(canvas, values) {
    const sorted = values.slice().sort();
    const low = sorted[Math.floor(0.01 * sorted.length)];
    const high = sorted[Math.floor(0.998 * sorted.length)];
    const context = canvas.getContext("2d"), picture = context.createImageData(shown, shown);
    for (let row = 0; row < shown; row++)
      for (let column = 0; column < shown; column++) {
        const grey = 255 * (values[(shown - 1 - row) * shown + column] - low) / (high - low || 1);
        picture.data.set([grey, grey, grey, 255], 4 * (row * shown + column));
      }
    context.putImageData(picture, 0, 0);
  }

  function drawCurve(defocus) {
    const canvas = part("curve"), context = canvas.getContext("2d");
    const { width, height } = canvas;
    const up = (value) => height / 2 - 0.45 * height * value;
    const line = (colour, points) => {
      context.beginPath();
      points.forEach(([x, y]) => context.lineTo(x, y));
      context.strokeStyle = colour;
      context.stroke();
    };
    context.clearRect(0, 0, width, height);
    line("#999999", [[0, up(0)], [width, up(0)]]);
    const at = (x) => [x, up(transfer(x / width / data.finest, defocus))];
    line("#D55E00", Array.from({ length: 2 * width }, (_, i) => at(i / 2)));
  }

  function look() {
    const defocus = Number(part("defocus").value), ratio = ratios[part("snr").value];
    const projection = project(), image = middle(behindLens(projection, 1e4 * defocus));
    const sd = Math.sqrt(variance(image) / ratio);
    draw(part("projection"), middle(projection));
    draw(part("image"), image.map((value, i) => value + sd * noise[i]));
    drawCurve(1e4 * defocus);
    part("micrometres").textContent = `${defocus.toFixed(2)} µm`;
    part("ratio").textContent = ratio === Infinity ? "no noise" : ratio;
    root.dataset.looks = Number(root.dataset.looks || 0) + 1;
  }

  for (const name of ["defocus", "snr"]) part(name).addEventListener("input", look);
  look();
  loaded.then(() => {
    const viewer = $3Dmol.createViewer(part("molecule"), { backgroundAlpha: 0 });
    viewer.addModel(data.pdb, "pdb");
    viewer.setStyle({}, { cartoon: { ...data.style, color: "spectrum" } });
    viewer.setBackgroundColor("white", 0);
    viewer.zoomTo();
    let last = "";
    viewer.setViewChangeCallback((view) => {
      const turn = view.slice(4, 8);
      if (String(turn) === last) return;
      last = String(turn);
      pose = matrix(...turn);
      look();
    });
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const turning = part("turning");
    turning.checked = !still;
    const spin = () => viewer.spin(turning.checked ? "y" : false, 0.5);
    turning.addEventListener("change", spin);
    viewer.render();
    spin();
    root.dataset.ready = "yes";
  });
}
