// Times a matmul through the Node binding: node benches/bindings/node.mjs
//
// Prints a JSON line a case, as call.c does, whose data and samples these are. With `--parts` it
// also prints what a call costs without the product, a piece at a time.

import { createRequire } from 'node:module'

const require = createRequire(new URL('../../bindings/node/package.json', import.meta.url))
const { Tensor } = require('cortex-tensor')

const cases = [
  { name: 'call_64x64_int8', spec: 'int8', n: 64, batch: 1, samples: 500, calls: 1000 },
  { name: 'matmul_4096_b8', spec: 'int4(group=32)', n: 4096, batch: 8, samples: 100, calls: 1 },
]

/** Element i of the weights, and of x. */
function values(count) {
  const out = new Float32Array(count)
  for (let i = 0; i < count; i++) out[i] = (Math.imul(i, 2654435761) >>> 0) / 4294967296 - 0.5
  return out
}

/** The least and the median of `samples` means of `calls` calls each, in µs. */
function time(samples, calls, f) {
  const times = []
  // The first tenth is not counted.
  for (let s = -samples / 10; s < samples; s++) {
    const start = process.hrtime.bigint()
    for (let i = 0; i < calls; i++) f()
    const mean = Number(process.hrtime.bigint() - start) / 1e3 / calls
    if (s >= 0) times.push(mean)
  }
  times.sort((a, b) => a - b)
  return { min_us: times[0], median_us: times[times.length >> 1], calls: samples * calls }
}

function print(name, { min_us, median_us, calls }) {
  const figures = { min_us: +min_us.toFixed(4), median_us: +median_us.toFixed(4), calls }
  console.log(JSON.stringify({ language: 'node', case: name, ...figures }))
}

for (const { name, spec, n, batch, samples, calls } of cases) {
  const tensor = Tensor.compressSync({ data: values(n * n), shape: [n, n] }, spec)
  const x = { data: values(batch * n), shape: [batch, n] }
  const options = { threads: 1, out: new Float32Array(batch * n) }
  print(name, time(samples, calls, () => tensor.matmulSync(x, options)))
}

if (process.argv.includes('--parts')) {
  const tensor = Tensor.compressSync({ data: values(64 * 64), shape: [64, 64] }, 'int8')
  const data = values(64)
  const out = new Float32Array(64)
  const x = { data, shape: [1, 64] }
  const empty = Tensor.compressSync({ data: new Float32Array(64), shape: [1, 64] }, 'dense')
  const parts = {
    getter: () => tensor.rows,
    'no options': () => tensor.matmulSync(data),
    'out alone': () => tensor.matmulSync(data, { out }),
    'out and threads': () => tensor.matmulSync(data, { out, threads: 1 }),
    'a view, out and threads': () => tensor.matmulSync(x, { out, threads: 1 }),
    'one row of 64, no options': () => empty.matmulSync(data),
  }
  for (const [name, f] of Object.entries(parts)) print(`part: ${name}`, time(100, 1000, f))
}
