// Threads. A handle cannot be posted to another one: each opens the file, and all of them
// share its mapped memory.

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { before, test } from 'node:test'
import { MessageChannel, Worker } from 'node:worker_threads'

import { Tensor, Writer } from 'cortex-tensor'

import { safetensors, scratch, weights } from '../support/index.mjs'

const path = scratch('shared-для-всех.cai')
const script = new URL('../support/worker.mjs', import.meta.url)
const x = weights(512)
let tensor

before(async () => {
  tensor = await Tensor.compress({ data: weights(256 * 512), shape: [256, 512] }, 'int4(group=32)')
  const writer = await Writer.create(path)
  await writer.add('w', tensor)
  await writer.finish()
})

function run(workerData) {
  const worker = new Worker(script, { workerData })
  return new Promise((resolve, reject) => {
    worker.once('message', (message) => resolve({ worker, message }))
    worker.once('error', reject)
  })
}

test('eight threads share a tensor', async () => {
  const wanted = tensor.matmulSync(x)
  const threads = Array.from({ length: 8 }, () => run({ path, name: 'w', x, calls: 40 }))
  // This one works along.
  const here = Array.from({ length: 40 }, () => tensor.matmul(x))
  for (const y of await Promise.all(here)) assert.deepEqual(y, wanted)
  for (const { message } of await Promise.all(threads)) {
    assert.equal(message.results.length, 40)
    for (const y of message.results) assert.deepEqual(y, wanted)
    assert.deepEqual(message.error.kind, 'invalid_argument')
    assert.ok(message.error.ours)
    assert.match(message.error.message, /x has shape \[511\]/)
  }
})

test('threads that are ended while they work', async () => {
  const model = scratch('model.safetensors')
  writeFileSync(model, safetensors({ w: [[512, 512], weights(512 * 512)] }))
  for (let i = 0; i < 4; i++) {
    const output = scratch(`ended-${i}.cai`)
    const { worker, message } = await run({ path, name: 'w', x, endless: true, model, output })
    assert.equal(message, 'started')
    await worker.terminate()
  }
  assert.deepEqual(await tensor.matmul(x), tensor.matmulSync(x))
})

test('a handle that is posted is of no use, and does no harm', () => {
  const { port1, port2 } = new MessageChannel()
  try {
    const copy = structuredClone(tensor)
    assert.throws(() => Tensor.prototype.matmulSync.call(copy, x))
    assert.equal(copy.spec, undefined)
  } catch (error) {
    assert.equal(error.name, 'DataCloneError')
  }
  port1.close()
  port2.close()
})
