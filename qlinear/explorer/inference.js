// What the nodes of a network compute, element for element as ONNX Runtime does: integers for the
// sums, Math.fround for float32. There is no page in here, so any JavaScript engine can run it;
// tests/test_explorer.py runs it without a browser and compares it with the reference.
//
// The data are those of qlinear/explore.py. The operands of a node are ONNX Runtime's own tensors,
// so that one node can be computed without those before it.
"use strict";

{
  const f32 = Math.fround;

  // --- arithmetic

  // the nearest integer, ties to even; Math.round takes ties upwards
  function rint(v) {
    const floor = Math.floor(v), rest = v - floor;
    if (rest < 0.5 || (rest === 0.5 && floor % 2 === 0)) return floor;
    return floor + 1;
  }

  const halfUp = (v) => v - Math.floor(v) >= 0.5 ? Math.floor(v) + 1 : Math.floor(v);

  const clamp = (v, low, high) => Math.max(low, Math.min(high, v));

  // what a two's complement register of 16 bits holds
  const wrap16 = (v) => (v << 16) >> 16;

  // a float64 and its bits, in one place of memory
  const real = new Float64Array(1), bits = new BigInt64Array(real.buffer);

  // float32 a * b + c with one rounding. float64 holds the product exactly. The sum is rounded to
  // odd: where it lost something, its last bit is set, and the rounding to float32 that follows
  // cannot take it for a tie.
  function fma(a, b, c) {
    const product = a * b, sum = product + c, part = sum - product;
    const lost = product - (sum - part) + (c - part);
    if (lost === 0) return f32(sum);
    real[0] = sum;
    const even = (bits[0] & 1n) === 0n, away = (lost > 0) === (sum > 0);
    if (even) bits[0] += away ? 1n : -1n;
    return f32(real[0]);
  }

  // bits of the narrowest two's complement integer that holds both
  function signedBits(low, high) {
    let width = 1;
    while (low < -(2 ** (width - 1)) || high > 2 ** (width - 1) - 1) width++;
    return width;
  }

  // --- the data, unpacked

  const SIXES = new Uint8Array(128);
  Array.from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    .forEach((digit, value) => { SIXES[digit.charCodeAt(0)] = value; });

  // base64 to bytes; atob belongs to browsers, not to the language
  function bytes(text) {
    const letters = text.indexOf("=") < 0 ? text.length : text.indexOf("=");
    const made = new Uint8Array(Math.floor(letters * 6 / 8));
    let waiting = 0, count = 0, at = 0;
    for (let i = 0; i < letters; i++) {
      waiting = ((waiting << 6) | SIXES[text.charCodeAt(i)]) & 0xfff;
      count += 6;
      if (count < 8) continue;
      count -= 8;
      made[at++] = waiting >> count; // its low 8 bits
    }
    return made;
  }

  const ARRAYS = {
    int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
    int32: Int32Array, float32: Float32Array, float64: Float64Array,
  };

  const unpacked = ([type, data]) =>
    type === "text" ? data : new ARRAYS[type](bytes(data).buffer);

  // the range of an integer type, or null: of int8, uint8, int16, uint16 and narrower ones
  function range(dtype) {
    const [, unsigned, width] = /^(u?)int(\d+)$/.exec(dtype) || [];
    if (!width || width > 16) return null;
    return unsigned ? [0, 2 ** width - 1] : [-(2 ** (width - 1)), 2 ** (width - 1) - 1];
  }

  // a member of a model's names; "constructor" is nothing but a name
  const own = (record, name) =>
    record && Object.hasOwn(record, name) ? record[name] : undefined;

  const sizeOf = (shape) => shape.reduce((product, n) => product * n, 1);

  // Any tensor as pictures: its last axis is x, those before it y, channel and, all others, n.
  function layout(shape) {
    const four = [1, 1, 1, 1, ...shape], [C, H, W] = four.slice(-3);
    return { N: sizeOf(four.slice(0, -3)), C, H, W };
  }

  const indexOf = ({ C, H, W }, { n, channel, y, x }) => ((n * C + channel) * H + y) * W + x;

  function positionOf({ C, H, W }, index) {
    const x = index % W, rows = Math.floor(index / W);
    return { n: Math.floor(rows / H / C), channel: Math.floor(rows / H) % C, y: rows % H, x };
  }

  // The network: a view for each tensor that a node writes. A node's first has the node's name.
  function network(data) {
    const views = data.nodes.flatMap((node) =>
      node.outputs.map((tensor, i) => ({ node, tensor, name: i ? tensor : node.name })));
    const bare = (record) => Object.assign(Object.create(null), record);
    const byName = bare(), writer = bare();
    for (const view of views) {
      writer[view.tensor] = view;
      byName[view.tensor] ??= view;
    }
    for (const view of views) byName[view.name] = view;
    const [tensors, packed, labels] = [data.tensors, data.constants, data.labels].map(bare);
    return {
      data: { ...data, tensors, constants: packed, labels },
      views, byName, writer, constants: new Map(),
    };
  }

  // a tensor's shape in one run; undefined of what is no tensor
  const shapeOf = ({ data }, run, name) => own(run.shapes, name) ?? data.tensors[name]?.shape;

  // A tensor of one run, { name, dtype, shape, values }, or null: the page has no values of it.
  function tensor(network, run, name) {
    const { data, constants } = network, described = data.tensors[name];
    const packed = data.constants[name] ?? own(run.values, name);
    if (!described || !packed) return null;
    const cache = name in data.constants ? constants : run.unpacked ??= new Map();
    if (!cache.has(name)) {
      const shape = shapeOf(network, run, name);
      cache.set(name, { name, dtype: described.dtype, shape, values: unpacked(packed) });
    }
    return cache.get(name);
  }

  // --- nodes, ready to be computed

  // One node of one run with its operands, or null where only values are shown.
  function layer(network, run, view) {
    const { node } = view, kind = node.steps?.kind;
    if (!kind || view.tensor !== node.outputs[0]) return null;
    const operand = (formal) => node.inputs[formal] && tensor(network, run, node.inputs[formal]);
    const out = tensor(network, run, view.tensor);
    const named = Object.keys(node.inputs);
    if (!out?.values.length || !named.every(operand)) return null;
    const made = KINDS[kind](node.steps, operand, out.shape, named);
    return { kind, view, out, range: range(out.dtype), ...made };
  }

  const one = (t, fallback = 0) => t ? t.values[0] : fallback;

  // one value for each of n, of a tensor that has n or one
  const each = (t, n, fallback = 0) =>
    Array.from({ length: n }, (_, i) => t ? t.values[t.values.length > 1 ? i : 0] : fallback);

  // The factors of requantization, rounded after each of their operations, and in float64. float64
  // is wide enough that rounding its product or quotient again gives float32's own.
  function factors(scales, y_scale) {
    const products = scales.map(([first, ...others]) =>
      others.reduce((product, scale) => f32(product * scale), f32(first)));
    const wide = scales.map((parts) => parts.reduce((product, scale) => product * scale));
    if (!y_scale) return { factor: products, factor64: wide };
    return {
      factor: products.map((product) => f32(product / y_scale)),
      factor64: wide.map((product) => product / y_scale),
    };
  }

  // Each of the three kinds of sums has: x and w with their zero points, walk(i, use), which calls
  // use(index of x or -1 in the padding, index of w, [c, ky, kx]) for each product of the output
  // element i in order, column(i), which factor it takes, and bias(i).

  function conv({ strides, dilations, begin, group }, operand, shape) {
    const x = operand("x"), w = operand("w"), B = operand("B");
    const [M, C, kh, kw] = w.shape, [, , H, W] = x.shape, [, , OH, OW] = shape;
    const scales = each(operand("w_scale"), M).map((s) => [one(operand("x_scale")), s]);
    function walk(i, use) {
      const { n, channel: m, y, x: ox } = positionOf({ C: M, H: OH, W: OW }, i);
      const top = y * strides[0] - begin[0], left = ox * strides[1] - begin[1];
      const first = n * C * group + Math.floor(m / (M / group)) * C;
      let weight = m * C * kh * kw;
      for (let c = 0; c < C; c++)
        for (let ky = 0; ky < kh; ky++) {
          const iy = top + ky * dilations[0], inside = iy >= 0 && iy < H;
          for (let kx = 0; kx < kw; kx++) {
            const ix = left + kx * dilations[1];
            const at = inside && ix >= 0 && ix < W ? ((first + c) * H + iy) * W + ix : -1;
            use(at, weight++, c, ky, kx);
          }
        }
    }
    const channel = (i) => Math.floor(i / (OH * OW)) % M;
    return {
      x, w, walk, kernel: [kh, kw], channels: C, strides, dilations, begin,
      firstChannel: (i) => Math.floor(channel(i) / (M / group)) * C,
      count: C * kh * kw, column: channel,
      x_zero: one(operand("x_zero_point")), w_zero: each(operand("w_zero_point"), M),
      bias: B && ((i) => B.values[channel(i)]), biasName: "B[m]", factorName: "factor[m]",
      ...factors(scales, one(operand("y_scale"))), y_zero: one(operand("y_zero_point")),
    };
  }

  // an index of `shape` as one of a shape that broadcasts to it; both without their last `cut` axes
  function broadcast(small, shape, cut = 0) {
    const inner = small.slice(0, small.length - cut), outer = shape.slice(0, shape.length - cut);
    return (index) => {
      let at = 0, step = 1, rest = index;
      for (let axis = outer.length - 1, k = inner.length - 1; k >= 0; axis--, k--) {
        if (inner[k] > 1) at += rest % outer[axis] * step;
        rest = Math.floor(rest / outer[axis]);
        step *= inner[k];
      }
      return at;
    };
  }

  function dense({ transA, transB, alpha }, operand, shape, named) {
    const either = (name) => operand(name) || operand(name.toUpperCase());
    const x = either("a"), w = either("b"), C = named.includes("C") ? operand("C") : null;
    const [M, N] = shape.slice(-2), K = x.shape.at(transA ? -2 : -1);
    const ofA = broadcast(x.shape, shape, 2), ofB = broadcast(w.shape, shape, 2);
    const a_scale = one(operand("a_scale")), y_scale = operand("y_scale");
    const scales = each(operand("b_scale"), N).map((s) => [f32(alpha), a_scale, s]);
    function walk(i, use) {
      const n = i % N, m = Math.floor(i / N) % M, batch = Math.floor(i / (M * N));
      const a = ofA(batch) * M * K, b = ofB(batch) * K * N;
      for (let k = 0; k < K; k++)
        use(a + (transA ? k * M + m : m * K + k), b + (transB ? n * K + k : k * N + n), k, 0, 0);
    }
    const ofC = C && broadcast(C.shape, shape);
    return {
      x, w, walk, kernel: [1, 1], channels: K, count: K, column: (i) => i % N,
      x_zero: one(operand("a_zero_point")), w_zero: each(operand("b_zero_point"), N),
      bias: C && ((i) => C.values[ofC(i)]), biasName: "C", factorName: "factor",
      ...factors(scales, y_scale && one(y_scale)), y_zero: one(operand("y_zero_point")),
    };
  }

  function pool(steps, operand) {
    const x = operand("X"), pixels = sizeOf(x.shape.slice(2));
    const below = f32(one(operand("y_scale")) * pixels), W = x.shape.at(-1);
    function walk(i, use) {
      for (let p = 0; p < pixels; p++) use(i * pixels + p, -1, 0, Math.floor(p / W), p % W);
    }
    return {
      x, w: null, walk, kernel: [pixels / W, W], channels: 1, count: pixels, column: () => 0,
      x_zero: one(operand("x_zero_point")), w_zero: [0], bias: null, factorName: "factor",
      factor: [f32(one(operand("x_scale")) / below)],
      factor64: [one(operand("x_scale")) / (one(operand("y_scale")) * pixels)],
      y_zero: one(operand("y_zero_point")),
    };
  }

  // As ONNX Runtime's x86-64 kernel: two fused multiply-adds, the zero point before the rounding.
  // Where A is one element for a span of B it takes B first.
  function add({ swapped }, operand, shape) {
    const [first, second] = swapped ? ["B", "A"] : ["A", "B"];
    const half = (name) => ({
      name, tensor: operand(name), at: broadcast(operand(name).shape, shape),
      scale: one(operand(`${name}_scale`)), zero: one(operand(`${name}_zero_point`)),
    });
    return {
      a: half(first), b: half(second),
      c_scale: one(operand("C_scale")), c_zero: one(operand("C_zero_point")),
    };
  }

  // scale and zero point of QuantizeLinear and DequantizeLinear, one or one for each channel
  function along(axis, scale, zero, shape) {
    const inner = sizeOf(shape.slice(axis + 1)), count = shape[axis] ?? 1;
    const pick = (t) => (i) => !t ? 0 : t.values.length === 1 ? t.values[0]
      : t.values[Math.floor(i / inner) % count];
    return { scale: pick(scale), zero: pick(zero) };
  }

  const KINDS = {
    conv, dense, pool, add,
    quantize: ({ axis }, operand, shape) => ({
      x: operand("x"), ...along(axis, operand("y_scale"), operand("y_zero_point"), shape),
    }),
    dequantize: ({ axis }, operand, shape) => ({
      x: operand("x"), ...along(axis, operand("x_scale"), operand("x_zero_point"), shape),
    }),
    copy: (steps, operand, shape, named) => ({ x: operand(named[0]) }),
  };

  // --- what if

  const SUMS = ["conv", "dense", "pool"];

  // What can be computed otherwise. The first choice, "", is what ONNX Runtime does.
  const SWITCHES = {
    pad: {
      title: "pad with", choices: [["", "x_zero_point"], ["0", "0"]],
      of: (layer) => layer.kind === "conv" && padded(layer),
    },
    acc: {
      title: "accumulator",
      choices: [["", "32 bits"], ["wrap", "16, wrap"], ["saturate", "16, saturate"]],
      of: ({ kind }) => SUMS.includes(kind),
    },
    factor: {
      title: "factor", choices: [["", "float32"], ["float64", "float64"]],
      of: ({ kind }) => SUMS.includes(kind) || kind === "add",
    },
    scale: {
      title: "y_scale", choices: [["", "divide"], ["multiply", "times 1 / y_scale"]],
      of: ({ kind }) => kind === "quantize",
    },
    round: {
      title: "round", choices: [["", "ties to even"], ["up", "half up"], ["floor", "truncate"]],
      of: ({ kind, range }) => range && kind !== "copy",
    },
    zero: {
      title: "zero point", choices: [["", "after rounding"], ["before", "before"]],
      of: ({ kind, range }) => range && (SUMS.includes(kind) || kind === "quantize"),
    },
    // QLinearAdd alone adds it before
    added: {
      title: "zero point", choices: [["", "before rounding"], ["after", "after"]],
      of: ({ kind }) => kind === "add",
    },
  };

  const ROUNDINGS = { "": rint, up: halfUp, floor: Math.floor };

  // the switches that a node has, and of these the ones that are set
  const switches = (layer) => Object.keys(SWITCHES).filter((key) => SWITCHES[key].of(layer));
  const chosen = (layer, what) =>
    Object.fromEntries(switches(layer).filter((key) => what[key]).map((key) => [key, what[key]]));

  // how many rows and columns the windows of a convolution reach past its input, on each side
  function padding({ x, kernel, strides, dilations, begin, out }) {
    const past = (axis) => (out.shape[2 + axis] - 1) * strides[axis] - begin[axis] +
      (kernel[axis] - 1) * dilations[axis] + 1 - x.shape[2 + axis];
    const end = [0, 1].map((axis) => Math.max(0, past(axis)));
    return { top: begin[0], left: begin[1], bottom: end[0], right: end[1] };
  }

  const padded = (layer) => Object.values(padding(layer)).some((width) => width > 0);

  // --- one element

  // the register after one more product, and where it starts
  const REGISTERS = {
    "": (v) => v, wrap: wrap16, saturate: (v) => clamp(v, -32768, 32767),
  };

  // the sum of one output element; see(tap) is told of every product
  function accumulate(layer, i, what, see) {
    const { x, w, x_zero } = layer, w_zero = layer.w_zero[layer.column(i)];
    const register = REGISTERS[what.acc ?? ""], outside = what.pad === "0" ? 0 : x_zero;
    const bias = layer.bias ? layer.bias(i) : 0;
    // a register that saturates starts from the bias: in another order it holds another sum
    let sum = what.acc === "saturate" ? register(bias) : 0;
    layer.walk(i, (at, weight, c, ky, kx) => {
      const stored = at < 0 ? outside : x.values[at], a = stored - x_zero;
      const b = w ? w.values[weight] - w_zero : 1, product = a * b;
      sum = register(sum + product);
      if (see)
        see({ c, ky, kx, at, weight, x: stored, a, w: w && w.values[weight], b, product, sum,
          inside: at >= 0 });
    });
    if (what.acc === "saturate") return { sum, bias, acc: sum };
    return { sum: sum | 0, bias, acc: what.acc ? register(sum + bias) : (sum + bias) | 0 };
  }

  // from a real number to the integer, with the zero point after the rounding or before it
  function rounded(scaled, zero, what, [low, high], wide) {
    const round = ROUNDINGS[what.round ?? ""], single = wide ? (v) => v : f32;
    if (what.zero === "before") {
      const shifted = single(scaled + zero), nearest = round(shifted);
      return { shifted, rounded: nearest, y: clamp(nearest, low, high) };
    }
    const nearest = round(scaled), shifted = single(nearest + zero);
    return { rounded: nearest, shifted, y: clamp(shifted, low, high) };
  }

  // stage 2 of a sum
  function requantize(layer, i, acc, what) {
    const column = layer.column(i), wide = what.factor === "float64";
    const factor = (wide ? layer.factor64 : layer.factor)[column];
    const scaled = wide ? acc * factor : f32(f32(acc) * factor);
    if (!layer.range) return { factor, scaled, y: f32(scaled) }; // a float32 output
    return { factor, scaled, ...rounded(scaled, layer.y_zero, what, layer.range, wide) };
  }

  function added(layer, i, what) {
    const { a, b, c_scale, c_zero } = layer, [low, high] = layer.range;
    const A = a.tensor.values[a.at(i)], B = b.tensor.values[b.at(i)];
    const round = ROUNDINGS[what.round ?? ""], last = what.added === "after" ? c_zero : 0;
    const first = c_zero - last;
    let ra, rb, fixed, inner, scaled;
    if (what.factor === "float64") {
      [ra, rb] = [a.scale / c_scale, b.scale / c_scale];
      fixed = first - (ra * a.zero + rb * b.zero);
      inner = rb * B + fixed;
      scaled = ra * A + inner;
    } else {
      [ra, rb] = [f32(a.scale / c_scale), f32(b.scale / c_scale)];
      fixed = f32(first - fma(ra, a.zero, f32(rb * b.zero)));
      inner = fma(rb, B, fixed);
      scaled = fma(ra, A, inner);
    }
    const nearest = round(scaled);
    return { A, B, ra, rb, fixed, inner, scaled, rounded: nearest, shifted: nearest + last,
      y: clamp(nearest + last, low, high) };
  }

  function quantized(layer, i, what) {
    const x = layer.x.values[i], scale = layer.scale(i), zero = layer.zero(i);
    const scaled = what.scale === "multiply" ? f32(x * f32(1 / scale)) : f32(x / scale);
    const found = { x, scale, scaled, ...rounded(scaled, zero, what, layer.range) };
    return Number.isNaN(found.y) ? { ...found, y: layer.range[0] } : found;
  }

  function dequantized(layer, i) {
    const x = layer.x.values[i], zero = layer.zero(i), scale = layer.scale(i);
    const difference = (x - zero) | 0, real = f32(difference);
    return { x, zero, difference, scale, y: f32(real * scale) };
  }

  // one output element without its steps
  function value(layer, i, what = {}) {
    if (SUMS.includes(layer.kind))
      return requantize(layer, i, accumulate(layer, i, what).acc, what).y;
    if (layer.kind === "add") return added(layer, i, what).y;
    if (layer.kind === "quantize") return quantized(layer, i, what).y;
    return layer.kind === "dequantize" ? dequantized(layer, i).y : layer.x.values[i];
  }

  // One output element with every step on the way: { taps, operands, stages, y }. A stage is
  // { key, name, value, type }; an operand is { name, tensor, at }, at an index.
  function element(layer, i, what = {}) {
    const made = EXPLAINED[layer.kind](layer, i, what);
    const stages = made.stages.filter(Boolean)
      .map(([key, name, v, type]) => ({ key, name, value: v, type }));
    return { taps: [], operands: [], ...made, stages, y: made.y };
  }

  const ROUNDED = { "": "rint (ties to even)", up: "round half up", floor: "truncate" };

  // the stages from the real number on
  function lastStages(found, what, wide, zero, type) {
    const float = wide ? "float64" : "float32", name = ROUNDED[what.round ?? ""];
    const parts = [["rounded", name, found.rounded, float],
      ["shifted", `+ y_zero_point (${zero})`, found.shifted, float]];
    if (what.zero === "before") parts.reverse();
    return [...parts, ["y", "saturate: y", found.y, type]];
  }

  function explainedSum(layer, i, what) {
    const taps = [], found = accumulate(layer, i, what, (tap) => taps.push(tap));
    const next = requantize(layer, i, found.acc, what), wide = what.factor === "float64";
    const float = wide ? "float64" : "float32", register = what.acc ? "int16" : "int32";
    const start = what.acc === "saturate" && layer.bias;
    const stages = [
      ["sum", start ? "sum, from the bias on" : "sum of products", found.sum, register],
      layer.bias && !start && ["bias", `bias ${layer.biasName}`, found.bias, "int32"],
      layer.bias && ["acc", "acc", found.acc, register],
      ["factor", layer.factorName, next.factor, float],
      ["scaled", wide ? `acc · ${layer.factorName}` : `float32(acc) · ${layer.factorName}`,
        next.scaled, float],
      ...(layer.range ? lastStages(next, what, wide, layer.y_zero, layer.out.dtype)
        : [["y", "y", next.y, "float32"]]),
    ];
    return { taps, stages, y: next.y };
  }

  const EXPLAINED = {
    conv: explainedSum, dense: explainedSum, pool: explainedSum,
    add(layer, i, what) {
      const { a, b, c_zero } = layer, found = added(layer, i, what);
      const wide = what.factor === "float64", float = wide ? "float64" : "float32";
      const last = what.added === "after", C = last ? "−" : "C_zero_point − ";
      const fused = (x, y, z) => wide ? `${x} · ${y} + ${z}` : `fma(${x}, ${y}, ${z})`;
      return {
        operands: [{ name: a.name, tensor: a.tensor, at: a.at(i) },
          { name: b.name, tensor: b.tensor, at: b.at(i) }],
        stages: [
          [a.name, a.name, found.A, a.tensor.dtype], [b.name, b.name, found.B, b.tensor.dtype],
          ["ra", `r${a.name} = ${a.name}_scale / C_scale`, found.ra, float],
          ["rb", `r${b.name} = ${b.name}_scale / C_scale`, found.rb, float],
          ["fixed", `fixed = ${C}(r${a.name} · ${a.zero} + r${b.name} · ${b.zero})`,
            found.fixed, float],
          ["inner", fused(`r${b.name}`, b.name, "fixed"), found.inner, float],
          ["scaled", fused(`r${a.name}`, a.name, "that"), found.scaled, float],
          ["rounded", ROUNDED[what.round ?? ""], found.rounded, float],
          last && ["shifted", `+ C_zero_point (${c_zero})`, found.shifted, float],
          ["y", "saturate: C", found.y, layer.out.dtype],
        ],
        y: found.y,
      };
    },
    quantize(layer, i, what) {
      const found = quantized(layer, i, what), times = what.scale === "multiply";
      return {
        operands: [{ name: "x", tensor: layer.x, at: i }],
        stages: [
          ["x", "x", found.x, layer.x.dtype], ["scale", "y_scale", found.scale, "float32"],
          ["scaled", times ? "x · (1 / y_scale)" : "x / y_scale", found.scaled, "float32"],
          ...lastStages(found, what, false, layer.zero(i), layer.out.dtype),
        ],
        y: found.y,
      };
    },
    dequantize(layer, i) {
      const found = dequantized(layer, i);
      return {
        operands: [{ name: "x", tensor: layer.x, at: i }],
        stages: [
          ["x", "x", found.x, layer.x.dtype],
          ["difference", `x − x_zero_point (${found.zero})`, found.difference, "int32"],
          ["scale", "x_scale", found.scale, "float32"], ["y", "product: y", found.y, "float32"],
        ],
        y: found.y,
      };
    },
    copy: (layer, i) => ({
      operands: [{ name: "x", tensor: layer.x, at: i }],
      stages: [["x", "x", layer.x.values[i], layer.x.dtype],
        ["y", "the same element, in another shape", layer.x.values[i], layer.out.dtype]],
      y: layer.x.values[i],
    }),
  };

  // as === but NaN equals NaN
  const same = (a, b) => a === b || (a !== a && b !== b);

  // The whole layer, computed in pieces: each call of step(count) does `count` more elements.
  function sweep(layer, what) {
    const theirs = layer.out.values, size = theirs.length, values = new Float64Array(size);
    const made = { done: 0, size, values, differing: 0, largest: 0, first: -1, step };
    function step(count) {
      const end = Math.min(size, made.done + count);
      for (let i = made.done; i < end; i++) {
        values[i] = value(layer, i, what);
        if (same(values[i], theirs[i])) continue;
        made.differing++;
        made.largest = Math.max(made.largest, Math.abs(values[i] - theirs[i]));
        if (made.first < 0) made.first = i;
      }
      made.done = end;
      return end === size;
    }
    return made;
  }

  // --- where an element looks

  // The part of the graph's inputs that reaches rows top..bottom and columns left..right of a
  // tensor, as { tensor, top, bottom, left, right } in its rows and columns, or null: past a node
  // that moves elements it is not followed.
  function field(network, run, name, box) {
    const view = network.writer[name], described = network.data.tensors[name];
    if (!view) return described && described.shape.length === 4 ? { tensor: name, ...box } : null;
    const { node } = view, { steps } = node, shape = (n) => network.data.tensors[n]?.shape;
    const behind = (formal, reach) => field(network, run, node.inputs[formal], reach);
    if (steps?.kind === "conv") {
      const [, , kh, kw] = shape(node.inputs.w), [, , H, W] = shape(node.inputs.x);
      const far = (at, axis, k) => at * steps.strides[axis] - steps.begin[axis] +
        (k - 1) * steps.dilations[axis];
      return behind("x", {
        top: clamp(far(box.top, 0, 1), 0, H - 1), bottom: clamp(far(box.bottom, 0, kh), 0, H - 1),
        left: clamp(far(box.left, 1, 1), 0, W - 1), right: clamp(far(box.right, 1, kw), 0, W - 1),
      });
    }
    if (steps?.kind === "quantize" || steps?.kind === "dequantize") return behind("x", box);
    if (steps?.kind === "pool") {
      const [, , H, W] = shape(node.inputs.X);
      return W ? behind("X", { top: 0, bottom: H - 1, left: 0, right: W - 1 }) : null;
    }
    if (steps?.kind !== "add") return null;
    const parts = ["A", "B"].filter((formal) => !(node.inputs[formal] in network.data.constants))
      .map((formal) => behind(formal, box));
    if (!parts.length || !parts.every((part) => part && part.tensor === parts[0].tensor))
      return null;
    const of = (pick, side) => pick(...parts.map((part) => part[side]));
    return { tensor: parts[0].tensor, top: of(Math.min, "top"), left: of(Math.min, "left"),
      bottom: of(Math.max, "bottom"), right: of(Math.max, "right") };
  }

  globalThis.qlinearInference = {
    rint, halfUp, fma, clamp, signedBits, unpacked, range, layout, indexOf, positionOf, network,
    shapeOf, tensor, layer, padding, SWITCHES, switches, chosen, value, element, same, sweep, field,
  };
}
