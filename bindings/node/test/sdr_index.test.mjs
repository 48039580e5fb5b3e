import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'

import { SdrIndex } from 'cortex-tensor'

import { both, fails, scratch } from '../support/index.mjs'

const huge = 2n ** 64n - 1n

function filled() {
  const index = new SdrIndex(128)
  index.add(1, [5, 1, 3])
  index.add(2n, new Uint32Array([1, 2, 3, 4]))
  index.add(huge, [100, 3])
  return index
}

test('sets in and out', () => {
  const index = filled()
  assert.deepEqual([index.bits, index.size], [128, 3])
  assert.ok(index.memoryBytes >= (3 * 128) / 8)
  assert.deepEqual(index.get(1), new Uint32Array([1, 3, 5]))
  assert.deepEqual(index.get(huge), new Uint32Array([3, 100]))
  assert.equal(index.remove(2), true)
  assert.equal(index.remove(2), false)
  assert.equal(index.size, 2)
})

test('the most alike', async () => {
  const index = filled()
  for (const topK of both(index, 'topK')) {
    assert.deepEqual(await topK([1, 3, 4], 2), [{ id: 2, overlap: 3 }, { id: 1, overlap: 2 }])
    assert.deepEqual(await topK(new Uint32Array([100]), 9), [{ id: huge, overlap: 1 }])
    assert.deepEqual(await topK([1], 0), [])
    assert.deepEqual(await topK([], 3), [])
    assert.equal((await topK([1, 3, 4], Number.MAX_SAFE_INTEGER)).length, 3)
  }
  // A promise works on the index as it was.
  const under_way = index.topK([100], 1)
  index.remove(huge)
  assert.deepEqual(await under_way, [{ id: huge, overlap: 1 }])
  assert.deepEqual(index.topKSync([100], 1), [])
})

test('on the disk', async () => {
  const index = filled()
  const files = ['a', 'b'].map((name) => scratch(`ß-${name}.sdr`))
  await index.save(files[0])
  index.saveSync(files[1])
  assert.deepEqual(readFileSync(files[0]), readFileSync(files[1]))
  for (const load of both(SdrIndex, 'load')) {
    const again = await load(files[0])
    assert.deepEqual([again.bits, again.size], [128, 3])
    assert.deepEqual(again.get(huge), new Uint32Array([3, 100]))
  }
  const bytes = readFileSync(files[0])
  const bad = scratch('bad.sdr')
  for (let i = 0; i < bytes.length; i++) {
    const flipped = Buffer.from(bytes)
    flipped[i] ^= 1 << (i % 8)
    writeFileSync(bad, flipped)
    for (const load of both(SdrIndex, 'load')) {
      await assert.rejects(async () => load(bad), (e) => ['corrupt', 'unsupported'].includes(e.kind))
    }
  }
  await fails(() => SdrIndex.load(scratch('none.sdr')), 'io', 'none.sdr')
  await fails(() => index.save(scratch('no/such/folder')), 'io')
  await fails(() => index.saveSync(), 'invalid_argument', 'path is undefined')
})

test('bad input', async () => {
  const index = filled()
  await fails(() => new SdrIndex(0), 'invalid_argument', '0 bits')
  await fails(() => new SdrIndex(2 ** 21), 'invalid_argument', '2097152')
  await fails(() => new SdrIndex('8'), 'invalid_argument', 'bits is a string')
  await fails(() => index.add(1, [9]), 'invalid_argument', 'already')
  await fails(() => index.add(9, [128]), 'invalid_argument', 'active', '128')
  await fails(() => index.add(9, [2 ** 40]), 'invalid_argument', 'active')
  await fails(() => index.add(9, [1, 1]), 'invalid_argument', 'active', 'twice')
  await fails(() => index.add(9, [-1]), 'invalid_argument', 'active[0] is -1')
  await fails(() => index.add(9, new Array(129).fill(1)), 'invalid_argument', 'active has 129')
  await fails(() => index.add(9, new Float32Array(1)), 'invalid_argument', 'active is a Float32Array')
  await fails(() => index.add(9), 'invalid_argument', 'active is undefined')
  await fails(() => index.add(-1, [1]), 'invalid_argument', 'id is -1')
  await fails(() => index.add(-1n, [1]), 'invalid_argument', 'id')
  await fails(() => index.add(2n ** 64n, [1]), 'invalid_argument', 'id')
  await fails(() => index.add(2 ** 60, [1]), 'invalid_argument', 'id')
  await fails(() => index.get(77), 'invalid_argument', 'nothing is stored under id 77')
  assert.equal(index.size, 3)
  for (const topK of both(index, 'topK')) {
    await fails(() => topK([128], 1), 'invalid_argument', 'active')
    await fails(() => topK([1]), 'invalid_argument', 'k is undefined')
  }
})

test('a closed index', async () => {
  const index = filled()
  const under_way = index.topK([100], 1)
  index.close()
  index[Symbol.dispose]()
  assert.equal((await under_way).length, 1)
  const uses = [
    () => index.bits, () => index.size, () => index.memoryBytes, () => index.get(1),
    () => index.add(1, [1]), () => index.remove(1), () => index.topK([1], 1),
    () => index.topKSync([1], 1), () => index.save('x'), () => index.saveSync('x'),
  ]
  for (const use of uses) await fails(use, 'invalid_argument', 'index is closed')
})
