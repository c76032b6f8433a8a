// Draws avatars from integer seeds, the same pictures for the same arguments:
//   node make.mjs --out DIR [--count 12000] [--size 64] [--styles toon-head,personas] [--first-seed 0]
// A style may carry a weight (`toon-head:3,personas:1`). Pictures are named by seed; ATTRIBUTION.md is
// written beside them and names the terms of every style used.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createAvatar } from '@dicebear/core';
import * as collection from '@dicebear/collection';
import { Resvg } from '@resvg/resvg-js';

const BACKGROUNDS = ['b6e3f4', 'c0aede', 'd1d4f9', 'ffd5dc', 'ffdfbf'];

const { values: args } = parseArgs({
  options: {
    out: { type: 'string' },
    count: { type: 'string', default: '12000' },
    size: { type: 'string', default: '64' },
    styles: { type: 'string', default: 'toon-head,personas' },
    'first-seed': { type: 'string', default: '0' },
  },
});

const whole = (name, least, most) => {
  const value = Number(args[name]);
  if (!Number.isInteger(value) || value < least || value > most) {
    fail(`--${name} must be a whole number within ${least}…${most}`);
  }
  return value;
};

function fail(message) {
  console.error(`make.mjs: ${message}`);
  process.exit(2);
}

// One entry a share, so that a seed picks its style by plain remainder.
function styleShares(text) {
  return text.split(',').flatMap((part) => {
    const [name, weight = '1'] = part.split(':');
    const key = name.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
    if (!Object.hasOwn(collection, key)) fail(`no DiceBear style is called ${name}`);
    if (!/^[1-9]\d?$/.test(weight)) fail(`the weight of ${name} must be within 1…99`);
    return Array(Number(weight)).fill({ name, style: collection[key] });
  });
}

// Seeds are mixed so that style and features do not march in step.
const mixed = (seed) => Number((BigInt(seed) * 0x9e3779b97f4a7c15n >> 20n) & 0xffffffffn);

function draw({ style }, seed, size) {
  const svg = createAvatar(style, { seed: `rissole-${seed}`, size, backgroundColor: BACKGROUNDS }).toString();
  return new Resvg(svg, { fitTo: { mode: 'width', value: size } }).render().asPng();
}

function attribution(shares) {
  const used = [...new Map(shares.map((s) => [s.name, s.style])).entries()];
  const lines = used.map(([name, { meta }]) =>
    `- **${name}**: "${meta.title}" by ${meta.creator}, ${meta.license?.name} (${meta.license?.url}), ${meta.source}`);
  return `# Attribution\nAvatars drawn by DiceBear, rendered at low resolution. Designs:\n${lines.join('\n')}\n`;
}

if (!args.out) fail('--out DIR is needed');
const [count, size, first] = [whole('count', 1, 10_000_000), whole('size', 8, 1024), whole('first-seed', 0, 1e12)];
const shares = styleShares(args.styles);
mkdirSync(args.out, { recursive: true });
writeFileSync(join(args.out, 'ATTRIBUTION.md'), attribution(shares));
for (let seed = first; seed < first + count; seed++) {
  const file = join(args.out, `${String(seed).padStart(8, '0')}.png`);
  writeFileSync(file, draw(shares[mixed(seed) % shares.length], seed, size));
  if (process.stderr.isTTY && seed % 100 === 0) process.stderr.write(`\r${seed - first} of ${count}`);
}
