/**
 * A QR code encoder (ISO/IEC 18004): text in, a square of dark and light modules out.
 *
 * Owns the whole way from UTF-8 bytes to modules, in byte mode at error level M, versions 1 to 40. Pure: draws nothing.
 * Throws a RangeError where the text is too long for version 40 (2,331 bytes).
 */

/** Error correction codewords in each block of level M, by version. */
const ECC_PER_BLOCK = [
  10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26,
  26, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28,
];

/** Number of blocks of level M, by version. */
const BLOCKS = [
  1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16,
  17, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31, 33, 35, 37, 38, 40, 43, 45, 47, 49,
];

/** The two format bits of level M. */
const LEVEL_BITS = 0b00;

/** The eight mask patterns of the standard, in its order: true where a module is to be flipped. */
const MASKS = [
  (/** @type {number} */ x, /** @type {number} */ y) => (x + y) % 2 === 0,
  (/** @type {number} */ _x, /** @type {number} */ y) => y % 2 === 0,
  (/** @type {number} */ x, /** @type {number} */ _y) => x % 3 === 0,
  (/** @type {number} */ x, /** @type {number} */ y) => (x + y) % 3 === 0,
  (/** @type {number} */ x, /** @type {number} */ y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2 === 0,
  (/** @type {number} */ x, /** @type {number} */ y) => ((x * y) % 2) + ((x * y) % 3) === 0,
  (/** @type {number} */ x, /** @type {number} */ y) => (((x * y) % 2) + ((x * y) % 3)) % 2 === 0,
  (/** @type {number} */ x, /** @type {number} */ y) => (((x + y) % 2) + ((x * y) % 3)) % 2 === 0,
];

/**
 * @param {string} text
 * @returns {{ size: number, dark: (x: number, y: number) => boolean }} without the quiet zone of four modules
 */
export function encode(text) {
  const bytes = new TextEncoder().encode(text);
  const version = smallestVersion(bytes.length);
  const codewords = withErrorCorrection(dataCodewords(bytes, version), version);

  const size = 17 + 4 * version;
  const base = new Grid(size);
  drawFunctionPatterns(base, version);
  drawCodewords(base, codewords);

  let best = null;
  let least = Infinity;
  for (let mask = 0; mask < MASKS.length; mask++) {
    const grid = base.masked(MASKS[mask]);
    drawFormat(grid, mask);
    const score = penalty(grid);
    if (score < least) [best, least] = [grid, score];
  }
  const grid = /** @type {Grid} */ (best);
  return { size, dark: (x, y) => grid.get(x, y) };
}

/**
 * The dark modules as the data of one SVG path in a square of `side` units, quiet zone included.
 * @param {string} text
 * @returns {{ side: number, path: string }}
 */
export function toPath(text) {
  const { size, dark } = encode(text);
  const quiet = 4;
  let path = "";
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      if (!dark(x, y)) continue;
      let run = 1;
      while (x + run < size && dark(x + run, y)) run++;
      path += `M${x + quiet} ${y + quiet}h${run}v1h-${run}z`;
      x += run;
    }
  }
  return { side: size + 2 * quiet, path };
}

/** Modules and, beside them, which belong to a function pattern and so must be neither masked nor written over. */
class Grid {
  /** @param {number} size @param {Uint8Array} [modules] @param {Uint8Array} [reserved] */
  constructor(size, modules = new Uint8Array(size * size), reserved = new Uint8Array(size * size)) {
    this.size = size;
    this.modules = modules;
    this.reserved = reserved;
  }

  /** @param {number} x @param {number} y */
  get(x, y) {
    return this.modules[y * this.size + x] === 1;
  }

  /** @param {number} x @param {number} y @param {boolean} dark */
  set(x, y, dark) {
    this.modules[y * this.size + x] = dark ? 1 : 0;
  }

  /** @param {number} x @param {number} y @param {boolean} dark */
  reserve(x, y, dark) {
    if (x < 0 || y < 0 || x >= this.size || y >= this.size) return;
    this.set(x, y, dark);
    this.reserved[y * this.size + x] = 1;
  }

  /** @param {number} x @param {number} y */
  isReserved(x, y) {
    return this.reserved[y * this.size + x] === 1;
  }

  /** @param {(x: number, y: number) => boolean} flips */
  masked(flips) {
    const copy = new Grid(this.size, this.modules.slice(), this.reserved);
    for (let y = 0; y < this.size; y++) {
      for (let x = 0; x < this.size; x++) {
        if (!this.isReserved(x, y) && flips(x, y)) copy.set(x, y, !this.get(x, y));
      }
    }
    return copy;
  }
}

/** Codewords a version holds, error correction included. @param {number} version */
function capacity(version) {
  let modules = (16 * version + 128) * version + 64;
  if (version >= 2) {
    const across = Math.floor(version / 7) + 2;
    modules -= (25 * across - 10) * across - 55;
    if (version >= 7) modules -= 36;
  }
  return Math.floor(modules / 8);
}

/** @param {number} version */
function dataCapacity(version) {
  return capacity(version) - ECC_PER_BLOCK[version - 1] * BLOCKS[version - 1];
}

/** @param {number} version */
function lengthBits(version) {
  return version < 10 ? 8 : 16;
}

/** @param {number} length in bytes */
function smallestVersion(length) {
  for (let version = 1; version <= 40; version++) {
    if (4 + lengthBits(version) + 8 * length <= 8 * dataCapacity(version)) return version;
  }
  throw new RangeError(`${length} bytes are too many for a QR code`);
}

/** @param {Uint8Array} bytes @param {number} version */
function dataCodewords(bytes, version) {
  const room = dataCapacity(version);
  /** @type {number[]} */
  const bits = [];
  const put = (/** @type {number} */ value, /** @type {number} */ count) => {
    for (let bit = count - 1; bit >= 0; bit--) bits.push((value >>> bit) & 1);
  };
  put(0b0100, 4);
  put(bytes.length, lengthBits(version));
  for (const byte of bytes) put(byte, 8);
  put(0, Math.min(4, 8 * room - bits.length));
  while (bits.length % 8 !== 0) bits.push(0);
  for (let pad = 0xec; bits.length < 8 * room; pad ^= 0xec ^ 0x11) put(pad, 8);

  const words = new Uint8Array(room);
  bits.forEach((bit, i) => (words[i >> 3] |= bit << (7 - (i & 7))));
  return words;
}

/** Splits the data into blocks, gives each its own correction, and weaves all together. @param {Uint8Array} data @param {number} version */
function withErrorCorrection(data, version) {
  const blocks = BLOCKS[version - 1];
  const eccLength = ECC_PER_BLOCK[version - 1];
  const shortLength = Math.floor(data.length / blocks);
  const longBlocks = data.length % blocks;
  const divisor = generator(eccLength);

  const parts = [];
  const corrections = [];
  for (let block = 0, at = 0; block < blocks; block++) {
    const length = shortLength + (block >= blocks - longBlocks ? 1 : 0);
    const part = data.subarray(at, at + length);
    parts.push(part);
    corrections.push(remainder(part, divisor));
    at += length;
  }

  const woven = [];
  for (let i = 0; i <= shortLength; i++) {
    for (const part of parts) if (i < part.length) woven.push(part[i]);
  }
  for (let i = 0; i < eccLength; i++) {
    for (const correction of corrections) woven.push(correction[i]);
  }
  return woven;
}

/** Product in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1. @param {number} a @param {number} b */
function multiply(a, b) {
  let product = 0;
  for (let bit = 7; bit >= 0; bit--) {
    product = (product << 1) ^ ((product >>> 7) * 0x11d);
    if ((b >>> bit) & 1) product ^= a;
  }
  return product;
}

/** The Reed-Solomon generator polynomial, highest coefficient first and left out, as it is always 1. @param {number} degree */
function generator(degree) {
  const polynomial = new Uint8Array(degree);
  polynomial[degree - 1] = 1;
  let root = 1;
  for (let i = 0; i < degree; i++) {
    for (let j = 0; j < degree; j++) {
      polynomial[j] = multiply(polynomial[j], root) ^ (j + 1 < degree ? polynomial[j + 1] : 0);
    }
    root = multiply(root, 2);
  }
  return polynomial;
}

/** @param {Uint8Array} data @param {Uint8Array} divisor */
function remainder(data, divisor) {
  const rest = new Uint8Array(divisor.length);
  for (const byte of data) {
    const factor = byte ^ rest[0];
    rest.copyWithin(0, 1);
    rest[rest.length - 1] = 0;
    for (let i = 0; i < rest.length; i++) rest[i] ^= multiply(divisor[i], factor);
  }
  return rest;
}

/** @param {Grid} grid @param {number} version */
function drawFunctionPatterns(grid, version) {
  const last = grid.size - 1;
  for (let i = 0; i <= last; i++) {
    grid.reserve(6, i, i % 2 === 0);
    grid.reserve(i, 6, i % 2 === 0);
  }
  for (const [cx, cy] of [[3, 3], [last - 3, 3], [3, last - 3]]) drawFinder(grid, cx, cy);

  const centres = alignmentCentres(version);
  const end = centres.length - 1;
  centres.forEach((cx, i) =>
    centres.forEach((cy, j) => {
      const onFinder = (i === 0 && j === 0) || (i === 0 && j === end) || (i === end && j === 0);
      if (!onFinder) drawAlignment(grid, cx, cy);
    }),
  );

  // The format bits depend on the mask, which is chosen later; their place is kept free here.
  drawFormat(grid, 0);
  if (version >= 7) drawVersion(grid, version);
}

/** Ring, gap and core, with the light separator around. @param {Grid} grid @param {number} cx @param {number} cy */
function drawFinder(grid, cx, cy) {
  for (let dy = -4; dy <= 4; dy++) {
    for (let dx = -4; dx <= 4; dx++) {
      const ring = Math.max(Math.abs(dx), Math.abs(dy));
      grid.reserve(cx + dx, cy + dy, ring !== 2 && ring !== 4);
    }
  }
}

/** @param {Grid} grid @param {number} cx @param {number} cy */
function drawAlignment(grid, cx, cy) {
  for (let dy = -2; dy <= 2; dy++) {
    for (let dx = -2; dx <= 2; dx++) {
      grid.reserve(cx + dx, cy + dy, Math.max(Math.abs(dx), Math.abs(dy)) !== 1);
    }
  }
}

/** @param {number} version @returns {number[]} */
function alignmentCentres(version) {
  if (version === 1) return [];
  const count = Math.floor(version / 7) + 2;
  const step = version === 32 ? 26 : Math.ceil((4 * version + 4) / (2 * count - 2)) * 2;
  const centres = [6];
  for (let i = count - 2; i >= 0; i--) centres.push(4 * version + 10 - i * step);
  return centres;
}

/** Both copies of level and mask, guarded by a BCH code. @param {Grid} grid @param {number} mask */
function drawFormat(grid, mask) {
  const data = (LEVEL_BITS << 3) | mask;
  let rest = data;
  for (let i = 0; i < 10; i++) rest = (rest << 1) ^ ((rest >>> 9) * 0x537);
  const bits = ((data << 10) | rest) ^ 0x5412;
  const bit = (/** @type {number} */ i) => ((bits >>> i) & 1) === 1;
  const { size } = grid;

  for (let i = 0; i <= 5; i++) grid.reserve(8, i, bit(i));
  grid.reserve(8, 7, bit(6));
  grid.reserve(8, 8, bit(7));
  grid.reserve(7, 8, bit(8));
  for (let i = 9; i < 15; i++) grid.reserve(14 - i, 8, bit(i));

  for (let i = 0; i < 8; i++) grid.reserve(size - 1 - i, 8, bit(i));
  for (let i = 8; i < 15; i++) grid.reserve(8, size - 15 + i, bit(i));
  grid.reserve(8, size - 8, true);
}

/** Both copies of the version number, from version 7. @param {Grid} grid @param {number} version */
function drawVersion(grid, version) {
  let rest = version;
  for (let i = 0; i < 12; i++) rest = (rest << 1) ^ ((rest >>> 11) * 0x1f25);
  const bits = (version << 12) | rest;
  for (let i = 0; i < 18; i++) {
    const dark = ((bits >>> i) & 1) === 1;
    const a = grid.size - 11 + (i % 3);
    const b = Math.floor(i / 3);
    grid.reserve(a, b, dark);
    grid.reserve(b, a, dark);
  }
}

/** Two columns at a time, from the right, up and down in turn. @param {Grid} grid @param {number[]} codewords */
function drawCodewords(grid, codewords) {
  const { size } = grid;
  let at = 0;
  for (let right = size - 1; right >= 1; right -= 2) {
    // The column of the timing pattern carries no data.
    if (right === 6) right = 5;
    const upwards = ((right + 1) & 2) === 0;
    for (let row = 0; row < size; row++) {
      const y = upwards ? size - 1 - row : row;
      for (const x of [right, right - 1]) {
        if (grid.isReserved(x, y) || at >= 8 * codewords.length) continue;
        grid.set(x, y, ((codewords[at >> 3] >>> (7 - (at & 7))) & 1) === 1);
        at++;
      }
    }
  }
}

/** How hard the symbol would be to read: long runs, 2x2 blocks, finder look-alikes, uneven darkness. @param {Grid} grid */
function penalty(grid) {
  const { size } = grid;
  let score = 0;
  let dark = 0;

  for (const at of [
    (/** @type {number} */ i, /** @type {number} */ j) => grid.get(i, j),
    (/** @type {number} */ i, /** @type {number} */ j) => grid.get(j, i),
  ]) {
    for (let j = 0; j < size; j++) {
      let run = 0;
      let window = 0;
      for (let i = 0; i < size; i++) {
        const here = at(i, j);
        run = i > 0 && here === at(i - 1, j) ? run + 1 : 1;
        if (run === 5) score += 3;
        else if (run > 5) score += 1;
        window = ((window << 1) | (here ? 1 : 0)) & 0x7ff;
        if (i >= 10 && (window === 0b10111010000 || window === 0b00001011101)) score += 40;
      }
    }
  }

  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const here = grid.get(x, y);
      if (here) dark++;
      if (x === 0 || y === 0) continue;
      if (here === grid.get(x - 1, y) && here === grid.get(x, y - 1) && here === grid.get(x - 1, y - 1)) score += 3;
    }
  }
  return score + 10 * Math.floor(Math.abs((dark * 20) / (size * size) - 10));
}
