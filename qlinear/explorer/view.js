// The pixel explorer's page: one output element of any convolution of the network, shown.
//
// The numbers come from inference.js, which computes them from explorer-data.js; both are loaded
// when an explorer is about to be seen. ONNX Runtime's own outputs are in explorer-ort-NN.js, one
// file an image, loaded when it is chosen. These are plain scripts, not modules, because a browser
// loads no module from a file: address.
"use strict";

{
  const FOLDER = new URL(".", document.currentScript.src).href;

  function loadScript(name) {
    return new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = FOLDER + name;
      script.onload = done;
      script.onerror = failed;
      document.head.append(script);
    });
  }

  // --- ONNX Runtime's outputs

  // image to an Int8Array of every convolution's output, one after the other
  const oracle = {};
  window.QLINEAR_ORT = (image, text) => { oracle[image] = qlinearInference.int8(text); };

  function loadOracle(image) {
    if (oracle[image]) return Promise.resolve();
    return loadScript(`explorer-ort-${String(image).padStart(2, "0")}.js`);
  }

  // ONNX Runtime's output element, or undefined while its file is not loaded
  function theirs(network, image, node, m, y, x) {
    const [, OH, OW] = node.out, before = network.convs.slice(0, network.convs.indexOf(node));
    const start = before.reduce((sum, { out }) => sum + out[0] * out[1] * out[2], 0);
    return oracle[image] && oracle[image][start + (m * OH + y) * OW + x];
  }

  // --- pieces of a page

  function make(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  const option = (value, textContent) => make("option", { value, textContent });
  const numberBox = () => make("input", { type: "number", min: 0 });
  const captioned = (canvas, textContent) =>
    make("figure", {}, canvas, make("figcaption", { textContent }));
  const labelled = (textContent, input) =>
    make("label", { className: "explorer-field" }, make("span", { textContent }), input);

  function number(v) {
    if (v === 0) return "0"; // -0 too
    if (Number.isInteger(v)) return v.toLocaleString("en-US");
    return Number(v.toPrecision(9)).toString(); // nine digits name a float32
  }

  // a picture of columns x rows pixels; colour(i) is [red, green, blue]
  function paint(canvas, columns, rows, colour) {
    const context = canvas.getContext("2d"), picture = context.createImageData(columns, rows);
    for (let i = 0; i < rows * columns; i++) picture.data.set([...colour(i), 255], 4 * i);
    context.putImageData(picture, 0, 0);
  }

  // --- the chart of the running sum

  const LIMITS = [[2 ** 31 - 1, "+INT32"], [32767, "+INT16"], [0, "0"],
    [-32768, "−INT16"], [-(2 ** 31), "−INT32"]];

  // both signs on one logarithmic scale that is linear around 0
  const log = (v) => Math.sign(v) * Math.log10(1 + Math.abs(v));

  // where the chart, W units wide, has its edges and its points: px(products done), py(sum)
  function chartFrame(W, n) {
    const H = 220, left = 70, right = 10, top = 12, bottom = 30, limit = log(4e9);
    return {
      W, H, left, right: W - right,
      px: (k) => left + (W - left - right) * k / n,
      py: (v) => top + (H - top - bottom) * (0.5 - log(v) / limit / 2),
    };
  }

  function limitLine({ left, right, py }, v, text) {
    return `<line x1="${left}" x2="${right}" y1="${py(v)}" y2="${py(v)}" class="limit"/>` +
      `<text x="${left - 6}" y="${py(v) + 4}" text-anchor="end">${text}</text>`;
  }

  function sumPath({ px, py }, taps) {
    const points = taps.map((t, k) => `L${px(k + 1).toFixed(1)} ${py(t.sum).toFixed(1)}`);
    return `M${px(0)} ${py(0)}` + points.join("");
  }

  // the SVG of an element's running sum, of which the first `done` products stand out
  function chart(taps, done, W) {
    const frame = chartFrame(W, taps.length), { H, left, px, py } = frame;
    const sums = taps.map((t) => t.sum), sum = done ? sums[done - 1] : 0;
    const label = `Running sum over ${taps.length} products, from ${Math.min(...sums)} to ` +
      `${Math.max(...sums)}, against the INT16 and INT32 limits`;
    return `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${label}">` +
      LIMITS.map(([v, text]) => limitLine(frame, v, text)).join("") +
      `<path d="${sumPath(frame, taps)}" class="whole"/>` +
      `<path d="${sumPath(frame, taps.slice(0, done))}" class="done"/>` +
      `<circle cx="${px(done)}" cy="${py(sum)}" r="4"/>` +
      `<text x="${(left + W) / 2}" y="${H - 6}" text-anchor="middle">` +
      "products done (running sum, logarithmic)</text></svg>";
  }

  // --- tables and sentences

  // the sentence under the slider: the product that was done last
  function progress(node, taps, done) {
    const [, C, kh, kw] = node.shape;
    if (!done)
      return `${taps.length} products (${C} channels of ${kh}×${kw} taps); the sum starts at 0`;
    const tap = taps[done - 1], where = tap.inside ? "" : " in the padding";
    return `product ${done} of ${taps.length}: channel ${tap.c}, tap (${tap.ky}, ${tap.kx})` +
      `${where}: (${tap.x} − (${node.x_zero})) · ${tap.w} = ${number(tap.product)}; ` +
      `running sum ${number(tap.sum)}`;
  }

  // the window of one input channel as a table of value(tap); `now` is the tap done last
  function tapTable(title, rows, now, value) {
    const cell = (tap) => make("td", {
      textContent: number(value(tap)),
      className: (tap === now ? "now " : "") + (tap.inside ? "" : "padding"),
    });
    const body = rows.map((row) => make("tr", {}, ...row.map(cell)));
    return make("table", {}, make("caption", { textContent: title }), make("tbody", {}, ...body));
  }

  function tapTables(node, taps, channel, now) {
    const [, , kh, kw] = node.shape, mine = taps.filter((tap) => tap.c === channel);
    const rows = Array.from({ length: kh }, (_, ky) => mine.slice(ky * kw, (ky + 1) * kw));
    return [
      make("p", { textContent: `input channel ${channel}` }),
      tapTable("x (int8)", rows, now, (tap) => tap.x),
      tapTable("w (int8)", rows, now, (tap) => tap.w),
      tapTable("product (int32)", rows, now, (tap) => tap.product),
    ];
  }

  function stepRow(name, value, type) {
    return make("tr", {}, make("th", { textContent: name, scope: "row" }),
      make("td", { textContent: value }), make("td", { textContent: type }));
  }

  // the steps of requantization, and a last row that waits for ONNX Runtime's value
  function stepTable(e, verdict) {
    const rows = [
      ["sum of products", e.sum, "int32"], ["bias B[m]", e.bias, "int32"],
      ["acc", e.acc, "int32"], ["factor[m]", e.scale, "float32"],
      ["float32(acc) · factor[m]", e.scaled, "float32"],
      ["rint (ties to even)", e.rounded, "float32"],
      ["+ y_zero_point", e.shifted, "float32"], ["saturate: y", e.y, "int8"],
    ].map(([name, v, type]) => stepRow(name, number(v), type));
    return make("table", {}, make("caption", { textContent: "requantization" }),
      make("tbody", {}, ...rows, verdict));
  }

  // --- one explorer

  const ARROWS = {
    ArrowLeft: { y: 0, x: -1 }, ArrowRight: { y: 0, x: 1 },
    ArrowUp: { y: -1, x: 0 }, ArrowDown: { y: 1, x: 0 },
  };
  const START = { image: 0, layer: "block1_conv2", channel: 5, y: 10, x: 12, mac: 0 };

  class Explorer {
    constructor(root, data, network) {
      Object.assign(this, { root, data, network, state: { ...START } });
      // the explorer of the page of its own keeps its state in the address
      this.linked = root.dataset.linked !== undefined;
      this.build();
      this.readAddress();
      if (this.linked)
        window.addEventListener("hashchange", () => { this.readAddress(); this.draw(); });
      this.draw();
    }

    get node() { return this.network.byName[this.state.layer]; }

    // -- the state

    readAddress() {
      const { state, root, network } = this, inAddress = this.linked && location.hash.includes("=");
      const source = inAddress ? location.hash.slice(1) : root.dataset.start || "";
      for (const [key, value] of new URLSearchParams(source)) {
        if (key === "layer" && network.byName[value]?.kind === "conv") state.layer = value;
        else if (key in state && key !== "layer" && /^\d+$/.test(value)) state[key] = Number(value);
      }
      this.clampState();
    }

    clampState() {
      const { state, node } = this, [M, OH, OW] = node.out, [, C, kh, kw] = node.shape;
      const limits = {
        image: this.data.labels.length - 1, channel: M - 1, y: OH - 1, x: OW - 1, mac: C * kh * kw,
      };
      for (const [key, last] of Object.entries(limits))
        state[key] = Math.max(0, Math.min(last, state[key]));
    }

    // another element starts with no product done
    set(change) {
      const moved = Object.keys(change).some((key) => key !== "mac");
      Object.assign(this.state, moved ? { mac: 0 } : {}, change);
      this.clampState();
      if (this.linked) history.replaceState(null, "", `#${new URLSearchParams(this.state)}`);
      this.draw();
    }

    // -- the parts, made once

    build() {
      this.now = make("output", { className: "explorer-now" });
      this.chart = make("div", { className: "explorer-chart" });
      this.patch = make("div", { className: "explorer-patch" });
      this.steps = make("div", { className: "explorer-steps" });
      this.root.classList.add("explorer");
      this.root.replaceChildren(this.buildControls(), this.buildPictures(), this.buildRun(),
        this.now, this.chart, this.patch, this.steps);
    }

    buildControls() {
      const { data, network } = this;
      const image = (label, i) => option(i, `${i}: ${data.classes[label]}`);
      this.imageBox = make("select", {}, ...data.labels.map(image));
      this.layerBox = make("select", {}, ...network.convs.map(({ name }) => option(name, name)));
      [this.channelBox, this.rowBox, this.columnBox] = [numberBox(), numberBox(), numberBox()];
      this.imageBox.onchange = () => this.set({ image: Number(this.imageBox.value) });
      this.layerBox.onchange = () => this.set({ layer: this.layerBox.value });
      this.channelBox.onchange = () => this.set({ channel: Number(this.channelBox.value) });
      this.rowBox.onchange = () => this.set({ y: Number(this.rowBox.value) });
      this.columnBox.onchange = () => this.set({ x: Number(this.columnBox.value) });
      return make("div", { className: "explorer-controls" },
        labelled("image", this.imageBox), labelled("layer", this.layerBox),
        labelled("output channel", this.channelBox),
        labelled("row", this.rowBox), labelled("column", this.columnBox));
    }

    buildPictures() {
      this.photo = make("canvas", { width: 32, height: 32 });
      this.photo.setAttribute("role", "img");
      this.map = make("canvas", { tabIndex: 0 });
      this.map.setAttribute("role", "application");
      this.map.onclick = (event) => this.pick(event);
      this.map.onkeydown = (event) => this.move(event);
      return make("div", { className: "explorer-pictures" }, captioned(this.photo, "input image"),
        captioned(this.map, "output of the channel: click, or arrow keys"));
    }

    buildRun() {
      this.play = make("button", { type: "button", textContent: "▶ play" });
      this.play.onclick = () => this.toggle();
      this.slider = make("input", { type: "range", min: 0 });
      this.slider.setAttribute("aria-label", "products done");
      this.slider.oninput = () => this.set({ mac: Number(this.slider.value) });
      return make("div", { className: "explorer-run" }, this.play, this.slider);
    }

    // -- what the reader does

    pick(event) {
      const box = this.map.getBoundingClientRect(), [, rows, columns] = this.node.out;
      this.set({
        x: Math.floor((event.clientX - box.left) / box.width * columns),
        y: Math.floor((event.clientY - box.top) / box.height * rows),
      });
    }

    move(event) {
      const arrow = ARROWS[event.key];
      if (!arrow) return;
      event.preventDefault();
      this.set({ y: this.state.y + arrow.y, x: this.state.x + arrow.x });
    }

    toggle() {
      if (this.timer) return this.stop();
      const total = Number(this.slider.max), step = Math.max(1, Math.round(total / 150));
      if (this.state.mac >= total) this.set({ mac: 0 });
      this.play.textContent = "⏸ pause";
      this.timer = setInterval(() => {
        if (this.state.mac >= total) return this.stop();
        this.set({ mac: Math.min(total, this.state.mac + step) });
      }, 60);
    }

    stop() {
      clearInterval(this.timer);
      this.timer = null;
      this.play.textContent = "▶ play";
    }

    // -- drawing, all of it at each change

    draw() {
      const { state, node, network } = this, { image, channel, y, x, mac } = state;
      const e = qlinearInference.element(network, image, node, channel, y, x);
      const tap = mac ? e.taps[mac - 1] : null;
      this.drawControls(e.taps.length);
      this.drawPhoto();
      this.drawMap();
      this.chart.innerHTML = chart(e.taps, mac, this.chart.clientWidth < 480 ? 360 : 640);
      this.now.textContent = progress(node, e.taps, mac);
      this.patch.replaceChildren(...tapTables(node, e.taps, tap ? tap.c : 0, tap));
      this.drawSteps(e);
    }

    drawControls(taps) {
      const { state } = this, [M, OH, OW] = this.node.out;
      this.imageBox.value = state.image;
      this.layerBox.value = state.layer;
      Object.assign(this.channelBox, { value: state.channel, max: M - 1 });
      Object.assign(this.rowBox, { value: state.y, max: OH - 1 });
      Object.assign(this.columnBox, { value: state.x, max: OW - 1 });
      Object.assign(this.slider, { max: taps, value: state.mac });
    }

    drawPhoto() {
      const { data, network: { pixels }, state: { image } } = this, plane = 32 * 32;
      const at = (i, c) => pixels[(3 * image + c) * plane + i];
      paint(this.photo, 32, 32, (i) => [at(i, 0), at(i, 1), at(i, 2)]);
      const label = `image ${image}, a ${data.classes[data.labels[image]]}`;
      this.photo.setAttribute("aria-label", label);
    }

    drawMap() {
      const { node, state: { image, channel, y, x } } = this, [, rows, columns] = node.out;
      const whole = qlinearInference.tensor(this.network, image, node.name);
      const chosen = y * columns + x, grey = (i) => whole[channel * rows * columns + i] + 128;
      Object.assign(this.map, { width: columns, height: rows });
      paint(this.map, columns, rows,
        (i) => i === chosen ? [213, 94, 0] : [grey(i), grey(i), grey(i)]);
      this.map.setAttribute("aria-label",
        `feature map of ${node.name}, channel ${channel}, ${rows} by ${columns}; ` +
        `row ${y}, column ${x} is chosen; arrow keys move`);
    }

    drawSteps(e) {
      const { node, network, state: { image, channel, y, x } } = this;
      const verdict = stepRow("ONNX Runtime", "…", "int8");
      this.steps.replaceChildren(stepTable(e, verdict));
      loadOracle(image).then(() => {
        const value = theirs(network, image, node, channel, y, x), equal = value === e.y;
        verdict.children[1].textContent = `${value} ${equal ? "= equal" : "≠ DIFFERENT"}`;
        verdict.className = equal ? "equal" : "different";
      }, () => { verdict.children[1].textContent = "not loaded"; });
    }
  }

  // --- the start

  // for tests, and for the console
  function published(network) {
    const { byName, convs } = network, { element, tensor } = qlinearInference;
    return {
      layers: convs.map(({ name, out }) => ({ name, out })),
      value: (image, layer, m, y, x) => element(network, image, byName[layer], m, y, x).y,
      whole: (image, layer) => Array.from(tensor(network, image, layer)),
      ort: (image, layer, m, y, x) =>
        loadOracle(image).then(() => theirs(network, image, byName[layer], m, y, x)),
    };
  }

  function startExplorers() {
    const data = window.QLINEAR_EXPLORER, network = qlinearInference.network(data);
    window.qlinearExplorer = published(network);
    for (const root of document.querySelectorAll("[data-explorer]"))
      new Explorer(root, data, network);
  }

  // the data are 200 KB: loaded when an explorer comes near
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    const scripts = ["inference.js", "explorer-data.js"];
    Promise.all(scripts.map(loadScript)).then(startExplorers);
  }, { rootMargin: "400px" });
  for (const root of document.querySelectorAll("[data-explorer]")) watch.observe(root);
}
