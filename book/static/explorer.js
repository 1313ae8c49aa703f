// The pixel explorer: one output element of any convolution of the network, computed in the page.
//
// Everything comes from explorer-data.js (weights, biases, scales, zero points, the 20 images; made by
// scripts/build_explorer.py) in exact arithmetic: integers for the sums, Math.fround for float32.
// ONNX Runtime's own outputs are in explorer-ort-NN.js, one file an image, loaded when it is chosen.
"use strict";

function loadScript(address) {
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = done;
    script.onerror = failed;
    document.head.append(script);
  });
}

function startExplorers(data, base) {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const int8 = (text) => new Int8Array(bytes(text).buffer);
  const int32 = (text) => new Int32Array(bytes(text).buffer);
  const f32 = Math.fround;

  // --- arithmetic

  // nearest integer, ties to even
  function rint(v) {
    const floor = Math.floor(v), rest = v - floor;
    if (rest < 0.5 || (rest === 0.5 && floor % 2 === 0)) return floor;
    return floor + 1;
  }

  const saturate = (v) => Math.max(-128, Math.min(127, v));

  // float32 a * b + c with one rounding: the sum in float64 is rounded to odd, then to float32
  const word = new BigInt64Array(1), real = new Float64Array(word.buffer);
  function fma(a, b, c) {
    const product = a * b, sum = product + c, part = sum - product;
    const lost = product - (sum - part) + (c - part);
    real[0] = sum;
    if (lost !== 0 && (word[0] & 1n) === 0n) word[0] += (lost > 0) === (sum > 0) ? 1n : -1n;
    return f32(real[0]);
  }

  // --- the network

  const nodes = data.nodes.map((node) => {
    if (node.kind === "add") return node;
    const scales = node.w_scale.map((s) => f32(f32(f32(node.x_scale) * f32(s)) / f32(node.y_scale)));
    return { ...node, w: int8(node.w), B: int32(node.B), scales };
  });
  const byName = Object.fromEntries(nodes.map((node) => [node.name, node]));
  const convs = nodes.filter((node) => node.kind === "conv");
  const pixels = bytes(data.images);
  const cache = new Map(); // "image/tensor" to Int8Array

  function tensor(image, name) {
    const key = `${image}/${name}`;
    if (!cache.has(key)) {
      if (cache.size > 60) cache.clear();
      cache.set(key, compute(image, name));
    }
    return cache.get(key);
  }

  function compute(image, name) {
    if (name === "image") {
      const size = 3 * 32 * 32;
      return Int8Array.from(pixels.subarray(image * size, (image + 1) * size), (v) => v - 128);
    }
    const node = byName[name];
    return node.kind === "add" ? add(node, image) : conv(node, image);
  }

  function add(node, image) {
    const a = tensor(image, node.a), b = tensor(image, node.b);
    const ra = f32(f32(node.a_scale) / f32(node.c_scale)), rb = f32(f32(node.b_scale) / f32(node.c_scale));
    const fixed = f32(node.c_zero - fma(ra, node.a_zero, f32(rb * node.b_zero)));
    return Int8Array.from(a, (v, i) => saturate(rint(fma(ra, v, fma(rb, b[i], fixed)))));
  }

  // one output element: every product, and the steps of requantization
  function element(image, node, m, oy, ox) {
    const x = tensor(image, node.input), [, channels, kh, kw] = node.shape, taps = [];
    let sum = 0, at = m * channels * kh * kw;
    for (let c = 0; c < channels; c++)
      for (let ky = 0; ky < kh; ky++)
        for (let kx = 0; kx < kw; kx++, at++) {
          const iy = oy * node.strides[0] + ky - node.pads[0], ix = ox * node.strides[1] + kx - node.pads[1];
          const inside = iy >= 0 && iy < node.in[1] && ix >= 0 && ix < node.in[2];
          const stored = inside ? x[(c * node.in[1] + iy) * node.in[2] + ix] : node.x_zero;
          const product = (stored - node.x_zero) * node.w[at];
          sum += product;
          taps.push({ c, ky, kx, x: stored, w: node.w[at], product, sum, inside });
        }
    return { taps, sum, bias: node.B[m], ...requantize(node, m, sum + node.B[m]) };
  }

  function requantize(node, m, acc) {
    const scale = node.scales[m], scaled = f32(f32(acc) * scale), rounded = rint(scaled);
    return { acc, scale, scaled, rounded, shifted: rounded + node.y_zero, y: saturate(rounded + node.y_zero) };
  }

  function conv(node, image) {
    const x = tensor(image, node.input), [M, C, kh, kw] = node.shape, [, H, W] = node.in, [, OH, OW] = node.out;
    const y = new Int8Array(M * OH * OW);
    for (let m = 0, out = 0; m < M; m++)
      for (let oy = 0; oy < OH; oy++)
        for (let ox = 0; ox < OW; ox++, out++) {
          let acc = node.B[m];
          for (let c = 0; c < C; c++)
            for (let ky = 0; ky < kh; ky++) {
              const iy = oy * node.strides[0] + ky - node.pads[0];
              if (iy < 0 || iy >= H) continue;
              for (let kx = 0; kx < kw; kx++) {
                const ix = ox * node.strides[1] + kx - node.pads[1];
                if (ix < 0 || ix >= W) continue;
                acc += (x[(c * H + iy) * W + ix] - node.x_zero) * node.w[((m * C + c) * kh + ky) * kw + kx];
              }
            }
          y[out] = requantize(node, m, acc).y;
        }
    return y;
  }

  // --- ONNX Runtime's outputs, loaded an image at a time

  const oracle = {}; // image to Int8Array of all layers' outputs, one after the other
  window.QLINEAR_ORT = (image, text) => { oracle[image] = int8(text); };

  function loadOracle(image) {
    if (oracle[image]) return Promise.resolve();
    return loadScript(`${base}explorer-ort-${String(image).padStart(2, "0")}.js`);
  }

  function theirs(image, node, m, y, x) {
    let offset = 0;
    for (const other of convs) {
      if (other === node) break;
      offset += other.out[0] * other.out[1] * other.out[2];
    }
    return oracle[image] && oracle[image][offset + (m * node.out[1] + y) * node.out[2] + x];
  }

  // --- the page

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const number = (v) => (v === 0 ? "0" : Number.isInteger(v) ? v.toLocaleString("en-US") : Number(v.toPrecision(9)).toString());

  class Explorer {
    constructor(root) {
      this.root = root;
      this.linked = root.dataset.linked !== undefined; // the page's own explorer keeps its state in the address
      this.state = { image: 0, layer: "block1_conv2", channel: 5, y: 10, x: 12, mac: 0 };
      this.build();
      this.readAddress();
      if (this.linked) window.addEventListener("hashchange", () => { this.readAddress(); this.draw(); });
      this.draw();
    }

    get node() { return byName[this.state.layer]; }

    readAddress() {
      const source = this.linked && location.hash.includes("=") ? location.hash.slice(1) : this.root.dataset.start || "";
      for (const [key, value] of new URLSearchParams(source)) {
        if (key === "layer" && byName[value]?.kind === "conv") this.state.layer = value;
        else if (key in this.state && key !== "layer" && /^\d+$/.test(value)) this.state[key] = Number(value);
      }
      this.clampState();
    }

    clampState() {
      const { state, node } = this, limit = (v, n) => Math.max(0, Math.min(n - 1, v));
      state.image = limit(state.image, data.labels.length);
      state.channel = limit(state.channel, node.out[0]);
      state.y = limit(state.y, node.out[1]);
      state.x = limit(state.x, node.out[2]);
      state.mac = Math.max(0, Math.min(node.shape[1] * node.shape[2] * node.shape[3], state.mac));
    }

    set(change) {
      const moved = Object.keys(change).some((key) => key !== "mac");
      Object.assign(this.state, moved ? { mac: 0 } : {}, change);
      this.clampState();
      if (this.linked) history.replaceState(null, "", `#${new URLSearchParams(this.state)}`);
      this.draw();
    }

    field(label, input) {
      return make("label", { className: "explorer-field" }, make("span", { textContent: label }), input);
    }

    build() {
      const { root } = this;
      root.classList.add("explorer");
      root.replaceChildren();
      const option = (value, text) => make("option", { value, textContent: text });
      this.imageBox = make("select", {}, ...data.labels.map((l, i) => option(i, `${i}: ${data.classes[l]}`)));
      this.layerBox = make("select", {}, ...convs.map((n) => option(n.name, n.name)));
      this.channelBox = make("input", { type: "number", min: 0 });
      this.rowBox = make("input", { type: "number", min: 0 });
      this.columnBox = make("input", { type: "number", min: 0 });
      this.imageBox.onchange = () => this.set({ image: Number(this.imageBox.value) });
      this.layerBox.onchange = () => this.set({ layer: this.layerBox.value });
      this.channelBox.onchange = () => this.set({ channel: Number(this.channelBox.value) });
      this.rowBox.onchange = () => this.set({ y: Number(this.rowBox.value) });
      this.columnBox.onchange = () => this.set({ x: Number(this.columnBox.value) });
      const controls = make("div", { className: "explorer-controls" },
        this.field("image", this.imageBox), this.field("layer", this.layerBox), this.field("output channel", this.channelBox),
        this.field("row", this.rowBox), this.field("column", this.columnBox));

      this.photo = make("canvas", { width: 32, height: 32 });
      this.photo.setAttribute("role", "img");
      this.map = make("canvas", { tabIndex: 0 });
      this.map.setAttribute("role", "application");
      this.map.onclick = (event) => this.pick(event);
      this.map.onkeydown = (event) => this.move(event);
      const figure = (canvas, text) => make("figure", {}, canvas, make("figcaption", { textContent: text }));
      const pictures = make("div", { className: "explorer-pictures" },
        figure(this.photo, "input image"), figure(this.map, "output of the channel: click, or arrow keys"));

      this.play = make("button", { type: "button", textContent: "▶ play" });
      this.play.onclick = () => this.toggle();
      this.slider = make("input", { type: "range", min: 0 });
      this.slider.setAttribute("aria-label", "products done");
      this.slider.oninput = () => this.set({ mac: Number(this.slider.value) });
      this.now = make("output", { className: "explorer-now" });
      this.chart = make("div", { className: "explorer-chart" });
      this.patch = make("div", { className: "explorer-patch" });
      this.steps = make("div", { className: "explorer-steps" });
      root.append(controls, pictures, make("div", { className: "explorer-run" }, this.play, this.slider), this.now,
        this.chart, this.patch, this.steps);
    }

    pick(event) {
      const box = this.map.getBoundingClientRect(), [, rows, columns] = this.node.out;
      this.set({ x: Math.floor((event.clientX - box.left) / box.width * columns),
                 y: Math.floor((event.clientY - box.top) / box.height * rows) });
    }

    move(event) {
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!steps) return;
      event.preventDefault();
      this.set({ y: this.state.y + steps[0], x: this.state.x + steps[1] });
    }

    toggle() {
      if (this.timer) { clearInterval(this.timer); this.timer = null; this.play.textContent = "▶ play"; return; }
      const total = Number(this.slider.max);
      if (this.state.mac >= total) this.set({ mac: 0 });
      this.play.textContent = "⏸ pause";
      this.timer = setInterval(() => {
        if (this.state.mac >= total) return this.toggle();
        this.set({ mac: Math.min(total, this.state.mac + Math.max(1, Math.round(total / 150))) });
      }, 60);
    }

    draw() {
      const { state, node } = this, [M, C, kh, kw] = node.shape;
      const e = element(state.image, node, state.channel, state.y, state.x);
      this.imageBox.value = state.image;
      this.layerBox.value = state.layer;
      Object.assign(this.channelBox, { value: state.channel, max: M - 1 });
      Object.assign(this.rowBox, { value: state.y, max: node.out[1] - 1 });
      Object.assign(this.columnBox, { value: state.x, max: node.out[2] - 1 });
      Object.assign(this.slider, { max: e.taps.length, value: state.mac });
      this.drawPhoto();
      this.drawMap();
      this.drawChart(e);
      const done = state.mac, tap = done ? e.taps[done - 1] : null;
      this.now.textContent = tap
        ? `product ${done} of ${e.taps.length}: channel ${tap.c}, tap (${tap.ky}, ${tap.kx})${tap.inside ? "" : " in the padding"}: ` +
          `(${tap.x} − (${node.x_zero})) · ${tap.w} = ${number(tap.product)}; running sum ${number(tap.sum)}`
        : `${e.taps.length} products (${C} channels of ${kh}×${kw} taps); the sum starts at 0`;
      this.drawPatch(e, tap ? tap.c : 0, tap);
      this.drawSteps(e);
    }

    drawPhoto() {
      const context = this.photo.getContext("2d"), picture = context.createImageData(32, 32);
      const from = this.state.image * 3072;
      for (let i = 0; i < 1024; i++)
        for (let c = 0; c < 4; c++) picture.data[4 * i + c] = c === 3 ? 255 : pixels[from + c * 1024 + i];
      context.putImageData(picture, 0, 0);
      this.photo.setAttribute("aria-label", `image ${this.state.image}, a ${data.classes[data.labels[this.state.image]]}`);
    }

    drawMap() {
      const { state, node } = this, [, rows, columns] = node.out, y = tensor(state.image, node.name);
      Object.assign(this.map, { width: columns, height: rows });
      const context = this.map.getContext("2d"), picture = context.createImageData(columns, rows);
      for (let i = 0; i < rows * columns; i++) {
        const v = y[state.channel * rows * columns + i] + 128;
        picture.data.set([v, v, v, 255], 4 * i);
      }
      picture.data.set([213, 94, 0, 255], 4 * (state.y * columns + state.x));
      context.putImageData(picture, 0, 0);
      this.map.setAttribute("aria-label", `feature map of ${node.name}, channel ${state.channel}, ${rows} by ${columns}; ` +
        `row ${state.y}, column ${state.x} is chosen; arrow keys move`);
    }

    drawChart(e) {
      const W = this.chart.clientWidth < 480 ? 360 : 640, H = 220, left = 70, right = 10, top = 12, bottom = 30, log = (v) => Math.sign(v) * Math.log10(1 + Math.abs(v));
      const limit = log(4e9), n = e.taps.length;
      const px = (k) => left + (W - left - right) * k / n, py = (v) => top + (H - top - bottom) * (0.5 - log(v) / limit / 2);
      const path = (taps) => `M${px(0)} ${py(0)}` + taps.map((t, k) => `L${px(k + 1).toFixed(1)} ${py(t.sum).toFixed(1)}`).join("");
      const line = (v, text) => `<line x1="${left}" x2="${W - right}" y1="${py(v)}" y2="${py(v)}" class="limit"/>` +
        `<text x="${left - 6}" y="${py(v) + 4}" text-anchor="end">${text}</text>`;
      const at = this.state.mac, sum = at ? e.taps[at - 1].sum : 0;
      this.chart.innerHTML = `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="Running sum over ${n} products, from ` +
        `${Math.min(...e.taps.map((t) => t.sum))} to ${Math.max(...e.taps.map((t) => t.sum))}, against the INT16 and INT32 limits">` +
        line(2 ** 31 - 1, "+INT32") + line(32767, "+INT16") + line(0, "0") + line(-32768, "−INT16") + line(-(2 ** 31), "−INT32") +
        `<path d="${path(e.taps)}" class="whole"/><path d="${path(e.taps.slice(0, at))}" class="done"/>` +
        `<circle cx="${px(at)}" cy="${py(sum)}" r="4"/>` +
        `<text x="${(left + W) / 2}" y="${H - 6}" text-anchor="middle">products done (running sum, logarithmic)</text></svg>`;
    }

    drawPatch(e, channel, tap) {
      const { node } = this, [, , kh, kw] = node.shape, taps = e.taps.filter((t) => t.c === channel);
      const table = (title, value) => {
        const body = make("tbody");
        for (let ky = 0; ky < kh; ky++) {
          const row = make("tr");
          for (let kx = 0; kx < kw; kx++) {
            const t = taps[ky * kw + kx];
            row.append(make("td", { textContent: number(value(t)), className: (t === tap ? "now " : "") + (t.inside ? "" : "padding") }));
          }
          body.append(row);
        }
        return make("table", {}, make("caption", { textContent: title }), body);
      };
      this.patch.replaceChildren(make("p", { textContent: `input channel ${channel}` }), table("x (int8)", (t) => t.x),
        table("w (int8)", (t) => t.w), table("product (int32)", (t) => t.product));
    }

    drawSteps(e) {
      const { state, node } = this, rows = [
        ["sum of products", e.sum, "int32"], ["bias B[m]", e.bias, "int32"], ["acc", e.acc, "int32"],
        ["scale[m]", e.scale, "float32"], ["float32(acc) · scale[m]", e.scaled, "float32"], ["rint (ties to even)", e.rounded, "float32"],
        ["+ y_zero_point", e.shifted, "float32"], ["saturate: y", e.y, "int8"]];
      const cells = (...texts) => texts.map((text, i) => make(i ? "td" : "th", i ? { textContent: text } : { textContent: text, scope: "row" }));
      const body = make("tbody", {}, ...rows.map(([name, v, type]) => make("tr", {}, ...cells(name, number(v), type))));
      const verdict = make("tr", {}, ...cells("ONNX Runtime", "…", "int8"));
      body.append(verdict);
      this.steps.replaceChildren(make("table", {}, make("caption", { textContent: "requantization" }), body));
      const { image, channel, y, x } = state;
      loadOracle(image).then(() => {
        const value = theirs(image, node, channel, y, x);
        verdict.children[1].textContent = `${value} ${value === e.y ? "= equal" : "≠ DIFFERENT"}`;
        verdict.className = value === e.y ? "equal" : "different";
      }, () => { verdict.children[1].textContent = "not loaded"; });
    }
  }

  // for tests, and for the console
  window.qlinearExplorer = {
    layers: convs.map((node) => ({ name: node.name, out: node.out })),
    value: (image, layer, channel, y, x) => element(image, byName[layer], channel, y, x).y,
    whole: (image, layer) => Array.from(tensor(image, layer)),
    ort: (image, layer, channel, y, x) => loadOracle(image).then(() => theirs(image, byName[layer], channel, y, x)),
  };
  for (const root of document.querySelectorAll("[data-explorer]")) new Explorer(root);
}

// the data (200 KB) are loaded when an explorer is about to be seen
(() => {
  const base = document.currentScript.src.replace(/explorer\.js.*$/, "");
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    loadScript(`${base}explorer-data.js`).then(() => startExplorers(window.QLINEAR_EXPLORER, base));
  }, { rootMargin: "400px" });
  for (const root of document.querySelectorAll("[data-explorer]")) watch.observe(root);
})();
