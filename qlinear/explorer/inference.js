// What the network computes, element for element as ONNX Runtime does: integers for the sums,
// Math.fround for float32. There is no page in here, so that any JavaScript engine can run it;
// tests/test_explorer.py runs it without a browser and compares it with the reference.
//
// The data are explorer-data.js, made by tools/explorer_data.py.
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

  function saturate(v) {
    return Math.max(-128, Math.min(127, v));
  }

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

  // --- the data, unpacked

  const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const SIXES = new Map(Array.from(DIGITS, (digit, value) => [digit, value]));

  // base64 to bytes; atob belongs to browsers, not to the language
  function bytes(text) {
    const letters = text.replace(/=*$/, "");
    const made = new Uint8Array(Math.floor(letters.length * 6 / 8));
    let waiting = 0, count = 0, at = 0;
    for (const letter of letters) {
      waiting = ((waiting << 6) | SIXES.get(letter)) & 0xfff;
      count += 6;
      if (count < 8) continue;
      count -= 8;
      made[at++] = waiting >> count; // its low 8 bits
    }
    return made;
  }

  const int8 = (text) => new Int8Array(bytes(text).buffer);
  const int32 = (text) => new Int32Array(bytes(text).buffer);

  // The scale of requantization, one per output channel, rounded after each of its two operations.
  // float64 is wide enough that rounding its product or quotient again gives float32's own.
  function factors(node) {
    return node.w_scale.map((w_scale) =>
      f32(f32(f32(node.x_scale) * f32(w_scale)) / f32(node.y_scale)));
  }

  // The network as the functions below take it. Shapes: w (M, C, kh, kw), in (C, H, W),
  // out (M, OH, OW), all in row-major order.
  function network(data) {
    const nodes = data.nodes.map((node) => node.kind === "add" ? node
      : { ...node, w: int8(node.w), B: int32(node.B), scales: factors(node) });
    return {
      convs: nodes.filter((node) => node.kind === "conv"),
      byName: Object.fromEntries(nodes.map((node) => [node.name, node])),
      pixels: bytes(data.images), // uint8, 3 x 32 x 32 an image
      cache: new Map(), // "image/tensor" to Int8Array
    };
  }

  // --- QLinearConv

  // where a tap reads the input: the index of its element, or -1 in the padding
  function source(H, W, c, iy, ix) {
    return iy < 0 || iy >= H || ix < 0 || ix >= W ? -1 : (c * H + iy) * W + ix;
  }

  // Calls use(c, ky, kx, source, weight) for each product of one output element, in the order in
  // which the weights are stored.
  function eachTap(node, m, oy, ox, use) {
    const [, C, kh, kw] = node.shape, [, H, W] = node.in;
    const top = oy * node.strides[0] - node.pads[0], left = ox * node.strides[1] - node.pads[1];
    let weight = m * C * kh * kw;
    for (let c = 0; c < C; c++)
      for (let ky = 0; ky < kh; ky++)
        for (let kx = 0; kx < kw; kx++)
          use(c, ky, kx, source(H, W, c, top + ky, left + kx), weight++);
  }

  // from the accumulator to 8 bits, every step; the zero point is added after the rounding
  function requantize(node, m, acc) {
    const scale = node.scales[m], scaled = f32(f32(acc) * scale), rounded = rint(scaled);
    const shifted = rounded + node.y_zero;
    return { acc, scale, scaled, rounded, shifted, y: saturate(shifted) };
  }

  // one output element: every product, and the steps of requantization
  function element(network, image, node, m, oy, ox) {
    const x = tensor(network, image, node.input), taps = [];
    let sum = 0;
    eachTap(node, m, oy, ox, (c, ky, kx, at, weight) => {
      const inside = at >= 0, w = node.w[weight];
      const stored = inside ? x[at] : node.x_zero; // padding is real 0, which x_zero stands for
      const product = (stored - node.x_zero) * w;
      sum += product;
      taps.push({ c, ky, kx, x: stored, w, product, sum, inside });
    });
    return { taps, sum, bias: node.B[m], ...requantize(node, m, sum + node.B[m]) };
  }

  function accumulate(node, x, m, oy, ox) {
    let acc = node.B[m];
    eachTap(node, m, oy, ox, (c, ky, kx, at, weight) => {
      if (at >= 0) acc += (x[at] - node.x_zero) * node.w[weight]; // a product in the padding is 0
    });
    return acc;
  }

  function conv(node, x) {
    const [M, OH, OW] = node.out, y = new Int8Array(M * OH * OW);
    let at = 0;
    for (let m = 0; m < M; m++)
      for (let oy = 0; oy < OH; oy++)
        for (let ox = 0; ox < OW; ox++)
          y[at++] = requantize(node, m, accumulate(node, x, m, oy, ox)).y;
    return y;
  }

  // --- QLinearAdd

  // as ONNX Runtime's x86-64 kernel: two fused multiply-adds, the zero point before the rounding
  function add(node, a, b) {
    const ra = f32(f32(node.a_scale) / f32(node.c_scale));
    const rb = f32(f32(node.b_scale) / f32(node.c_scale));
    const fixed = f32(node.c_zero - fma(ra, node.a_zero, f32(rb * node.b_zero)));
    return Int8Array.from(a, (v, i) => saturate(rint(fma(ra, v, fma(rb, b[i], fixed)))));
  }

  // --- whole tensors

  // QuantizeLinear with scale 1 and zero point -128
  function quantizedImage({ pixels }, image) {
    const size = 3 * 32 * 32;
    return Int8Array.from(pixels.subarray(image * size, (image + 1) * size), (v) => v - 128);
  }

  function compute(network, image, name) {
    if (name === "image") return quantizedImage(network, image);
    const node = network.byName[name], of = (input) => tensor(network, image, input);
    return node.kind === "add" ? add(node, of(node.a), of(node.b)) : conv(node, of(node.input));
  }

  // the tensor of that name for one image, computed once: an Int8Array
  function tensor(network, image, name) {
    const { cache } = network, key = `${image}/${name}`;
    if (!cache.has(key)) {
      const made = compute(network, image, name);
      if (cache.size > 60) cache.clear(); // about five images' worth
      cache.set(key, made);
    }
    return cache.get(key);
  }

  globalThis.qlinearInference = {
    rint, saturate, fma, int8, network, requantize, element, conv, add, tensor,
  };
}
