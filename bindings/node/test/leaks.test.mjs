// Nothing stays behind: by the counters of the kernel, which only Linux has in /proc.

import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { before, test } from 'node:test'

import { Archive, SdrIndex, Tensor, Writer } from 'cortex-tensor'

import { collect, fails, left, scratch, weights } from '../support/index.mjs'

const path = scratch('утечка.cai')
const data = { data: weights(256 * 256), shape: [256, 256] }
const x = new Float32Array(256)

const mappings = () => readFileSync('/proc/self/maps', 'utf8').split('\n').filter((l) => l.includes('утечка'))
const counts = () => ({ files: readdirSync('/proc/self/fd').length, mappings: mappings().length })
const resident = () => Number(readFileSync('/proc/self/status', 'utf8').match(/VmRSS:\s+(\d+)/)[1]) << 10

before(async () => {
  const writer = Writer.createSync(path)
  writer.addSync('w', Tensor.compressSync(data, 'int8'))
  writer.finishSync()
})

/** Runs `cycle` often; neither handles nor memory may grow. `most` bytes are noise. */
async function stays(times, most, cycle) {
  const round = async (n) => {
    for (let i = 0; i < n; i++) {
      await cycle(i)
      // Finalizers need turns of the event loop.
      if (i % 100 === 99) await collect()
    }
    await collect()
  }
  await round(Math.ceil(times / 2))
  const [before, memory] = [counts(), resident()]
  await round(times)
  assert.deepEqual(counts(), before)
  const grown = resident() - memory
  assert.ok(grown < most, `${grown} bytes more`)
}

const linux = { skip: process.platform !== 'linux' && 'there is no /proc' }

test('10,000 times open and close', linux, async () => {
  // A leaked archive would hold 70 KB of mapping, a leaked handle some hundred bytes.
  await stays(10_000, 16 << 20, (i) => {
    const archive = Archive.openSync(path, { mapped: i % 2 === 0 })
    const tensor = archive.tensor('w')
    tensor.matmulSync(x)
    archive.close()
    tensor.close()
  })
})

test('1,000 abandoned handles', linux, async () => {
  // Each tensor in memory has 66 KB.
  await stays(1_000, 16 << 20, async (i) => {
    Archive.openSync(path, { mapped: i % 2 === 0 }).tensor('w').matmulSync(x)
    Tensor.compressSync(data, 'int8').clone()
    new SdrIndex(1 << 16).add(1, [2, 3])
    if (i % 10 === 0) Writer.createSync(scratch('abandoned.cai')).addSync('w', Archive.openSync(path).tensor('w'))
  })
  assert.deepEqual(left().filter((name) => name.endsWith('.tmp')), [])
})

test('abandoned promises, results and errors', linux, async () => {
  const tensor = Archive.openSync(path).tensor('w')
  const out = new Float32Array(256)
  await stays(2_000, 24 << 20, async () => {
    await Promise.all([
      tensor.matmul(x, { out, computed: null }),
      tensor.decompress(),
      Archive.open(path),
      fails(() => tensor.matmul(x.subarray(1)), 'invalid_argument'),
      Tensor.compress(x, 'int8', { signal: AbortSignal.abort() }).catch(() => {}),
    ])
  })
})

test('V8 is told of what stands behind a tensor', linux, async () => {
  await collect()
  const before = process.memoryUsage().external
  const tensor = Tensor.compressSync({ data: weights(1 << 22), shape: [1 << 11, 1 << 11] }, 'int8')
  assert.ok(process.memoryUsage().external - before > (1 << 22) - (1 << 18))
  tensor.close()
  await collect()
  assert.ok(process.memoryUsage().external - before < 1 << 20)
})
