import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { before, test } from 'node:test'
import { pathToFileURL } from 'node:url'

import {
  Archive,
  compressFile,
  compressFileSync,
  decompressFile,
  decompressFileSync,
} from 'cortex-tensor'

import { existsSync, fails, safetensors, scratch, weights } from '../support/index.mjs'

const input = scratch('модель.safetensors')
const tensors = Object.fromEntries(
  // All different: equal ones are stored once, under several names.
  Array.from({ length: 12 }, (_, i) => [`layer.${i}`, [[128, 256], weights(128 * 256 + i).subarray(i)]]),
)

before(() => writeFileSync(input, safetensors({ bias: [[4], weights(4)], ...tensors })))

test('there and back', async () => {
  const reports = []
  for (const [name, compress, decompress] of [
    ['later', compressFile, decompressFile],
    ['now', compressFileSync, decompressFileSync],
  ]) {
    const output = scratch(`${name}.cai`)
    const report = await compress(input, pathToFileURL(output), { spec: 'dense', threads: 1 })
    assert.equal(report.tensors.length, 13)
    assert.equal(report.output_bytes, readFileSync(output).length)
    reports.push(readFileSync(output))
    const back = scratch(`${name}.safetensors`)
    const size = await decompress(output, back, { threads: 2 })
    assert.equal(size, readFileSync(back).length)
    const again = await compress(back, scratch('again.cai'), { spec: 'dense' })
    assert.deepEqual(again.tensors.map((t) => t.spec), report.tensors.map((t) => t.spec))
  }
  assert.deepEqual(reports[0], reports[1])
})

test('options', async () => {
  const output = scratch('options.cai')
  const rules = [
    { pattern: '^layer\\.1$', spec: 'int4' },
    { pattern: 'layer\\.1', spec: 'dense' },
  ]
  const report = await compressFile(input, output, {
    spec: 'int8', rules, exclude: '\\.2$', explain: true,
  })
  const spec = new Map(report.tensors.map((t) => [t.name, t.spec]))
  assert.equal(spec.get('layer.0'), 'int8')
  assert.equal(spec.get('layer.1'), 'int4')
  assert.equal(spec.get('layer.10'), 'dense')
  const excluded = report.tensors.find((t) => t.name === 'layer.2')
  assert.equal(excluded.relative_error, 0)
  assert.ok(excluded.candidates.length > 1)
  const archive = await Archive.open(output)
  assert.deepEqual(archive.inspect().tensors.map((t) => t.spec), report.tensors.map((t) => t.spec))

  const defaults = compressFileSync(input, output)
  for (const t of defaults.tensors) assert.ok(t.relative_error <= 0.01)
})

test('bad options', async () => {
  const output = scratch('never.cai')
  const cases = [
    [{ spec: 'int9' }, 'options.spec', 'column 1'],
    [{ spec: 8 }, 'options.spec is a number'],
    [{ exclude: '(' }, 'options.exclude'],
    [{ rules: [{ pattern: 'x', spec: 'int8' }, { pattern: '(', spec: 'int8' }] }, 'options.rules[1].pattern'],
    [{ rules: [{ pattern: 'x', spec: 'int9' }] }, 'options.rules[0].spec'],
    [{ rules: [{ pattern: 'x' }] }, 'options.rules[0].spec is missing'],
    [{ rules: { pattern: 'x', spec: 'int8' } }, 'options.rules is an object'],
    [{ threads: 0.5 }, 'options.threads is 0.5'],
    [{ explain: 'yes' }, 'options.explain is a string'],
    [{ calibration: 1 }, 'options.calibration is a number'],
    ['int8', 'options is a string'],
  ]
  for (const [options, ...contains] of cases) {
    await fails(() => compressFile(input, output, options), 'invalid_argument', ...contains)
    await fails(() => compressFileSync(input, output, options), 'invalid_argument', ...contains)
  }
  await fails(() => compressFile(input, input), 'invalid_argument', 'both input and output')
  await fails(() => compressFile(scratch('nothing'), output), 'io', 'nothing')
  await fails(() => compressFile(input), 'invalid_argument', 'output is undefined')
  await fails(() => decompressFile(input, output), 'corrupt')
  await fails(() => decompressFile(input, output, { threads: null, onProgress: 1 }), 'invalid_argument', 'onProgress')
  assert.ok(!existsSync(output))
})

test('a value that no lossy form can hold', async () => {
  const data = weights(128 * 64)
  data[1234] = Infinity
  const bad = scratch('bad.safetensors')
  writeFileSync(bad, safetensors({ 'the culprit': [[128, 64], data] }))
  const output = scratch('bad.cai')
  for (const compress of [compressFile, compressFileSync]) {
    const error = await fails(
      () => compress(bad, output, { spec: 'int8' }), 'invalid_argument', 'index 1234', 'the culprit',
    )
    assert.equal(error.tensor, 'the culprit')
    assert.ok(!existsSync(output))
  }
})

test('progress arrives in order, and all of it before the promise is settled', async () => {
  const archive = scratch('progress.cai')
  for (const [call, ends] of [
    [(onProgress) => compressFile(input, archive, { spec: 'int8', onProgress }), 13],
    [(onProgress) => decompressFile(archive, scratch('progress.safetensors'), { onProgress }), 13],
  ]) {
    const told = []
    let settled = false
    await call((progress) => {
      assert.ok(!settled)
      told.push(progress)
    }).then(() => { settled = true })
    await new Promise((done) => setTimeout(done, 20))
    assert.ok(told.length >= ends)
    for (let i = 1; i < told.length; i++) {
      assert.ok(told[i].doneBytes >= told[i - 1].doneBytes)
      assert.ok(told[i].doneTensors >= told[i - 1].doneTensors)
    }
    const last = told.at(-1)
    assert.deepEqual([last.doneTensors, last.totalTensors], [ends, ends])
    assert.equal(last.doneBytes, last.totalBytes)
    assert.equal(last.totalBytes, 16 + 12 * 128 * 256 * 4)
    assert.ok(last.tensor in tensors || last.tensor === 'bias')
  }
})

test('stopped in the middle, it leaves nothing behind', async () => {
  const folder = scratch('stopped')
  mkdirSync(folder)
  // Enough work, and slow enough, that the event loop has its turn long before the end.
  const large = scratch('large.safetensors')
  const layer = (i) => [`layer.${i}`, [[256, 1024], weights(256 * 1024 + i).subarray(i)]]
  writeFileSync(large, safetensors(Object.fromEntries(Array.from({ length: 24 }, (_, i) => layer(i)))))
  const archive = scratch('large.cai')
  await compressFile(large, archive, { spec: 'ecq(bits=3)' })
  const calls = [
    (options) => compressFile(large, `${folder}/x.cai`, { ...options, spec: 'ecq(bits=3)' }),
    (options) => decompressFile(archive, `${folder}/x.safetensors`, options),
  ]
  for (const call of calls) {
    // As soon as something is done.
    const controller = new AbortController()
    const { signal } = controller
    const error = await fails(
      () => call({ signal, onProgress: () => controller.abort(new Error('enough')) }), 'cancelled',
    )
    assert.equal(error.cause.message, 'enough')
    assert.deepEqual(readdirSync(folder), [])

    // Before it begins.
    const early = await fails(() => call({ signal: AbortSignal.abort() }), 'cancelled')
    assert.equal(early.cause.name, 'AbortError')
    assert.deepEqual(readdirSync(folder), [])

    // By what the callback throws.
    const mine = new RangeError('mine')
    const thrower = call({ onProgress() { throw mine } })
    await assert.rejects(thrower, (e) => e === mine)
    assert.deepEqual(readdirSync(folder), [])
  }
})

test('a signal is left as it was', async () => {
  const { signal } = new AbortController()
  let added = 0
  const add = signal.addEventListener
  const remove = signal.removeEventListener
  signal.addEventListener = function (...args) { added++; return add.apply(this, args) }
  signal.removeEventListener = function (...args) { added--; return remove.apply(this, args) }
  await compressFile(input, scratch('signal.cai'), { spec: 'dense', signal })
  await fails(() => compressFile(input, input, { signal }), 'invalid_argument')
  assert.equal(added, 0)
  assert.equal(signal.onabort, null)
})
