// The cases that every language runs.

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { test } from 'node:test'

import { Archive, SdrIndex, Tensor, specParse } from 'cortex-tensor'

import { both, bytes, elements, fails, golden, scratch, vectors } from '../support/index.mjs'

const dense = ({ dtype, shape, data }) => ({ dtype, shape, data: elements(dtype, data) })

function same(array, base64, what) {
  assert.ok(Buffer.from(bytes(array)).equals(Buffer.from(base64, 'base64')), what)
}

function near(found, wanted, what) {
  const value = wanted ?? Infinity
  const close = value === found || Math.abs(found - value) <= 1e-12 * Math.abs(value)
  assert.ok(close, `${what}: ${found}, not ${value}`)
}

function within(found, base64, tolerance, what) {
  const wanted = elements('f32', base64)
  assert.equal(found.length, wanted.length, what)
  for (let i = 0; i < wanted.length; i++) {
    const difference = Math.abs(found[i] - wanted[i])
    assert.ok(difference <= tolerance, `${what}: [${i}] ${found[i]}, not ${wanted[i]}`)
  }
}

test('spec.json', async () => {
  for (const { spec, canonical, error } of vectors('spec')) {
    if (error) {
      await fails(() => specParse(spec), error.kind, ...error.contains)
    } else {
      assert.equal(specParse(spec), canonical)
      assert.equal(specParse(canonical), canonical)
    }
  }
})

test('tensor.json', async () => {
  for (const c of vectors('tensor')) {
    for (const compress of both(Tensor, 'compress')) {
      const tensor = await compress(dense(c), c.spec)
      assert.equal(tensor.spec, c.canonical, c.name)
      assert.equal(tensor.dtype, c.dtype, c.name)
      assert.deepEqual(tensor.shape, c.shape, c.name)
      assert.equal(tensor.storedBytes, c.stored_bytes, c.name)
      near(tensor.bitsPerWeight, c.bits_per_weight, c.name)
      near(tensor.relativeError, c.relative_error, c.name)
      near(tensor.maxAbsError, c.max_abs_error, c.name)
      near(tensor.sqnrDb, c.sqnr_db, c.name)
      const { start, count, decoded, decoded_f32 } = c.rows
      for (const decode of both(tensor, 'decompress')) same(await decode(), c.decoded, c.name)
      for (const decode of both(tensor, 'decodeRows')) {
        same(await decode(start, count), decoded, c.name)
      }
      for (const decode of both(tensor, 'decodeRowsF32')) {
        same(await decode(start, count), decoded_f32, c.name)
      }
      tensor.close()
    }
  }
})

test('matmul.json', async () => {
  const verbs = { matmul: 'matmul', matmul_t: 'matmulT' }
  for (const c of vectors('matmul')) {
    const tensor = await Tensor.compress(dense(c), c.spec)
    const x = dense({ dtype: c.x_dtype, shape: c.x_shape, data: c.x })
    for (const multiply of both(tensor, verbs[c.op])) {
      const options = { precision: c.precision, computed: null }
      within(await multiply(x, options), c.y, c.tolerance, c.name)
      if (c.computed) assert.equal(options.computed, c.computed, c.name)
      else assert.ok(['exact', 'fast'].includes(options.computed), c.name)
    }
    tensor.close()
  }
})

test('conv.json', async () => {
  for (const c of vectors('conv')) {
    const tensor = await Tensor.compress(dense(c), c.spec)
    const { stride, padding, dilation, groups } = c
    const options = { stride, padding, dilation, groups }
    const x = { shape: c.x_shape, data: elements('f32', c.x) }
    if (c.op === 'conv') {
      assert.deepEqual(tensor.convOutputShape(c.x_shape, options), c.y_shape, c.name)
      for (const conv of both(tensor, 'conv')) {
        within(await conv(x, options), c.y, c.tolerance, c.name)
      }
    } else {
      assert.equal(c.op, 'conv_t')
      for (const convT of both(tensor, 'convT')) {
        within(await convT(x, c.y_shape, options), c.y, c.tolerance, c.name)
      }
    }
    tensor.close()
  }
})

test('sdr.json', async () => {
  for (const c of vectors('sdr')) {
    const index = new SdrIndex(c.bits)
    const run = async (queries) => {
      for (const { active, k, matches } of queries) {
        for (const topK of both(index, 'topK')) assert.deepEqual(await topK(active, k), matches)
      }
    }
    for (const { id, active } of c.items) {
      index.add(id, active)
      assert.deepEqual([...index.get(id)], [...active].sort((a, b) => a - b))
    }
    await run(c.queries)
    for (const id of c.removed) assert.equal(index.remove(id), true)
    await run(c.after)
  }
})

test('errors.json', async () => {
  for (const c of vectors('errors')) {
    const refused = (f) => fails(f, c.error.kind, ...c.error.contains)
    const zeros = (shape) => new Float32Array(shape.reduce((a, b) => a * b, 1))
    switch (c.call) {
      case 'compress':
        for (const compress of both(Tensor, 'compress')) {
          await refused(() => compress(dense(c), c.spec))
        }
        break
      case 'matmul': {
        const tensor = await Tensor.compress(dense(c), c.spec)
        const x = { shape: c.x_shape, data: zeros(c.x_shape) }
        for (const matmul of both(tensor, 'matmul')) await refused(() => matmul(x))
        break
      }
      case 'decode_rows': {
        const tensor = await Tensor.compress(dense(c), c.spec)
        for (const decode of both(tensor, 'decodeRows')) {
          await refused(() => decode(c.start, c.count))
        }
        break
      }
      case 'open': {
        const path = scratch('case.cai')
        writeFileSync(path, Buffer.from(c.file, 'base64'))
        for (const open of both(Archive, 'open')) {
          for (const mapped of [true, false]) await refused(() => open(path, { mapped }))
        }
        break
      }
      case 'tensor': {
        const archive = await Archive.open(golden(c.file))
        await refused(() => archive.tensor(c.tensor))
        break
      }
      case 'sdr_add':
        await refused(() => new SdrIndex(c.bits).add(1, c.active))
        break
      default:
        assert.fail(`${c.name}: unknown call ${c.call}`)
    }
  }
})
