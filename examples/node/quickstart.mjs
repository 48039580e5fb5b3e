// Opens an archive, lists its tensors, and multiplies the first matrix by a vector, on the
// compressed weights: node quickstart.mjs MODEL.cai

import { Archive, CortexError } from 'cortex-tensor'

/** y = W x with x all ones: the sum of each row of W. */
async function multiply(w) {
  const y = await w.matmul({ data: new Float32Array(w.cols).fill(1), shape: [1, w.cols] })
  const first = Array.from(y.subarray(0, 8), (v) => Number(v.toPrecision(6)))
  console.log(`\ny = W x for ${w.name}, x all ones: ${first.join(' ')}${y.length > 8 ? ' ...' : ''}`)
}

async function main(path) {
  const model = await Archive.open(path)
  let multiplied = false
  for (const name of model.names()) {
    const w = model.tensor(name)
    console.log(
      w.name.padEnd(32),
      `${w.dtype}[${w.rows} x ${w.cols}] `,
      w.spec.padEnd(24),
      `${w.bitsPerWeight.toFixed(2).padStart(5)} bits, error ${w.relativeError.toFixed(4)}`,
    )
    if (!multiplied && w.ndim === 2) {
      await multiply(w)
      multiplied = true
    }
    w.close()
  }
  model.close()
}

if (process.argv.length !== 3) {
  console.error('usage: quickstart.mjs MODEL.cai')
  process.exit(2)
}
try {
  await main(process.argv[2])
} catch (error) {
  if (!(error instanceof CortexError)) throw error
  console.error(`${error.kind}: ${error.message}`)
  process.exit(1)
}
