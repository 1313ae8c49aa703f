// The explorer's page: one output element of any node of a network, shown with all that made it.
//
// The numbers come from inference.js, which computes them from the data of qlinear/explore.py. On
// the site a run's tensors are in a file of their own, loaded when the image is chosen.
"use strict";

{
  const Q = globalThis.qlinearInference;
  const {
    make, part, option, button, field, number, palette, shade, reachOf, scaleOf, endsOf, Picture,
    chart, CHART, tapTables, formula, copy,
  } = globalThis.qlinearParts;

  // --- one explorer

  const MOVES = {
    ArrowLeft: (s) => ({ x: s.x - 1 }), ArrowRight: (s) => ({ x: s.x + 1 }),
    ArrowUp: (s) => ({ y: s.y - 1 }), ArrowDown: (s) => ({ y: s.y + 1 }),
    Home: () => ({ x: 0 }), End: () => ({ x: Infinity }),
    PageUp: (s) => ({ channel: s.channel - 1 }), PageDown: (s) => ({ channel: s.channel + 1 }),
  };
  const AXES = { n: "batch", channel: "output channel", y: "row", x: "column" };
  const SPEEDS = { slow: [500, Infinity], normal: [60, 150], fast: [60, 40] }; // ms, steps in all
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  const titled = (title) => ({ title, aria: { "aria-label": title } });

  class Explorer {
    constructor(root, network, folder) {
      Object.assign(this, { root, network, folder, data: network.data });
      this.small = root.dataset.explorer === "small";
      // the explorer of a page of its own keeps its state in the address
      this.linked = root.dataset.linked !== undefined;
      this.trail = [];
      this.layers = new Map();
      this.first = this.firstView();
      this.state = { image: 0, layer: this.first.name, n: 0, channel: 0, y: 0, x: 0, mac: 0 };
      this.state.y = this.layout.H >> 1; // the middle has more to see than a corner
      this.state.x = this.layout.W >> 1;
      this.what = {};
      this.build();
      if (this.linked) window.addEventListener("hashchange", () => this.readAddress());
      const redraw = () => this.draw();
      new MutationObserver(redraw).observe(document.documentElement,
        { attributes: true, attributeFilter: ["data-theme"] });
      new ResizeObserver(() => this.drawChart()).observe(this.chart);
      this.readAddress();
    }

    // the second convolution has more to see than the first, and any step more than none
    firstView() {
      const { views } = this.network, kinds = views.map(({ node }) => node.steps?.kind);
      const convs = views.filter((_, i) => kinds[i] === "conv");
      return convs[1] ?? convs[0] ?? views.find((_, i) => kinds[i] === "dense") ??
        views.find((_, i) => kinds[i]) ?? views[0];
    }

    get view() { return this.network.byName[this.state.layer]; }

    get run() { return this.data.runs[this.state.image]; }

    // the output's shape, known before the run's values are, and the same as pictures
    get shape() { return Q.shapeOf(this.network, this.run, this.view.tensor) ?? []; }

    get layout() { return Q.layout(this.shape); }

    tensorOf(name) { return Q.tensor(this.network, this.run, name); }

    // The node's operands, ready; kept for a few nodes. None before the run's values are there.
    get layer() {
      if (!this.run.values) return null;
      const { layers, state: { image, layer } } = this, key = `${image} ${layer}`;
      if (!layers.has(key)) {
        if (layers.size > 8) layers.clear();
        layers.set(key, Q.layer(this.network, this.run, this.view));
      }
      return layers.get(key);
    }

    // -- the state and the address

    // What the address asks for. What it cannot have is said, and put right in the address.
    readAddress() {
      const { state, root, network } = this, inAddress = this.linked && location.hash.includes("=");
      const source = inAddress ? location.hash.slice(1) : root.dataset.start || "";
      const wrong = [], wanted = {};
      for (const [key, value] of new URLSearchParams(source)) {
        if (key === "layer" && !network.byName[value])
          wrong.push(`there is no layer ${value.slice(0, 40)}`);
        else if (key === "layer") wanted.layer = network.byName[value].name;
        else if (Object.hasOwn(state, key) && !/^\d+$/.test(value))
          wrong.push(`${key} is a whole number from 0, not ${value.slice(0, 20)}`);
        else if (Object.hasOwn(state, key)) wanted[key] = Number(value);
        else if (Object.hasOwn(Q.SWITCHES, key) &&
          Q.SWITCHES[key].choices.some(([name]) => name === value)) wanted[key] = value;
        else wrong.push(`${key.slice(0, 20)}=${value.slice(0, 20)} means nothing here`);
      }
      for (const key of Object.keys(Q.SWITCHES)) this.what[key] = wanted[key] ?? "";
      this.stop();
      const numbers = Object.fromEntries(Object.keys(state).map((key) => [key, wanted[key]])
        .filter(([, value]) => value !== undefined));
      const same = this.trail.findIndex((one) => one.layer === numbers.layer &&
        ["image", "channel", "y", "x"].every((key) => one[key] === numbers[key]));
      if (same >= 0) this.trail.length = same;
      Object.assign(state, { mac: 0 }, numbers);
      this.arrive(wrong, inAddress);
    }

    // bring the numbers into their ranges; says which were not
    clampState() {
      const { state } = this, wrong = [], { N, C, H, W } = this.layout;
      const last = { n: N - 1, channel: C - 1, y: H - 1, x: W - 1, mac: this.layer?.count ?? 0 };
      for (const [key, most] of Object.entries(last)) {
        const value = Math.max(0, Math.min(most, state[key] || 0));
        if (value === state[key]) continue;
        state[key] = value;
        if (most < 0) continue; // a tensor without elements
        const range = `${AXES[key] ?? key} goes from 0 to ${number(most)}`;
        wrong.push(`${range}; this is ${number(value)}`);
      }
      return wrong;
    }

    // show the state as soon as the run's values are there
    async arrive(wrong = [], says = true) {
      const { state } = this;
      if (state.image >= this.data.runs.length) {
        const last = this.data.runs.length - 1;
        wrong.push(`image goes from 0 to ${last}; this is ${last}`);
        state.image = last;
      }
      const { run } = this;
      if (!run.values) {
        this.endSweep();
        this.root.classList.add("explorer-busy");
        try {
          await loadRun(this.folder, state.image);
        } catch {
          if (run !== this.run) return;
          return this.say("ONNX Runtime’s values of this image did not load. Is there a " +
            "connection? Choosing the image again tries again.");
        }
        if (run !== this.run) return; // another one was chosen meanwhile
      }
      this.root.classList.remove("explorer-busy");
      wrong.push(...this.clampState());
      this.say(says ? wrong.join("; ") : "");
      this.draw();
      this.keepAddress();
    }

    // No verdict stays on the page beside an element that it is not of, whatever happens next.
    forget() {
      this.steps.replaceChildren();
      this.verdict?.replaceChildren();
      if (this.small) return;
      this.count.textContent = "";
    }

    // what was counted of another image says nothing of this one
    endSweep() {
      clearTimeout(this.sweeping);
      Object.assign(this, { sweptKey: null, swept: null, sweeping: null, asked: false });
      this.forget();
      if (this.small) return;
      this.heat.figure.hidden = this.next.hidden = this.compare.hidden = true;
      this.heat.rows = 0;
    }

    // another element starts with no product done
    set(change, { says = false, push = false } = {}) {
      const moved = Object.keys(change).some((key) => key !== "mac");
      if (moved) this.stop();
      if (moved && !push && ("layer" in change || "image" in change)) this.trail = [];
      if (push) this.keepAddress(true);
      Object.assign(this.state, moved ? { mac: 0 } : {}, change);
      if (push) this.pushed = true;
      this.arrive([], says);
    }

    fragment() {
      const { state, what } = this, { image, layer, n, channel, y, x, mac } = state;
      const kept = { image, layer, ...(n ? { n } : {}), channel, y, x, mac };
      for (const key of Object.keys(Q.SWITCHES)) if (what[key]) kept[key] = what[key];
      return `#${new URLSearchParams(kept)}`;
    }

    // Browsers let a page change its address a hundred times in half a minute, and then throw. So
    // it is changed when the reader has settled, and never while the sum is playing.
    keepAddress(now = false) {
      clearTimeout(this.waiting);
      if (!this.linked || (this.timer && !now)) return;
      const before = location.hash;
      const write = () => {
        const fragment = this.fragment();
        // an address that the reader has given since is not lost: it is about to be read
        if (fragment === location.hash || location.hash !== before) return;
        const change = this.pushed ? "pushState" : "replaceState";
        this.pushed = false;
        try { history[change](null, "", fragment); } catch { /* the address stays behind */ }
      };
      if (now || this.pushed) write();
      else this.waiting = setTimeout(write, 300);
    }

    say(text, good = false) {
      this.note.classList.toggle("explorer-good", good);
      this.note.textContent = text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "";
      this.note.textContent = this.note.textContent.replace("..", ".");
    }

    // open the element of another node that made this operand
    walk(name, at) {
      const view = this.network.writer[name];
      if (!view || !this.run.values) return;
      const shape = Q.shapeOf(this.network, this.run, name) ?? [];
      this.trail.push({ ...this.state });
      this.set({ layer: view.name, ...Q.positionOf(Q.layout(shape), at) }, { push: true });
      this.map.canvas.focus({ preventScroll: true });
    }

    back(index) {
      const to = this.trail[index], trail = this.trail.slice(0, index);
      this.set({ ...to }, { push: true });
      this.trail = trail;
      this.drawTrail();
      this.map.canvas.focus({ preventScroll: true });
    }

    // -- the parts, made once

    build() {
      const { root, small } = this;
      root.classList.add("explorer", small ? "explorer-small" : "explorer-full");
      this.note = make("p", { className: "explorer-note", aria: { role: "status" } });
      this.now = make("output", { className: "explorer-now" });
      this.chart = part("explorer-chart");
      this.chart.onpointerdown = (event) => this.scrub(event);
      this.chart.onpointermove = (event) => event.buttons && this.scrub(event);
      this.tables = part("explorer-tables");
      const product = part("explorer-product", this.tables, this.now);
      this.sum = part("explorer-sum", product, this.buildRun(), this.chart);
      this.steps = part("explorer-steps");
      this.path = make("nav", { className: "explorer-trail",
        aria: { "aria-label": "the way back" } });
      const pictures = this.buildPictures();
      if (small) {
        this.full = make("a", { textContent: "Open in the full explorer" });
        this.verdict = part("explorer-verdict");
        const end = part("explorer-end", this.verdict, this.full);
        return root.replaceChildren(part("explorer-small-row", pictures, this.sum, end), this.note);
      }
      root.replaceChildren(this.buildControls(), this.note, this.path, pictures,
        part("explorer-numbers", this.sum, part("explorer-right", this.steps, this.buildWhat())));
    }

    buildControls() {
      const { data, network } = this, { runs } = data;
      this.imageBox = make("select", { onchange: () => this.set({ image: +this.imageBox.value }) },
        ...runs.map(({ name }, i) => option(i, runs.length > 1 ? `${i}: ${name}` : name)));
      this.layerBox = make("select", { onchange: () => this.set({ layer: this.layerBox.value }) },
        ...network.views.map(({ node, name }) => option(name, `${name} (${node.op})`)));
      this.boxes = {};
      const numbers = Object.entries(AXES).map(([key, title]) => {
        const box = make("input", { type: "number", min: 0, step: 1, inputMode: "numeric" });
        box.onchange = () => this.typed(key, box);
        this.boxes[key] = box;
        return field(title, box);
      });
      const step = (by) => {
        const { views } = network, at = views.indexOf(this.view) + by;
        if (views[at]) this.set({ layer: views[at].name });
      };
      return part("explorer-controls", field("image", this.imageBox), part("explorer-nodes",
        button("‹", () => step(-1), titled("node before")), field("layer", this.layerBox),
        button("›", () => step(1), titled("node after"))),
      ...numbers, this.buildCopy());
    }

    // whole numbers only
    typed(key, box) {
      const text = box.value.trim();
      if (!/^-?\d+$/.test(text)) {
        box.value = this.state[key];
        return this.say(`${AXES[key]} is a whole number from 0 to ${number(+box.max)}`);
      }
      this.set({ [key]: Number(text) }, { says: true });
    }

    buildPictures() {
      const opens = (name) => (row, column) => this.pickInput(name, row, column);
      this.photo = make("img", { alt: "" });
      this.seen = part("explorer-marks");
      this.photoName = make("figcaption");
      this.photoFigure = make("figure", { className: "explorer-figure explorer-photo" },
        part("explorer-frame", this.photo, this.seen), this.small ? null : this.buildStrip(),
        this.photoName);
      this.ins = [0, 1].map((k) => new Picture("explorer-in", { onpick: opens(k) }));
      this.map = new Picture("explorer-out", {
        onpick: (y, x) => this.set({ y, x }), focus: (event) => this.move(event),
      });
      this.all = make("canvas", { onclick: (event) => this.pickChannel(event),
        aria: { role: "img" } });
      this.allMarks = part("explorer-marks");
      this.allName = make("figcaption");
      this.allFigure = make("figure", { className: "explorer-figure explorer-all" },
        part("explorer-frame", this.all, this.allMarks), this.allName);
      this.all.parentNode.classList.add("explorer-live");
      const arrow = () => make("span", { className: "explorer-arrow", textContent: "→",
        aria: { "aria-hidden": "true" } });
      if (this.small)
        return part("explorer-pictures", this.photoFigure, arrow(), this.map.figure, arrow());
      this.heat = new Picture("explorer-heat", { onpick: (y, x) => this.set({ y, x }) });
      this.heat.title.textContent = "what if − ONNX Runtime";
      return part("explorer-pictures", this.photoFigure, ...this.ins.map((one) => one.figure),
        this.map.figure, this.heat.figure, this.allFigure);
    }

    // the images to choose from; the list of them is for everyone, so this is hidden from some
    buildStrip() {
      const { runs } = this.data;
      if (runs.length < 2 || !runs.every((run) => run.picture)) return null;
      this.strip = part("explorer-strip", ...runs.map(({ picture, name }, image) =>
        make("img", { src: picture, alt: "", title: `${image}: ${name}`,
          onclick: () => this.set({ image }) })));
      this.strip.setAttribute("aria-hidden", "true");
      return this.strip;
    }

    buildRun() {
      this.play = button("▶ play", () => this.toggle(), { className: "explorer-play" });
      this.slider = make("input", { type: "range", min: 0,
        oninput: () => { this.stop(); this.set({ mac: Number(this.slider.value) }); } });
      this.slider.setAttribute("aria-label", "products done");
      this.speed = make("select", { aria: { "aria-label": "speed" } },
        ...Object.keys(SPEEDS).map((name) => option(name, name)));
      this.speed.value = "normal";
      this.speed.onchange = () => { if (this.timer) { this.stop(); this.toggle(); } };
      this.linear = button("linear", () => {
        this.isLinear = !this.isLinear;
        this.drawChart();
      }, { aria: { "aria-pressed": "false" } });
      const next = button("+1", () => { this.stop(); this.set({ mac: this.state.mac + 1 }); },
        titled("one product more"));
      return this.small ? part("explorer-run", this.play, this.slider)
        : part("explorer-run", this.play, next, this.slider, this.speed, this.linear);
    }

    buildCopy() {
      this.copyLink = button("copy link", () => this.copied(this.link(), "link"));
      this.copyCommand = button("copy command", () => this.copied(this.command(), "command"));
      return part("explorer-copy", this.copyLink, this.copyCommand);
    }

    buildWhat() {
      this.switchBox = part("explorer-switches");
      this.count = make("p", { className: "explorer-count", aria: { role: "status" } });
      this.whatTitle = make("p", { className: "explorer-heading", textContent: "What if" });
      this.compare = button("compare the whole layer", () => { this.asked = true; this.sweep(); });
      this.next = button("next one that differs", () => this.nextDifference());
      return make("section", { className: "explorer-what", aria: { "aria-label": "what if" } },
        this.whatTitle, this.switchBox, this.count,
        part("explorer-copy", this.compare, this.next));
    }

    // -- what the reader does

    move(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === " ") {
        event.preventDefault();
        this.toggle();
        return;
      }
      if (!MOVES[event.key]) return;
      event.preventDefault();
      const { C, H, W } = this.layout, wanted = MOVES[event.key](this.state);
      const last = { channel: C - 1, y: H - 1, x: W - 1 };
      for (const key of Object.keys(wanted))
        wanted[key] = Math.max(0, Math.min(last[key], wanted[key]));
      this.set(wanted);
    }

    // a click on an input opens the element that made it
    pickInput(which, row, column) {
      const shown = this.shown[which];
      if (!shown) return;
      const { top, left, lay, n, channel, tensor } = shown, y = row - top, x = column - left;
      if (y < 0 || x < 0 || y >= lay.H || x >= lay.W) return;
      this.walk(tensor.name, Q.indexOf(lay, { n, channel, y, x }));
    }

    pickChannel(event) {
      const box = this.all.getBoundingClientRect(), { columns, rows } = this.grid;
      const column = Math.floor((event.clientX - box.left) / box.width * columns);
      const row = Math.floor((event.clientY - box.top) / box.height * rows);
      const channel = row * columns + column;
      if (channel < this.layout.C) this.set({ channel });
    }

    scrub(event) {
      const svg = this.chart.firstElementChild, count = this.layer?.count;
      if (!svg || !count) return;
      const box = svg.getBoundingClientRect(), W = svg.viewBox.baseVal.width;
      const along = (event.clientX - box.left) / box.width * W - CHART.left;
      const k = along / (W - CHART.left - CHART.right) * count;
      this.stop();
      this.set({ mac: Math.round(Math.max(0, Math.min(count, k))) });
    }

    toggle() {
      if (this.timer) {
        this.stop();
        this.keepAddress();
        return;
      }
      if (!this.layer?.count) return;
      const { count, kernel } = this.layer;
      const [pause, steps] = calm.matches ? [800, 0] : SPEEDS[this.speed.value];
      const by = steps ? Math.max(1, Math.round(count / steps))
        : Math.max(kernel[0] * kernel[1], Math.ceil(count / 20)); // calm: whole channels
      if (this.state.mac >= count) this.state.mac = 0;
      this.play.textContent = "⏸ pause";
      this.now.setAttribute("aria-live", "off"); // or a screen reader would read every step
      this.timer = setInterval(() => {
        this.state.mac = Math.min(this.layer.count, this.state.mac + by);
        if (this.state.mac >= this.layer.count) {
          this.stop();
          this.keepAddress();
        }
        this.draw();
      }, pause);
      this.draw();
    }

    stop() {
      clearInterval(this.timer);
      this.timer = null;
      this.play.textContent = "▶ play";
      this.now.setAttribute("aria-live", "polite");
    }

    nextDifference() {
      const { swept, layer } = this;
      if (!swept || !layer) return;
      const theirs = layer.out.values, { size } = swept;
      const here = Q.indexOf(this.layout, this.state);
      for (let k = 1; k <= size; k++) {
        const i = (here + k) % size;
        if (!Q.same(swept.values[i], theirs[i])) return this.set(Q.positionOf(this.layout, i));
      }
    }

    link() {
      const page = this.linked ? location.href.split("#")[0] : this.fullPage();
      return page && page + this.fragment();
    }

    // the explorer's own page, from one that stands in a chapter
    fullPage() {
      return this.folder ? new URL("../../book/explorer.html", this.folder).href : "";
    }

    command() {
      const { node } = this.view, { n, channel, y, x } = this.state;
      const model = [this.data.model, this.run.arguments].filter(Boolean).join(" ");
      if (node.steps?.kind === "conv")
        return `python -m qlinear explain ${model} --node ${node.argument} --channel ${channel} ` +
          `--pixel ${y},${x}${n ? ` --image ${n}` : ""}`;
      if (node.steps) {
        const at = []; // the element's index, from the last axis to the first
        let rest = Q.indexOf(this.layout, this.state);
        for (const size of [...this.shape].reverse()) {
          at.unshift(rest % size);
          rest = Math.floor(rest / size);
        }
        const where = at.length ? ` --at ${at.join(",")}` : "";
        return `python -m qlinear explain ${model} --node ${node.argument}${where}`;
      }
      return `python -m qlinear validate ${model} --node ${node.argument}`;
    }

    async copied(text, what) {
      const done = await copy(text);
      this.say(done ? `the ${what} is copied: ${text}` : `to be copied by hand: ${text}`, done);
    }

    // -- drawing, all of it at each change

    draw() {
      const { state, view, run } = this;
      if (!run.values) return;
      this.forget();
      this.colours = palette(this.root);
      const out = this.tensorOf(view.tensor), layer = this.layer;
      const index = Q.indexOf(this.layout, state), what = layer ? Q.chosen(layer, this.what) : {};
      const plain = layer && Q.element(layer, index);
      const made = layer && (Object.keys(what).length ? Q.element(layer, index, what) : plain);
      const theirs = out?.values[index];
      this.current = { out, layer, index, what, plain, made, theirs };
      const products = Boolean(made?.taps.length);
      this.root.dataset.kind = layer?.kind ?? "values";
      this.drawOutput();
      this.drawSum(products);
      this.drawPhoto();
      if (this.small) return this.drawVerdict();
      this.drawControls();
      this.drawInputs();
      this.drawChannels();
      this.drawSteps();
      this.drawSwitches();
      this.drawTrail();
      this.sweep();
    }

    drawControls() {
      const { state, layout: { N, C, H, W } } = this, sizes = { n: N, channel: C, y: H, x: W };
      this.imageBox.value = state.image;
      this.layerBox.value = state.layer;
      for (const [key, box] of Object.entries(this.boxes)) {
        Object.assign(box, { max: sizes[key] - 1, value: state[key] });
        box.parentNode.hidden = sizes[key] === 1;
      }
      [...this.strip?.children ?? []].forEach((img, i) =>
        img.classList.toggle("now", i === state.image));
      this.copyCommand.hidden = !this.view.node.steps || this.run.arguments === null;
      this.copyLink.hidden = !/^(https?|file):/.test(this.link() || "");
    }

    drawPhoto() {
      const { run, state, view, network, layout } = this;
      this.photoFigure.hidden = !run.picture;
      if (!run.picture) return;
      if (this.photo.src !== run.picture) this.photo.src = run.picture;
      this.photo.alt = `image ${state.image}: ${run.name}`;
      const { y, x } = state, flat = layout.H * layout.W === 1 && view.node.steps?.kind !== "pool";
      const reach = flat ? null : Q.field(network, run, view.tensor,
        { top: y, bottom: y, left: x, right: x });
      const shape = reach && this.data.tensors[reach.tensor].shape;
      const [H, W] = shape && [1, 3].includes(shape[1]) ? shape.slice(2) : [0, 0];
      this.photoName.textContent = H && !this.small ? "framed: what it sees" : run.name;
      this.seen.replaceChildren();
      if (!H || this.small) return;
      const box = make("span", { className: "explorer-mark-window" });
      Object.assign(box.style, { top: `${reach.top / H * 100}%`, left: `${reach.left / W * 100}%`,
        height: `${(reach.bottom - reach.top + 1) / H * 100}%`,
        width: `${(reach.right - reach.left + 1) / W * 100}%` });
      this.seen.append(box);
    }

    // the zero point of a quantized tensor, from a node that writes or reads it
    zeroOf(name) {
      this.zeros ??= new Map();
      if (!this.zeros.has(name)) this.zeros.set(name, this.findZero(name));
      return this.zeros.get(name);
    }

    findZero(name) {
      for (const node of this.data.nodes) {
        const formals = Object.keys(node.inputs).filter((key) => node.inputs[key] === name);
        if (node.outputs[0] === name) formals.push("y", "C");
        for (const formal of formals) {
          const zero = node.inputs[`${formal}_zero_point`] ??
            node.inputs[`${formal.toLowerCase()}_zero_point`];
          const found = zero && this.tensorOf(zero);
          if (found && found.values.length === 1) return found.values[0];
        }
      }
      const { node } = this.network.writer[name] ?? {};
      return node?.steps?.kind === "copy" ? this.zeroOf(Object.values(node.inputs)[0]) : 0;
    }

    drawOutput() {
      const { state, view, layout: lay, map } = this, { out } = this.current;
      const drawn = out && typeof out.values[0] === "number";
      map.frame.hidden = map.legend.hidden = !drawn;
      if (!drawn) {
        const why = !out ? "no values in this page" : out.values.length ? "text" : "no elements";
        map.title.textContent = `${view.name}: ${why}`;
        return;
      }
      const start = Q.indexOf(lay, { ...state, y: 0, x: 0 });
      map.draw(lay.H, lay.W, this.colours, scaleOf(out, this.zeroOf(view.tensor)),
        (i) => out.values[start + i]);
      map.mark({ y: state.y, x: state.x, h: 1, w: 1, name: "explorer-mark-pixel" });
      const channel = lay.C > 1 ? `, channel ${state.channel} of ${lay.C}` : "";
      const label = lay.C * lay.H === 1 && this.data.labels[view.tensor]?.[state.x];
      map.title.textContent = this.small ? `${view.name}${channel}: click a pixel`
        : `output${channel}${label ? `: ${label}` : ""}`;
      map.canvas.setAttribute("aria-label",
        `feature map of ${view.name}, channel ${state.channel}, ${lay.H} by ${lay.W}; ` +
        `row ${state.y}, column ${state.x} is chosen; arrow keys move`);
    }

    // the operands as pictures: [{ tensor, at or channel, window }]
    inputs() {
      const { layer, index, made } = this.current;
      if (!layer) return [];
      if (!made.taps.length)
        return made.operands.filter(({ tensor }) => tensor.values.length > 1)
          .map(({ name, tensor, at }) => ({ name, tensor, at, box: null }));
      const tap = made.taps[Math.max(0, this.state.mac - 1)], lay = Q.layout(layer.x.shape);
      if (layer.kind !== "conv") {
        const box = layer.kind === "pool" ? { y: 0, x: 0, h: lay.H, w: lay.W } : null;
        return [{ name: "", tensor: layer.x, at: tap.at, box }];
      }
      const { y, x, n } = this.state, { strides, dilations, begin, kernel } = layer;
      const side = (axis) => (kernel[axis] - 1) * dilations[axis] + 1;
      const pad = Q.padding(layer);
      return [{
        name: "", tensor: layer.x, n, channel: layer.firstChannel(index) + tap.c, pad,
        box: { y: y * strides[0] - begin[0], x: x * strides[1] - begin[1], h: side(0), w: side(1) },
        tap: { y: y * strides[0] - begin[0] + tap.ky * dilations[0],
          x: x * strides[1] - begin[1] + tap.kx * dilations[1] },
      }];
    }

    drawInputs() {
      this.shown = this.inputs().slice(0, 2).map((one) => this.drawInput(one));
      this.ins.forEach(({ figure }, k) => { figure.hidden = !this.shown[k]; });
      this.shown.forEach((one, k) => one.paint(this.ins[k]));
    }

    drawInput({ name, tensor, at, n, channel, pad, box, tap }) {
      const lay = Q.layout(tensor.shape), from = this.network.writer[tensor.name];
      const place = at >= 0 ? Q.positionOf(lay, at) : { n, channel, y: tap?.y, x: tap?.x };
      const { top = 0, left = 0, bottom = 0, right = 0 } = pad ?? {};
      const start = Q.indexOf(lay, { ...place, y: 0, x: 0 }), zero = this.zeroOf(tensor.name);
      const outside = this.current.what.pad === "0" ? 0 : zero;
      const columns = lay.W + left + right, rows = lay.H + top + bottom;
      const value = (i) => {
        const y = Math.floor(i / columns) - top, x = i % columns - left;
        return y < 0 || x < 0 || y >= lay.H || x >= lay.W ? outside
          : tensor.values[start + y * lay.W + x];
      };
      const shift = (one) => ({ ...one, y: one.y + top, x: one.x + left });
      const dot = tap ?? (at >= 0 ? place : null), done = !tap || this.state.mac > 0;
      const channels = lay.C > 1 ? `, channel ${place.channel}` : "";
      const title = `input${name ? ` ${name}` : ""}${channels}`;
      const index = Q.indexOf(lay, { ...place, y: dot?.y ?? 0, x: dot?.x ?? 0 });
      return { tensor, lay, top, left, n: place.n, channel: place.channel, paint: (picture) => {
        picture.draw(rows, columns, this.colours, scaleOf(tensor, zero), value);
        picture.mark(
          pad && rows * columns > lay.H * lay.W &&
            { y: top, x: left, h: lay.H, w: lay.W, name: "explorer-mark-edge" },
          box && { ...shift(box), name: "explorer-mark-window" },
          dot && done && { ...shift({ ...dot, h: 1, w: 1 }),
            name: box ? "explorer-mark-tap" : "explorer-mark-pixel" });
        picture.title.replaceChildren(`${title} `, ...this.channelStep(),
          from ? button(`← ${from.name}`, () => this.walk(tensor.name, index),
            { title: "open the element that made it; so does a click on the picture" })
            : tensor.name);
        picture.canvas.setAttribute("aria-label", `${title}, of ${from?.name ?? tensor.name}, ` +
          `${lay.H} by ${lay.W}${box ? ", with the window" : ""}`);
        picture.frame.classList.toggle("explorer-live", Boolean(from));
      } };
    }

    // a step to the input channels before and after
    channelStep() {
      const { layer } = this.current, [kh, kw] = layer.kernel ?? [], size = kh * kw;
      if (layer.kind !== "conv" || layer.channels === 1) return [];
      const c = Math.floor(Math.max(0, this.state.mac - 1) / size);
      const to = (text, k, title) => button(text, () => this.set({ mac: k * size + 1 }),
        { disabled: k < 0 || k >= layer.channels, ...titled(title) });
      const [before, after] = [to("‹", c - 1, "input channel before"),
        to("›", c + 1, "input channel after")];
      return [before, " ", after, " "];
    }

    // all channels as one picture, a grid near a square
    drawChannels() {
      const { state, layout: lay, view } = this, { out } = this.current, { C, H, W } = lay;
      const shown = C > 1 && out && typeof out.values[0] === "number";
      this.allFigure.hidden = !shown;
      if (!shown) return;
      const columns = Math.min(C, Math.max(1, Math.round(Math.sqrt(C * H / W)))) || 1;
      const rows = Math.ceil(C / columns), gap = H * W > 1 ? 1 : 0;
      this.grid = { columns, rows };
      const key = `${state.image} ${view.tensor} ${state.n} ${this.colours.none}`;
      if (key !== this.channelsKey) {
        this.channelsKey = key;
        const wide = columns * (W + gap), high = rows * (H + gap);
        Object.assign(this.all, { width: wide, height: high });
        const context = this.all.getContext("2d"), scale = scaleOf(out, this.zeroOf(view.tensor));
        const picture = context.createImageData(wide, high), reach = reachOf(scale);
        for (let c = 0; c < C; c++) {
          const start = Q.indexOf(lay, { n: state.n, channel: c, y: 0, x: 0 });
          const top = Math.floor(c / columns) * (H + gap), left = c % columns * (W + gap);
          for (let i = 0; i < H * W; i++) {
            const at = (top + Math.floor(i / W)) * wide + left + i % W;
            const colour = shade(this.colours, (out.values[start + i] - scale.zero) / reach);
            picture.data.set([...colour, 255], 4 * at);
          }
        }
        context.putImageData(picture, 0, 0);
        this.all.parentNode.style.setProperty("--ratio", `${wide} / ${high}`);
        this.all.parentNode.style.setProperty("--wide", wide / high);
        this.all.setAttribute("aria-label", `all ${C} channels; the field above chooses one`);
      }
      const mark = make("span", { className: "explorer-mark-pixel" });
      Object.assign(mark.style, { left: `${state.channel % columns / columns * 100}%`,
        top: `${Math.floor(state.channel / columns) / rows * 100}%`,
        width: `${100 / columns}%`, height: `${100 / rows}%` });
      this.allMarks.replaceChildren(mark);
      this.allName.textContent = `all ${C} channels`;
    }

    drawSum(products) {
      const { state } = this, { layer, made } = this.current;
      this.sum.hidden = !products && this.small;
      for (const one of [this.chart, this.now, this.play.parentNode]) one.hidden = !products;
      this.tables.hidden = this.small;
      if (!products) return this.drawOther();
      const { taps } = made, tap = state.mac ? taps[state.mac - 1] : null;
      taps.index = this.current.index;
      Object.assign(this.slider, { max: taps.length, value: state.mac });
      this.drawChart();
      this.now.replaceChildren(...this.progress(layer, taps, tap));
      if (this.small) return;
      const walks = this.network.writer[layer.x.name];
      const tables = tapTables(layer, taps, tap, this.colours,
        walks && ((at) => this.walk(layer.x.name, at)));
      this.tables.replaceChildren(...tables);
    }

    // the product that was done last, in words
    progress(layer, taps, tap) {
      const count = taps.length, line = (textContent, className) =>
        make("span", { textContent, className });
      if (!tap) {
        const [kh, kw] = layer.kernel, grid = kh * kw > 1;
        const what = layer.kind === "pool" ? `the ${count} elements of a channel`
          : grid ? `${layer.channels} channels of ${kh}×${kw} taps` : `${count} channels`;
        return [line(layer.w ? `${count} products: ${what}` : what, "what"),
          line("the sum starts at 0", "how")];
      }
      const sums = taps.slice(0, this.state.mac).map(({ sum }) => sum);
      const width = Q.signedBits(...endsOf(sums));
      const bits = width > 1 ? `${width} bits` : "1 bit";
      const grid = layer.kernel[0] * layer.kernel[1] > 1;
      const first = layer.firstChannel?.(taps.index) ?? 0;
      const where = (layer.kind === "pool" ? "" : `: channel ${first + tap.c}`) +
        (!grid ? "" : layer.w ? `, tap (${tap.ky}, ${tap.kx})` : `: (${tap.ky}, ${tap.kx})`) +
        (tap.inside ? "" : ", in the padding");
      return [
        line(`${layer.w ? "product" : "element"} ${this.state.mac} of ${count}${where}`, "what"),
        line(formula(layer, tap, layer.w_zero[layer.column(taps.index)]), "how"),
        line(`running sum ${number(tap.sum)}; so far it needs ${bits}`, "what"),
      ];
    }

    drawChart() {
      const { made } = this.current ?? {};
      this.linear.setAttribute("aria-pressed", String(Boolean(this.isLinear)));
      if (!made?.taps.length) return;
      const width = Math.max(240, Math.round(this.chart.clientWidth) || 420);
      this.chart.innerHTML =
        chart(made.taps, this.state.mac, width, this.small ? 140 : 156, this.isLinear);
    }

    // of nodes without products: their operands, and where those come from
    drawOther() {
      if (this.small) return;
      const { layer, made } = this.current, { node } = this.view;
      const rows = layer ? made.operands.map(({ name, tensor, at }) =>
        this.operandRow(name, tensor.name, at, tensor.values[at]))
        : Object.entries(node.inputs).map(([name, tensor]) => this.operandRow(name, tensor));
      const why = layer ? "" : `Values only: ${node.why || "this output has no steps"}.`;
      const details = layer ? [] : Object.entries(node.attributes)
        .map(([key, value]) => make("p", { textContent: `${key} = ${value}` }));
      this.tables.replaceChildren(make("table", { className: "explorer-list" },
        make("caption", { textContent: layer ? "operands" : "inputs" }),
        make("tbody", {}, ...rows)), ...details, make("p", { textContent: why }));
    }

    operandRow(name, tensor, at, value) {
      const from = this.network.writer[tensor], described = this.data.tensors[tensor];
      const shape = described ? `${described.dtype} ${described.shape.join("×")}` : "";
      const held = value === undefined && this.tensorOf(tensor);
      const single = held && held.values.length === 1 ? number(held.values[0]) : "";
      const open = from && button(`${from.name} →`, () => this.walk(tensor, at ?? 0),
        { title: "open the element that made it" });
      return make("tr", {}, make("th", { scope: "row", textContent: name }),
        make("td", { textContent: value === undefined ? single || shape : number(value) }),
        make("td", {}, open || (tensor in this.data.constants || !described ? "" : tensor)));
    }

    // the steps to the result, beside those with the switches set, and ONNX Runtime's value
    drawSteps() {
      const { out, layer, plain, made, what, theirs } = this.current, switched = made !== plain;
      if (!out?.values.length) return this.steps.replaceChildren();
      const type = (textContent) =>
        switched ? null : make("td", { textContent, className: "type" });
      const cells = (one, other) => [make("td", { textContent: number(one.value, one.type),
        className: other && !Q.same(one.value, other.value) ? "changed" : "" }), type(one.type)];
      const rows = (layer ? made.stages : []).map((one) => {
        const before = plain.stages.find(({ key }) => key === one.key);
        const name = one.name.replace(/-(?=\d)/g, "−");
        const head = make("th", { textContent: name, scope: "row" });
        const extra = switched
          ? [make("td", { textContent: before ? number(before.value, before.type) : "" })] : [];
        return make("tr", {}, head, ...extra, ...cells(one, switched && (before ?? {})));
      });
      const verdict = make("tr", { className: "explorer-verdict-row" },
        make("th", { textContent: "ONNX Runtime", scope: "row" }));
      const text = number(theirs, out.dtype === "float64" ? "float64" : "float32");
      if (!layer) verdict.append(make("td", { textContent: text }));
      else {
        const equal = Q.same(made.y, theirs);
        verdict.className += equal ? " equal" : " different";
        if (switched) verdict.append(make("td", { textContent: text }));
        verdict.append(make("td", { className: "verdict", textContent: switched
          ? (equal ? "= equal" : `≠ ${number(made.y)}`)
          : `${text} ${equal ? "= equal" : "≠ DIFFERENT"}` }));
      }
      if (!switched) verdict.append(type(out.dtype));
      const head = switched ? [make("thead", {}, make("tr", {}, make("td"),
        ...["as it is", "what if"].map((textContent) =>
          make("th", { textContent, scope: "col" }))))] : [];
      const title = !layer ? "value" : layer.range && made.taps.length ? "to 8 bits" : "steps";
      this.steps.replaceChildren(make("table", {}, make("caption", { textContent: title }),
        ...head, make("tbody", {}, ...rows, verdict)));
    }

    drawVerdict() {
      const { out, layer, made, theirs } = this.current, equal = layer && Q.same(made.y, theirs);
      const acc = made?.stages.find(({ key }) => key === "acc") ??
        made?.stages.find(({ key }) => key === "sum");
      const line = (title, value, className = "") => make("div", { className },
        make("span", { textContent: title }), make("b", { textContent: value }));
      this.verdict.replaceChildren(
        ...(acc ? [line("sum", number(acc.value))] : []),
        ...(layer ? [line(`byte (${out.dtype})`, number(made.y))] : []),
        line("ONNX Runtime", `${number(theirs)}${!layer ? "" : equal ? " = equal" : " ≠"}`,
          !layer ? "" : equal ? "equal" : "different"));
      this.full.href = this.fullPage() + this.fragment();
      this.full.hidden = !this.folder;
    }

    drawTrail() {
      const place = ({ layer, channel, y, x }) => `${layer} (${channel}, ${y}, ${x})`;
      this.path.hidden = !this.trail.length;
      const first = Math.max(0, this.trail.length - 4);
      this.path.replaceChildren(...this.trail.slice(first).flatMap((one, k) => [
        button(`← ${place(one)}`, () => this.back(first + k))]));
    }

    // -- what if

    drawSwitches() {
      const { layer } = this.current, keys = layer ? Q.switches(layer) : [];
      const known = `${this.state.layer} ${keys}`;
      this.switchBox.parentNode.hidden = !layer;
      this.whatTitle.hidden = !keys.length;
      if (known !== this.switchKey) {
        this.switchKey = known;
        this.switchBox.replaceChildren(...keys.map((key) => this.buildSwitch(key)));
      }
      for (const input of this.switchBox.querySelectorAll("input"))
        input.checked = (this.what[input.dataset.key] || "") === input.value;
    }

    buildSwitch(key) {
      const { title, choices } = Q.SWITCHES[key];
      Explorer.groups = (Explorer.groups ?? 0) + 1;
      return make("fieldset", {}, make("legend", { textContent: title }),
        ...choices.map(([value, text]) => make("label", {},
          make("input", { type: "radio", name: `explorer-${Explorer.groups}`, value,
            dataset: { key }, onchange: () => { this.what[key] = value; this.arrive(); } }),
          make("span", { textContent: text }))));
    }

    // compute the whole layer so, in pieces that leave the page free
    sweep() {
      const { layer, what } = this.current;
      const set = Object.keys(what).length, key = layer &&
        JSON.stringify([this.state.image, this.state.layer, what]);
      if (key !== this.sweptKey) {
        clearTimeout(this.sweeping);
        Object.assign(this, { sweptKey: key, swept: null, sweeping: null });
        if (!set) this.asked = this.sweptPlain === key && this.asked;
      }
      this.compare.hidden = !layer || Boolean(set) || Boolean(this.asked);
      if (!layer || (!set && !this.asked)) {
        this.heat.figure.hidden = true;
        this.heat.rows = 0;
        this.next.hidden = true;
        this.count.textContent = this.switchBox.firstChild ? "No switch is set." : "";
        return;
      }
      if (!set) this.sweptPlain = key;
      if (!this.swept) {
        this.swept = Q.sweep(layer, what);
        let count = 64;
        const piece = () => {
          const start = performance.now(), done = this.swept.step(count);
          if (performance.now() - start < 8) count *= 2;
          else count = Math.max(16, count >> 1);
          this.sweeping = done ? null : setTimeout(piece, 0);
          this.drawSweep();
        };
        this.sweeping = setTimeout(piece, 0);
      }
      this.drawSweep();
    }

    drawSweep() {
      const { swept, layout: lay, state, colours } = this, { layer, what } = this.current;
      const done = swept.done === swept.size;
      // what was there before keeps its place meanwhile, but is not seen: it is of something else
      this.heat.figure.hidden = !done && !this.heat.rows;
      this.heat.figure.style.visibility = done ? "" : "hidden";
      this.next.hidden = !done || !swept.differing;
      if (!done) {
        const share = Math.floor(swept.done / swept.size * 100);
        this.count.textContent = `computing the layer: ${share}%`;
        return;
      }
      const start = Q.indexOf(lay, { ...state, y: 0, x: 0 }), theirs = layer.out.values;
      const cells = lay.H * lay.W, difference = (i) => swept.values[start + i] - theirs[start + i];
      let here = 0;
      for (let i = 0; i < cells; i++) here += !Q.same(swept.values[start + i], theirs[start + i]);
      const largest = swept.largest || 1;
      const by = swept.differing ? `, by up to ${number(swept.largest)}` : "";
      const channel = lay.C > 1 ? `; ${number(here)} of ${number(cells)} in this channel` : "";
      this.count.textContent = `${number(swept.differing)} of ${number(swept.size)} elements of ` +
        `${state.layer} differ from ONNX Runtime’s${by}${channel}.` +
        (Object.keys(what).length || swept.differing ? "" : " This is ONNX Runtime’s way.");
      this.heat.draw(lay.H, lay.W, colours, { zero: 0, low: -largest, high: largest },
        (i) => difference(i) || 0);
      this.heat.mark({ y: state.y, x: state.x, h: 1, w: 1, name: "explorer-mark-pixel" });
      this.heat.canvas.setAttribute("aria-label",
        `differences in channel ${state.channel}: ${here} of ${cells} elements`);
    }
  }

  // --- runs

  const waiting = new Map();

  function loadRun(folder, index) {
    const { runs } = window.QLINEAR_EXPLORER;
    if (runs[index].values) return Promise.resolve();
    // an attempt that began before this choice may fail for what was mended since: then another
    if (waiting.has(index)) return waiting.get(index).catch(() => loadRun(folder, index));
    const name = `explorer-ort-${String(index).padStart(2, "0")}.js`;
    const attempt = new Promise((done, failed) => {
      // a file that is cut, or another page in its place, loads and brings nothing
      const onload = () => runs[index].values ? done() : failed(new Error(name));
      const script = make("script", { src: folder + name, onload, onerror: failed });
      document.head.append(script);
    }).catch((error) => {
      waiting.delete(index); // so that it can be asked for again
      throw error;
    });
    waiting.set(index, attempt);
    return attempt;
  }

  window.QLINEAR_VALUES = (index, values) => {
    window.QLINEAR_EXPLORER.runs[index].values = values;
  };

  // --- the start

  function start(folder = "") {
    const network = Q.network(window.QLINEAR_EXPLORER), found = [];
    for (const root of document.querySelectorAll("[data-explorer]"))
      found.push(new Explorer(root, network, folder));
    // for tests, and for the console
    Object.assign(window.qlinearExplorer, {
      network, explorers: found, ready: (image) => loadRun(folder, image),
    });
  }

  window.qlinearExplorer = { start };
}
