// What the explorer's page is made of: pictures of tensors, the chart of a sum, tables of products.
// view.js puts them together.
"use strict";

{
  const Q = globalThis.qlinearInference;

  // --- pieces of a page

  function make(tag, properties = {}, ...children) {
    const { dataset = {}, aria = {}, ...own } = properties;
    const made = Object.assign(document.createElement(tag), own);
    Object.assign(made.dataset, dataset);
    for (const [key, value] of Object.entries(aria)) made.setAttribute(key, value);
    made.append(...children.filter((child) => child != null));
    return made;
  }

  const part = (className, ...children) => make("div", { className }, ...children);
  const option = (value, textContent) => make("option", { value, textContent });
  const button = (textContent, onclick, properties = {}) =>
    make("button", { type: "button", textContent, onclick, ...properties });

  function field(textContent, input) {
    input.setAttribute("aria-label", textContent);
    return make("label", { className: "explorer-field" }, make("span", { textContent }), input);
  }

  // a number as the page has it: nine digits name a float32, seventeen a float64
  function number(v, type = "float32") {
    if (typeof v !== "number") return v === undefined ? "none" : String(v);
    if (v === 0) return "0"; // -0 too
    const text = Number.isInteger(v) && Math.abs(v) < 1e15 ? v.toLocaleString("en-US")
      : Number(v.toPrecision(type === "float64" ? 17 : 9)).toString();
    return text.replaceAll("-", "−");
  }

  const inBrackets = (v) => v < 0 ? `(${number(v)})` : number(v);

  // --- colours: of a value by its sign, seen from the zero point

  function rgb(root, name) {
    const hex = getComputedStyle(root).getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  }

  const palette = (root) => ({
    none: rgb(root, "--explorer-none"),
    more: rgb(root, "--explorer-more"),
    less: rgb(root, "--explorer-less"),
    tint: parseFloat(getComputedStyle(root).getPropertyValue("--explorer-tint")) || 0.5,
  });

  // t from -1 to 1; small values are seen too
  function shade({ none, more, less }, t, most = 1) {
    const end = t < 0 ? less : more, share = most * Math.min(1, Math.abs(t)) ** 0.65;
    return none.map((from, i) => Math.round(from + (end[i] - from) * share));
  }

  const css = (colour) => `rgb(${colour.join(" ")})`;

  // --- a tensor's channel as a picture

  class Picture {
    // title(text) is shown below; onpick(row, column) is called for a click
    constructor(className, { onpick, focus } = {}) {
      this.canvas = make("canvas", { width: 1, height: 1, aria: { role: "img" } });
      this.marks = part("explorer-marks");
      this.frame = part("explorer-frame", this.canvas, this.marks);
      this.title = make("figcaption");
      this.bar = make("span", { className: "explorer-bar-colours" });
      this.ends = [make("span"), make("span")];
      this.legend = part("explorer-legend", this.ends[0], this.bar, this.ends[1]);
      this.figure = make("figure", { className: `explorer-figure ${className}` },
        this.frame, this.legend, this.title);
      if (onpick) this.frame.onclick = (event) => onpick(...this.at(event));
      if (focus) Object.assign(this.canvas, { tabIndex: 0, onkeydown: focus });
      if (focus) this.canvas.setAttribute("role", "application");
      this.frame.classList.toggle("explorer-live", Boolean(onpick));
    }

    // the row and column of a click
    at(event) {
      const box = this.frame.getBoundingClientRect(), { rows, columns } = this;
      return [Math.floor((event.clientY - box.top) / box.height * rows),
        Math.floor((event.clientX - box.left) / box.width * columns)];
    }

    // value(i) of each of rows x columns cells in colours; scale is { zero, low, high }
    draw(rows, columns, colours, scale, value) {
      Object.assign(this, { rows, columns });
      Object.assign(this.canvas, { width: columns, height: rows });
      this.frame.style.setProperty("--ratio", `${columns} / ${rows}`);
      this.frame.style.setProperty("--wide", columns / rows);
      const context = this.canvas.getContext("2d");
      const picture = context.createImageData(columns, rows), reach = reachOf(scale);
      for (let i = 0; i < rows * columns; i++)
        picture.data.set([...shade(colours, (value(i) - scale.zero) / reach), 255], 4 * i);
      context.putImageData(picture, 0, 0);
      const stops = Array.from({ length: 9 }, (_, i) =>
        css(shade(colours, (scale.low + (scale.high - scale.low) * i / 8 - scale.zero) / reach)));
      this.bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
      this.ends[0].textContent = number(scale.low);
      this.ends[1].textContent = number(scale.high);
      const share = (scale.zero - scale.low) / (scale.high - scale.low) * 100;
      this.bar.style.setProperty("--zero", `${share}%`);
      this.bar.title = `zero point ${number(scale.zero)}`;
    }

    // boxes over the picture, { y, x, h, w, name } in cells
    mark(...boxes) {
      const { rows, columns } = this;
      this.marks.replaceChildren(...boxes.filter(Boolean).map(({ y, x, h, w, name }) => {
        const box = make("span", { className: name });
        Object.assign(box.style, { left: `${x / columns * 100}%`, top: `${y / rows * 100}%`,
          width: `${w / columns * 100}%`, height: `${h / rows * 100}%` });
        return box;
      }));
    }
  }

  const reachOf = ({ zero, low, high }) => Math.max(high - zero, zero - low) || 1;

  // the colours' scale of a tensor: its type's range, or what it holds
  function scaleOf(tensor, zero) {
    const range = Q.range(tensor.dtype);
    if (range && range[1] - range[0] < 256) return { zero, low: range[0], high: range[1] };
    const [low, high] = tensor.ends ??= endsOf(tensor.values);
    return { zero: 0, low, high: high === low ? low + 1 : high };
  }

  // the least and the greatest of some numbers and 0; there may be too many for Math.min
  function endsOf(values) {
    let low = 0, high = 0;
    for (const v of values) {
      if (v < low) low = v;
      if (v > high) high = v;
    }
    return [low, high];
  }

  // --- the chart of the running sum

  const LIMITS = [[2 ** 31 - 1, "2³¹"], [32767, "2¹⁵"], [0, "0"], [-32768, "−2¹⁵"],
    [-(2 ** 31), "−2³¹"]];

  // both signs on one logarithmic scale that is linear around 0
  const log = (v) => Math.sign(v) * Math.log10(1 + Math.abs(v));

  const CHART = { left: 46, right: 8, top: 8, bottom: 22 }; // the edges of the chart

  // where the chart, W x H units, has its points: px(products done), py(sum)
  function chartFrame(W, H, sums, linear) {
    const { left, right, top, bottom } = CHART, half = (H - top - bottom) / 2;
    let low = -log(2 ** 31), high = log(2 ** 31), scale = log;
    if (linear) {
      [low, high] = endsOf(sums);
      [low, high] = [low - (high - low) * 0.06 - 1, high + (high - low) * 0.06 + 1];
      scale = (v) => v;
    }
    return {
      left, right: W - right, low, high, half,
      px: (k) => left + (W - left - right) * k / sums.length,
      py: (v) => top + 2 * half * (high - scale(v)) / (high - low),
      inside: (v) => scale(v) >= low && scale(v) <= high,
    };
  }

  // the SVG of an element's running sum, of which the first `done` products stand out
  function chart(taps, done, W, H, linear) {
    const sums = taps.map((tap) => tap.sum), frame = chartFrame(W, H, sums, linear);
    const { left, right, px, py, inside } = frame;
    const ends = endsOf(sums);
    const lines = linear ? [...LIMITS, ...ends.map((v) => [v, number(v)])] : LIMITS;
    const seen = [];
    const limits = lines.filter(([v]) => inside(v)).map(([v, text]) => {
      const clear = !seen.some((y) => Math.abs(y - py(v)) < 13);
      seen.push(py(v));
      return `<line x1="${left}" x2="${right}" y1="${py(v)}" y2="${py(v)}"` +
        ` class="${v === 0 ? "zero" : "limit"}"/>` + (clear
        ? `<text x="${left - 6}" y="${py(v) + 4}" text-anchor="end">${text}</text>` : "");
    });
    const path = (some) => `M${px(0)} ${py(0)}` +
      some.map((v, k) => `L${px(k + 1).toFixed(1)} ${py(v).toFixed(1)}`).join("");
    const sum = done ? sums[done - 1] : 0;
    const label = `running sum over ${taps.length} products, from ${ends[0]} to ${ends[1]}`;
    return `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${label}">${limits.join("")}` +
      `<path d="${path(sums)}" class="whole"/>` +
      `<path d="${path(sums.slice(0, done))}" class="done"/>` +
      `<circle cx="${px(done)}" cy="${py(sum)}" r="4"/>` +
      `<text x="${(left + W) / 2}" y="${H - 5}" text-anchor="middle">` +
      `running sum after each product, ${linear ? "linear" : "logarithmic"}</text></svg>`;
  }

  // --- tables

  const KERNEL = 49; // taps of the largest kernel that is shown as a grid
  const ROWS = 9; // products of a long sum that are listed at once

  // The current products: those of one input channel, as grids, or as rows of a list.
  function tapTables(layer, taps, now, colours, walk) {
    const size = layer.kernel[0] * layer.kernel[1], column = layer.column(taps.index);
    const grids = size > 1 && size <= KERNEL, x = now ? now.c : 0;
    const w_zero = layer.w_zero[column], x_zero = layer.x_zero;
    const reach = (zero, range) => range ? Math.max(range[1] - zero, zero - range[0]) : 255;
    const ofX = reach(x_zero, Q.range(layer.x.dtype));
    const ofW = layer.w ? reach(w_zero, Q.range(layer.w.dtype)) : 1;
    const most = Math.max(1, endsOf(taps.map((tap) => Math.abs(tap.product)))[1]);
    const columns = [
      ["", `x (${layer.x.dtype})`, (tap) => tap.x, (tap) => tap.a / ofX, true],
      ["→", `x − ${inBrackets(x_zero)}`, (tap) => tap.a, (tap) => tap.a / ofX],
      layer.w && ["·", `w (${layer.w.dtype})`, (tap) => tap.w, (tap) => tap.b / ofW],
      layer.w && w_zero !== 0 &&
        ["→", `w − ${inBrackets(w_zero)}`, (tap) => tap.b, (tap) => tap.b / ofW],
      layer.w && ["=", "product", (tap) => tap.product, (tap) => tap.product / most],
    ].filter(Boolean);
    function cell(tap, [, , value, share, opens]) {
      const walks = opens && tap.inside && walk;
      const text = number(value(tap)), className = (tap === now ? "now " : "") +
        (tap.inside ? "" : "padding");
      const td = make("td", { className }, walks
        ? button(text, () => walk(tap.at), { title: "open the element that made it" }) : text);
      td.style.background = css(shade(colours, share(tap), colours.tint));
      return td;
    }
    if (grids) {
      const mine = taps.filter((tap) => tap.c === x), wide = layer.kernel[1];
      const rows = Array.from({ length: layer.kernel[0] }, (_, ky) =>
        mine.slice(ky * wide, (ky + 1) * wide));
      return columns.flatMap((one) => {
        const body = rows.map((row) => make("tr", {}, ...row.map((tap) => cell(tap, one))));
        const table = make("table", {}, make("caption", { textContent: one[1] }),
          make("tbody", {}, ...body));
        return one[0] ? [make("span", { className: "explorer-sign", textContent: one[0] }), table]
          : [table];
      });
    }
    const at = now ? taps.indexOf(now) : 0;
    const first = Math.max(0, Math.min(at - (ROWS >> 1), taps.length - ROWS));
    const some = taps.slice(first, first + ROWS);
    const names = columns.map(([sign, name]) => `${sign} ${name}`);
    const head = [layer.w ? "product" : "element", ...names, "running sum"];
    return [make("table", { className: "explorer-list" },
      make("thead", {}, make("tr", {}, ...head.map((textContent) =>
        make("th", { scope: "col", textContent })))),
      make("tbody", {}, ...some.map((tap, k) => make("tr", {},
        make("th", { scope: "row", textContent: number(first + k + 1) }),
        ...columns.map((one) => cell(tap, one)),
        make("td", { textContent: number(tap.sum) })))))];
  }

  // the formula of one product
  function formula(layer, tap, w_zero) {
    const x = `(${number(tap.x)} − ${inBrackets(layer.x_zero)})`;
    if (!layer.w) return `${x} = ${number(tap.a)}`;
    const w = w_zero ? `(${number(tap.w)} − ${inBrackets(w_zero)})` : inBrackets(tap.w);
    return `${x} · ${w} = ${number(tap.a)} · ${inBrackets(tap.b)} = ${number(tap.product)}`;
  }

  // --- copying

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { // no permission, or no secure page
      const box = make("textarea", { value: text });
      document.body.append(box);
      box.select();
      let copied = false;
      try { copied = document.execCommand("copy"); } catch { /* shown instead */ }
      box.remove();
      return copied;
    }
  }

  globalThis.qlinearParts = {
    make, part, option, button, field, number, palette, shade, reachOf, scaleOf, endsOf, Picture,
    chart, CHART, tapTables, formula, copy,
  };
}
