import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Tensor } from 'cortex-tensor'

import { both, bytes, collect, fails, weights } from '../support/index.mjs'

const rows = 24
const cols = 40
const w = weights(rows * cols)
const view = { data: w, shape: [rows, cols] }

/** y = x · Wᵀ in f64. */
function product(x, weights = w, [m, n] = [rows, cols]) {
  const batch = x.length / n
  const y = new Float64Array(batch * m)
  for (let b = 0; b < batch; b++)
    for (let i = 0; i < m; i++)
      for (let k = 0; k < n; k++) y[b * m + i] += x[b * n + k] * weights[i * n + k]
  return y
}

function close(found, wanted, tolerance = 1e-4) {
  assert.equal(found.length, wanted.length)
  for (let i = 0; i < wanted.length; i++) {
    assert.ok(Math.abs(found[i] - wanted[i]) <= tolerance, `[${i}] ${found[i]}, not ${wanted[i]}`)
  }
}

test('properties', async () => {
  const tensor = await Tensor.compress(view, 'int8')
  assert.equal(tensor.name, null)
  assert.equal(tensor.spec, 'int8')
  assert.equal(tensor.dtype, 'f32')
  assert.deepEqual(tensor.shape, [rows, cols])
  assert.deepEqual([tensor.ndim, tensor.rows, tensor.cols], [2, rows, cols])
  assert.equal(tensor.rawBytes, rows * cols * 4)
  assert.ok(tensor.storedBytes < tensor.rawBytes)
  assert.equal(tensor.bitsPerWeight, (tensor.storedBytes * 8) / (rows * cols))
  assert.ok(tensor.relativeError > 0 && tensor.relativeError < 0.01)
  assert.ok(tensor.maxAbsError > 0 && tensor.maxAbsError < 0.01)
  assert.ok(Math.abs(tensor.sqnrDb + 20 * Math.log10(tensor.relativeError)) < 1e-9)

  const exact = Tensor.compressSync(view, 'dense')
  assert.deepEqual([exact.relativeError, exact.maxAbsError, exact.sqnrDb], [0, 0, Infinity])
})

test('a typed array alone is a vector, and [] a scalar', async () => {
  const vector = await Tensor.compress(new Float64Array([1, 2, 3]))
  assert.deepEqual([vector.dtype, vector.shape, vector.rows, vector.cols], ['f64', [3], 3, 1])
  assert.deepEqual(await vector.decompress(), new Float64Array([1, 2, 3]))
  const scalar = Tensor.compressSync({ data: new Int32Array([7]), shape: [] })
  assert.deepEqual([scalar.shape, scalar.ndim, scalar.rows, scalar.cols], [[], 0, 1, 1])
  assert.deepEqual(scalar.decompressSync(), new Int32Array([7]))
})

test('without a spec the library chooses', async () => {
  for (const compress of both(Tensor, 'compress')) {
    for (const spec of [undefined, null]) {
      assert.equal((await compress(new Float32Array(8), spec)).relativeError, 0)
      const large = { data: weights(8192), shape: [64, 128] }
      const { relativeError } = await compress(large, spec)
      assert.ok(relativeError > 0 && relativeError <= 0.01)
    }
  }
})

test('every dtype comes back in its array', async () => {
  const cases = [
    ['f64', new Float64Array([1.5, -2, 1e300])],
    ['f32', new Float32Array([1.5, -2, 3])],
    ['f16', new Uint16Array([0x3c00, 0x4000, 0x7bff])],
    ['bf16', new Uint16Array([0x3f80, 0x4000, 0x7f00])],
    ['i64', new BigInt64Array([1n, -(2n ** 62n), 3n])],
    ['i32', new Int32Array([1, -2, 3])],
    ['i16', new Int16Array([1, -2, 3])],
    ['i8', new Int8Array([1, -2, 3])],
    ['u64', new BigUint64Array([1n, 2n ** 63n, 3n])],
    ['u32', new Uint32Array([1, 2 ** 31, 3])],
    ['u16', new Uint16Array([1, 2, 3])],
    ['u8', new Uint8Array([1, 2, 3])],
    ['bool', new Uint8Array([1, 0, 1])],
  ]
  for (const [dtype, data] of cases) {
    for (const compress of both(Tensor, 'compress')) {
      const tensor = await compress({ data, dtype }, 'dense')
      assert.equal(tensor.dtype, dtype)
      for (const decompress of both(tensor, 'decompress')) {
        assert.deepEqual(await decompress(), data)
        const out = new data.constructor(3)
        assert.equal(await decompress({ out }), out)
        assert.deepEqual(out, data)
        const raw = new Uint8Array(data.byteLength)
        await decompress({ out: raw })
        assert.deepEqual(raw, bytes(data))
      }
      // The bytes of any dtype, as they lie in a file, unaligned.
      const file = new Uint8Array(data.byteLength + 1)
      file.set(bytes(data), 1)
      const again = await compress({ data: file.subarray(1), dtype, shape: [3] }, 'dense')
      assert.deepEqual(again.decompressSync(), data)
    }
  }
  const clamped = Tensor.compressSync(new Uint8ClampedArray([1, 2]), 'dense')
  assert.deepEqual(clamped.decompressSync(), new Uint8Array([1, 2]))
})

test('views with strides and an offset', async () => {
  const data = new Float32Array([0, 1, 2, 3, 4, 5])
  const cases = [
    [{ data, shape: [3, 2], strides: [1, 3] }, [0, 3, 1, 4, 2, 5]],
    [{ data, shape: [2, 3], strides: [-3, -1], offset: 5 }, [5, 4, 3, 2, 1, 0]],
    [{ data, shape: [2, 2], strides: [0, 2], offset: 1 }, [1, 3, 1, 3]],
    [{ data, shape: [2], offset: 4 }, [4, 5]],
    [{ data: data.subarray(2), shape: [2, 2] }, [2, 3, 4, 5]],
    [{ data, shape: [0, 3], strides: [7, 7] }, []],
  ]
  for (const [view, wanted] of cases) {
    for (const compress of both(Tensor, 'compress')) {
      const tensor = await compress(view, 'dense')
      assert.deepEqual([...tensor.decompressSync()], wanted)
    }
  }
})

test('windows of rows', async () => {
  const tensor = await Tensor.compress({ data: new Float64Array(w), shape: [rows, cols] }, 'dense')
  const wanted = w.slice(3 * cols, 8 * cols)
  for (const decode of both(tensor, 'decodeRows')) {
    assert.deepEqual(await decode(3, 5), new Float64Array(wanted))
    const out = new Float64Array(5 * cols)
    assert.equal(await decode(3, 5, { out }), out)
    assert.deepEqual(out, new Float64Array(wanted))
    assert.equal((await decode(rows, 0)).length, 0)
    await fails(() => decode(20, 5), 'invalid_argument', 'start 20 and count 5', `${rows} rows`)
    await fails(() => decode(2 ** 52, 2 ** 52), 'invalid_argument', 'past')
    await fails(() => decode(3), 'invalid_argument', 'count is undefined')
  }
  for (const decode of both(tensor, 'decodeRowsF32')) {
    assert.deepEqual(await decode(3, 5), wanted)
    const out = new Float32Array(5 * cols)
    assert.equal(await decode(3, 5, { out }), out)
    assert.deepEqual(out, wanted)
  }
})

test('products', async () => {
  const tensor = await Tensor.compress(view, 'dense')
  const x = weights(3 * cols)
  const g = weights(3 * rows)
  const transposed = new Float32Array(rows * cols)
  for (let i = 0; i < rows; i++)
    for (let k = 0; k < cols; k++) transposed[k * rows + i] = w[i * cols + k]
  const wanted = product(x)
  for (const matmul of both(tensor, 'matmul')) {
    const y = await matmul({ data: x, shape: [3, cols] })
    assert.ok(y instanceof Float32Array)
    close(y, wanted)
    close(await matmul(x.subarray(0, cols)), wanted.subarray(0, rows))
    // A batch of several dimensions.
    close(await matmul({ data: x, shape: [1, 3, 1, cols] }), wanted)
    const out = new Float32Array(3 * rows + 2).subarray(1, 3 * rows + 1)
    assert.equal(await matmul({ data: x, shape: [3, cols] }, { out, threads: 1 }), out)
    close(out, wanted)
    // The order of columns first.
    const column = new Float64Array(3 * cols)
    for (let b = 0; b < 3; b++) for (let k = 0; k < cols; k++) column[k * 3 + b] = x[b * cols + k]
    close(await matmul({ data: column, shape: [3, cols], strides: [1, 3] }), wanted)
    assert.equal((await matmul({ data: new Float32Array(0), shape: [0, cols] })).length, 0)
  }
  for (const matmulT of both(tensor, 'matmulT')) {
    close(await matmulT({ data: g, shape: [3, rows] }), product(g, transposed, [cols, rows]))
  }
})

test('x of every float dtype', async () => {
  const tensor = await Tensor.compress(view, 'dense')
  // Small whole numbers, which all of them hold.
  const x = Float32Array.from({ length: cols }, (_, k) => (k % 5) - 2)
  const float = new Uint32Array(x.buffer)
  const bf16 = Uint16Array.from(float, (bits) => bits >>> 16)
  const halves = new Map([[-2, 0xc000], [-1, 0xbc00], [0, 0], [1, 0x3c00], [2, 0x4000]])
  const f16 = Uint16Array.from(x, (v) => halves.get(v))
  const wanted = product(x)
  for (const matmul of both(tensor, 'matmul')) {
    close(await matmul(new Float64Array(x)), wanted)
    close(await matmul({ data: bf16, dtype: 'bf16' }), wanted)
    close(await matmul({ data: f16, dtype: 'f16' }), wanted)
    close(await matmul({ data: bytes(x), dtype: 'f32' }), wanted)
    const error = await fails(() => matmul(new Int32Array(cols)), 'invalid_argument', 'x.dtype', 'i32')
    assert.equal(error.tensor, null)
  }
})

test('precision, and how a product was computed', async () => {
  const tensor = await Tensor.compress({ data: weights(64 * 256), shape: [64, 256] }, 'int4')
  const x = weights(256)
  for (const matmul of both(tensor, 'matmul')) {
    for (const precision of ['exact', 'fast']) {
      const options = { precision, computed: null }
      await matmul(x, options)
      assert.equal(options.computed, precision)
    }
    const untold = { precision: 'fast' }
    await matmul(x, untold)
    assert.deepEqual(Object.keys(untold), ['precision'])
    await fails(() => matmul(x, { precision: 'slow' }), 'invalid_argument', 'options.precision', 'slow')
    const exact = await matmul(x, { precision: 'exact', scratchBytes: 1, threads: 1 })
    assert.deepEqual(exact, await matmul(x, { precision: 'exact', scratchBytes: 0, threads: 0 }))
  }
})

test('convolutions', async () => {
  // A box filter of 3 × 3 over one channel, and its gradient.
  const kernel = { data: new Float32Array(9).fill(1), shape: [1, 1, 3, 3] }
  const tensor = await Tensor.compress(kernel, 'dense')
  const x = { data: Float32Array.from({ length: 16 }, (_, i) => i), shape: [1, 1, 4, 4] }
  assert.deepEqual(tensor.convOutputShape([1, 1, 4, 4]), [1, 1, 2, 2])
  const same = { padding: [1, 1, 1, 1] }
  assert.deepEqual(tensor.convOutputShape([2, 1, 4, 5], same), [2, 1, 4, 5])
  for (const conv of both(tensor, 'conv')) {
    close(await conv(x), [45, 54, 81, 90])
    const out = new Float32Array(4)
    const options = { stride: [2, 2], padding: [0, 1, 0, 1], dilation: [1, 1], groups: 1, out, computed: 0 }
    assert.equal(await conv(x, options), out)
    close(out, [45, 39, 66, 50])
    assert.equal(options.computed, 'exact')
    await fails(() => conv(x, { stride: [0, 1] }), 'invalid_argument', 'stride')
    await fails(() => conv(x, { padding: [1, 1] }), 'invalid_argument', 'options.padding has 2 items')
    await fails(() => conv(x, { dilation: 2 }), 'invalid_argument', 'options.dilation is a number')
    await fails(() => conv(x.data), 'invalid_argument', 'x')
  }
  const g = { data: new Float32Array([1, 0, 0, 1]), shape: [1, 1, 2, 2] }
  for (const convT of both(tensor, 'convT')) {
    const wanted = [1, 1, 1, 0, 1, 2, 2, 1, 1, 2, 2, 1, 0, 1, 1, 1]
    close(await convT(g, [1, 1, 4, 4]), wanted)
    await fails(() => convT(g, [1, 1, 5, 4]), 'invalid_argument', 'g has shape')
    await fails(() => convT(g), 'invalid_argument', 'xShape is undefined')
  }
  await fails(() => tensor.convOutputShape([1, 1, 2, 4]), 'invalid_argument', 'kernel')
})

test('bad views', async () => {
  const data = new Float32Array(6)
  const cases = [
    [undefined, 'view is undefined', 'typed array'],
    ['text', 'view is a string'],
    [new ArrayBuffer(4), 'view.data is missing'],
    [[1, 2, 3], 'view.data is missing'],
    [{ shape: [1] }, 'view.data is missing'],
    [{ data: [1, 2] }, 'view is an object'],
    [{ data: new DataView(new ArrayBuffer(4)) }, 'view is an object'],
    [{ data, dtype: 'float' }, 'view.dtype', "unknown dtype 'float'"],
    [{ data, dtype: 32 }, 'view.dtype is a number'],
    [{ data, dtype: 'f64' }, 'view.dtype is f64', 'Float32Array'],
    [{ data: new Float64Array(3), dtype: 'bf16' }, 'view.dtype is bf16', 'Float64Array'],
    [{ data, shape: [2, 2] }, 'view', '16 bytes', '24 given'],
    [{ data, shape: [4, 2] }, 'view', '32 bytes', '24 given'],
    [{ data, shape: 6 }, 'view.shape is a number'],
    [{ data, shape: [-6] }, 'view.shape[0] is -6'],
    [{ data, shape: [1.5, 4] }, 'view.shape[0] is 1.5'],
    [{ data, shape: [2n, 3] }, 'view.shape[0] is a bigint'],
    [{ data, shape: [NaN] }, 'view.shape[0] is NaN'],
    [{ data, shape: new Array(2 ** 32 - 1) }, 'view.shape has 4294967295 items'],
    [{ data, shape: [2, 3], strides: [3] }, 'view', '1 strides'],
    [{ data, shape: [2, 3], strides: [4, 1] }, 'view', 'outside'],
    [{ data, shape: [2, 3], strides: [-3, 1] }, 'view', 'outside'],
    [{ data, shape: [1], offset: 7 }, 'view.offset is 7', '6 elements'],
    [{ data, offset: -1 }, 'view.offset is -1'],
    [{ data: new Uint8Array(7), dtype: 'f32' }, 'view'],
  ]
  for (const compress of both(Tensor, 'compress')) {
    for (const [view, ...contains] of cases) {
      await fails(() => compress(view, 'dense'), 'invalid_argument', ...contains)
    }
    const huge = { data, shape: [2 ** 40, 2 ** 40] }
    await fails(() => compress(huge, 'dense'), 'limit_exceeded', 'view')
    await fails(() => compress(data, 8), 'invalid_argument', 'spec is a number')
    await fails(() => compress(data, 'int9'), 'invalid_argument', 'int9', 'column 1')
    data[4] = NaN
    await fails(() => compress({ data, shape: [2, 3] }, 'int8'), 'invalid_argument', 'index 4')
    data[4] = 0
  }
})

test('bad inputs and outputs of products', async () => {
  const tensor = await Tensor.compress(view, 'int8')
  const x = new Float32Array(cols)
  const detached = new Float32Array(cols)
  structuredClone(detached.buffer, { transfer: [detached.buffer] })
  assert.equal(detached.length, 0)
  for (const matmul of both(tensor, 'matmul')) {
    await fails(() => matmul(), 'invalid_argument', 'x is undefined')
    await fails(() => matmul(x.subarray(1)), 'invalid_argument', `x has shape [${cols - 1}]`, `must be ${cols}`)
    await fails(() => matmul({ data: x, shape: [cols, 1] }), 'invalid_argument', 'last dimension')
    await fails(() => matmul({ data: x, shape: [] }), 'invalid_argument', 'x')
    await fails(() => matmul(detached), 'invalid_argument', 'x is detached')
    await fails(() => matmul({ data: detached, shape: [1, cols] }), 'invalid_argument', 'x is detached')
    const out = (out) => () => matmul(x, { out })
    await fails(out(detached), 'invalid_argument', 'out is detached')
    await fails(out(new Float32Array(rows + 1)), 'invalid_argument', `out has ${rows + 1} elements`, `${rows} are needed`)
    await fails(out(new Float64Array(rows)), 'invalid_argument', 'out is a Float64Array', 'f32')
    await fails(out([]), 'invalid_argument', 'out is an object')
    await fails(() => matmul(x, 1), 'invalid_argument', 'options is a number')
    await fails(() => matmul(x, { threads: -1 }), 'invalid_argument', 'options.threads is -1')
    await fails(() => matmul(x, { scratchBytes: '1' }), 'invalid_argument', 'options.scratchBytes is a string')
  }
  const memory = new Float32Array(cols + rows)
  const lent = memory.subarray(0, cols)
  const overlapping = { out: memory.subarray(cols - 1, cols - 1 + rows) }
  await fails(() => tensor.matmulSync(lent, overlapping), 'invalid_argument', 'out overlaps x')
  tensor.matmulSync(lent, { out: memory.subarray(cols) })
})

test('what getters throw is thrown on', async () => {
  const tensor = await Tensor.compress(view, 'int8')
  const thrown = new RangeError('mine')
  const trap = (key) => Object.defineProperty({}, key, { get() { throw thrown } })
  const x = new Float32Array(cols)
  for (const matmul of both(tensor, 'matmul')) {
    await assert.rejects(async () => matmul(x, trap('threads')), (e) => e === thrown)
    await assert.rejects(async () => matmul(trap('data')), (e) => e === thrown)
    await assert.rejects(async () => matmul({ data: x, shape: trap(0) }), (e) => e.kind === 'invalid_argument')
  }
})

test('getters that close the tensor or detach what was given before', async () => {
  const x = new Float32Array(cols)
  const closing = await Tensor.compress(view, 'int8')
  const close = { get threads() { closing.close(); return 1 } }
  await fails(() => closing.matmulSync(x, close), 'invalid_argument', 'tensor is closed')

  const tensor = await Tensor.compress(view, 'int8')
  const detach = (array) => structuredClone(array.buffer, { transfer: [array.buffer] })
  await fails(() => tensor.matmulSync(x, { get threads() { detach(x); return 1 } }), 'invalid_argument', 'x is detached')
  const data = new Float32Array(cols)
  const source = { data, get shape() { detach(data); return [1, cols] } }
  await fails(() => tensor.matmulSync(source), 'invalid_argument', 'x is detached')
  const out = new Float32Array(rows)
  const late = { data: new Float32Array(cols), get offset() { detach(out); return 0 } }
  await fails(() => tensor.matmulSync(late, { out }), 'invalid_argument', 'out is detached')
})

test('a promise works on a copy, and writes to what is still there', async () => {
  const tensor = await Tensor.compress(view, 'dense')
  const x = weights(cols)
  const wanted = product(x)
  const changed = x.slice()
  const first = tensor.matmul(changed)
  changed.fill(NaN)
  const moved = x.slice()
  const second = tensor.matmul(moved)
  structuredClone(moved.buffer, { transfer: [moved.buffer] })
  close(await first, wanted)
  close(await second, wanted)

  const out = new Float32Array(rows)
  const third = tensor.matmul(x, { out })
  structuredClone(out.buffer, { transfer: [out.buffer] })
  await fails(() => third, 'invalid_argument', 'out is detached')

  const resizable = new ArrayBuffer(rows * 4, { maxByteLength: rows * 8 })
  const tracking = new Float32Array(resizable)
  const fourth = tensor.matmul(x, { out: tracking })
  resizable.resize(4)
  await fails(() => fourth, 'invalid_argument', 'out has 1 elements')
})

test('shared memory', async () => {
  const tensor = await Tensor.compress(view, 'dense')
  const shared = (n) => new Float32Array(new SharedArrayBuffer(n * 4))
  const x = shared(cols)
  x.set(weights(cols))
  for (const matmul of both(tensor, 'matmul')) {
    const out = shared(rows)
    assert.equal(await matmul(x, { out }), out)
    close(out, product(x))
  }
  const data = shared(rows * cols)
  data.set(w)
  const again = Tensor.compressSync({ data, shape: [rows, cols] }, 'dense')
  assert.deepEqual(again.decompressSync(), w)
})

test('results larger than what V8 is asked for', async () => {
  const data = weights(1 << 19)
  const tensor = await Tensor.compress({ data, shape: [512, 1024] }, 'dense')
  for (const decompress of both(tensor, 'decompress')) assert.deepEqual(await decompress(), data)
  const x = weights(1024 * 1024)
  for (const matmul of both(tensor, 'matmul')) {
    const y = await matmul({ data: x, shape: [1024, 1024] })
    assert.equal(y.length, 1024 * 512)
    close(y.subarray(0, 512), product(x.subarray(0, 1024), data, [512, 1024]), 1e-3)
    // Such memory belongs to the array: it can be moved away and used again.
    const moved = structuredClone(y, { transfer: [y.buffer] })
    assert.equal(moved.length, 1024 * 512)
  }
  await collect()
})

test('many calls at once on one tensor', async () => {
  const tensor = await Tensor.compress(view, 'dense')
  const calls = Array.from({ length: 200 }, (_, i) => {
    const x = weights((i % 4 + 1) * cols).map((v) => v * i)
    return tensor
      .matmul({ data: x, shape: [i % 4 + 1, cols] })
      .then((y) => close(y, product(x), 1e-2))
  })
  await Promise.all(calls)
})

test('a closed tensor', async () => {
  const tensor = await Tensor.compress(view, 'int8')
  const under_way = tensor.matmul(new Float32Array(cols))
  const second = tensor.clone()
  tensor.close()
  tensor.close()
  assert.equal((await under_way).length, rows)
  assert.equal(second.spec, 'int8')
  second[Symbol.dispose]()
  const x = new Float32Array(cols)
  const calls = {
    matmul: [x], matmulT: [x], conv: [x], convT: [x, [1]], decompress: [], decodeRows: [0, 1],
    decodeRowsF32: [0, 1], verify: [],
  }
  for (const [verb, args] of Object.entries(calls)) {
    for (const call of both(tensor, verb)) {
      await fails(() => call(...args), 'invalid_argument', 'tensor is closed')
    }
  }
  await fails(() => tensor.clone(), 'invalid_argument', 'closed')
  await fails(() => tensor.convOutputShape([1]), 'invalid_argument', 'closed')
  const getters = Object.entries(Object.getOwnPropertyDescriptors(Tensor.prototype))
  const names = getters.filter(([, d]) => d.get).map(([name]) => name)
  assert.equal(names.length, 13)
  for (const name of names) await fails(() => tensor[name], 'invalid_argument', 'tensor is closed')
})

test('verify', async () => {
  const tensor = await Tensor.compress(view, 'int8')
  for (const verify of both(tensor, 'verify')) assert.equal(await verify(), undefined)
})

test('compressing stops when it is told to', async () => {
  const large = { data: weights(1 << 21), shape: [1 << 10, 1 << 11] }
  const error = await fails(
    () => Tensor.compress(large, 'int8', { signal: AbortSignal.abort('enough') }),
    'cancelled',
  )
  assert.equal(error.cause, 'enough')

  const controller = new AbortController()
  const under_way = Tensor.compress(large, 'int4(search=lsq)', { signal: controller.signal })
  setTimeout(() => controller.abort())
  const stopped = await fails(() => under_way, 'cancelled')
  assert.equal(stopped.cause, controller.signal.reason)

  const signal = new AbortController().signal
  assert.equal((await Tensor.compress(view, 'int8', { signal })).spec, 'int8')
  await fails(() => Tensor.compress(view, 'int8', 'fast'), 'invalid_argument', 'options is a string')
  await fails(() => Tensor.compress(view, 'int8', { signal: {} }), 'invalid_argument', 'options.signal')
})

test('tensors are made by the library only', () => {
  assert.throws(() => new Tensor())
  assert.throws(() => Tensor.prototype.matmulSync.call({}, new Float32Array(cols)))
  assert.throws(() => Object.create(Tensor.prototype).spec)
})
