// What the tests share.

import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

import { CortexError } from 'cortex-tensor'

export const root = fileURLToPath(new URL('../../../', import.meta.url))

// Names outside ASCII everywhere: a path is never only bytes.
const folder = mkdtempSync(join(tmpdir(), 'cortex-größe-模型-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))

/** A path for a file of this process, which goes when the process does. */
export const scratch = (name) => join(folder, name)

/** What lies in the folder of `scratch`. */
export const left = () => readdirSync(folder)

/** Collects garbage, and lets finalizers run, which do so in turns of the event loop. */
export async function collect() {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc')
  for (let i = 0; i < 4; i++) {
    gc()
    await new Promise(setImmediate)
  }
}

/** Weights of a fixed pattern, in [-0.5, 0.5). */
export function weights(n) {
  const out = new Float32Array(n)
  for (let i = 0; i < n; i++) out[i] = (Math.imul(i, 2654435761) >>> 0) / 2 ** 32 - 0.5
  return out
}

/** That `f`, which throws or returns a promise, fails with a CortexError, which is returned. */
export async function fails(f, kind, ...contains) {
  let error
  try {
    await f()
  } catch (e) {
    error = e
  }
  assert.ok(error, `no error; ${kind} expected`)
  assert.ok(error instanceof CortexError, `${error?.stack ?? error}`)
  assert.ok(error instanceof Error)
  assert.equal(error.name, 'CortexError')
  assert.equal(error.kind, kind, error.message)
  for (const text of contains) {
    assert.ok(error.message.includes(text), `"${text}" in "${error.message}"`)
  }
  return error
}

/** Both ways of a verb: the one that blocks and the one that returns a promise. */
export const both = (object, verb) => [
  (...args) => object[`${verb}Sync`](...args),
  (...args) => object[verb](...args),
]

const ARRAYS = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i64: BigInt64Array,
  i32: Int32Array,
  i16: Int16Array,
  i8: Int8Array,
  u64: BigUint64Array,
  u32: Uint32Array,
  u16: Uint16Array,
  u8: Uint8Array,
  bool: Uint8Array,
}

/** The elements that base64 text holds, in the array of their dtype. */
export function elements(dtype, base64) {
  const bytes = new Uint8Array(Buffer.from(base64, 'base64'))
  return new ARRAYS[dtype](bytes.buffer)
}

/** The bytes of a typed array. */
export const bytes = (array) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength)

/** The cases of a file of vectors; every language runs the same. */
export function vectors(name) {
  const path = join(root, 'tests', 'vectors', `${name}.json`)
  const { cases } = JSON.parse(readFileSync(path, 'utf8'))
  assert.ok(cases.length > 0, `${name}.json holds cases`)
  return cases
}

/** The golden archives. */
export const golden = (...parts) => join(root, 'tests', 'golden', 'v1', ...parts)

/** A safetensors file of these f32 tensors: { name: [shape, Float32Array] }. */
export function safetensors(tensors) {
  const header = {}
  const data = []
  let at = 0
  for (const [name, [shape, values]] of Object.entries(tensors)) {
    header[name] = { dtype: 'F32', shape, data_offsets: [at, at + values.byteLength] }
    at += values.byteLength
    data.push(bytes(values))
  }
  const text = Buffer.from(JSON.stringify(header).padEnd(8))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, ...data])
}

export { existsSync }
