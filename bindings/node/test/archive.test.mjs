import assert from 'node:assert/strict'
import { copyFileSync, writeFileSync } from 'node:fs'
import { before, test } from 'node:test'
import { pathToFileURL } from 'node:url'

import { Archive, Tensor, Writer } from 'cortex-tensor'

import { both, fails, scratch, weights } from '../support/index.mjs'

const path = scratch('模型-é.cai')
const data = weights(48 * 64)

before(async () => {
  const writer = await Writer.create(path)
  await writer.add('first', await Tensor.compress({ data, shape: [48, 64] }, 'int8'))
  await writer.add('第二', await Tensor.compress(new Int32Array([1, 2, 3]), 'lossless'))
  writer.alias('tied', 'first')
  writer.alias('__proto__', '第二')
  writer.setMetadata('author', 'Ä')
  writer.setMetadata('__proto__', 'text')
  await writer.finish()
})

test('open', async () => {
  for (const open of both(Archive, 'open')) {
    for (const where of [path, pathToFileURL(path)]) {
      for (const options of [undefined, null, {}, { mapped: true }, { mapped: false }]) {
        const archive = await open(where, options)
        assert.equal(archive.size, 2)
        assert.deepEqual(archive.names(), ['first', '第二'])
        archive.close()
      }
    }
  }
})

test('what it holds', async () => {
  const archive = await Archive.open(path)
  assert.deepEqual(archive.aliases, new Map([['tied', 'first'], ['__proto__', '第二']]))
  assert.deepEqual(archive.metadata, new Map([['author', 'Ä'], ['__proto__', 'text']]))
  assert.ok(archive.fileBytes > 48 * 64)
  assert.deepEqual(['first', '第二', 'tied', 'x'].map((n) => archive.find(n)), [0, 1, 0, -1])

  const report = archive.inspect()
  assert.equal(report.output_bytes, archive.fileBytes)
  assert.deepEqual(report.tensors.map((t) => t.name), ['first', '第二'])
  const tensor = archive.tensor('first')
  const { spec, shape, stored_bytes, relative_error } = report.tensors[0]
  assert.deepEqual(
    { spec, shape, stored_bytes, relative_error },
    {
      spec: tensor.spec,
      shape: tensor.shape,
      stored_bytes: tensor.storedBytes,
      relative_error: tensor.relativeError,
    },
  )
  for (const verify of both(archive, 'verify')) assert.equal(await verify(), undefined)
})

test('tensors outlive it', async () => {
  for (const mapped of [true, false]) {
    const archive = await Archive.open(path, { mapped })
    const byName = archive.tensor('first')
    const byAlias = archive.tensor('tied')
    const byIndex = archive.tensorAt(1)
    archive[Symbol.dispose]()
    assert.equal(byName.name, 'first')
    assert.equal(byAlias.name, 'first')
    assert.equal(byIndex.name, '第二')
    assert.deepEqual(await byIndex.decompress(), new Int32Array([1, 2, 3]))
    assert.deepEqual(await byName.decompress(), byAlias.decompressSync())
    await byName.verify()
  }
})

test('what is not there', async () => {
  const archive = await Archive.open(path)
  await fails(() => archive.tensor('frist'), 'invalid_argument', "'frist'", "'first'")
  await fails(() => archive.tensor(), 'invalid_argument', 'name is undefined')
  await fails(() => archive.tensorAt(2), 'invalid_argument', 'index is 2', '2 tensors')
  await fails(() => archive.tensorAt('first'), 'invalid_argument', 'index is a string')
  await fails(() => archive.find(1), 'invalid_argument', 'name is a number')
  for (const open of both(Archive, 'open')) {
    await fails(() => open(scratch('nowhere.cai')), 'io', 'nowhere.cai')
    await fails(() => open(`${path}\0`), 'io')
    await fails(() => open(), 'invalid_argument', 'path is undefined')
    await fails(() => open(new URL('https://example.org/a.cai')), 'invalid_argument', 'path')
    await fails(() => open({}), 'invalid_argument', 'path')
    await fails(() => open(path, { mapped: 1 }), 'invalid_argument', 'options.mapped is a number')
  }
})

test('what is no archive', async () => {
  const text = scratch('text.cai')
  writeFileSync(text, 'x'.repeat(500))
  const empty = scratch('empty.cai')
  writeFileSync(empty, '')
  for (const open of both(Archive, 'open')) {
    for (const mapped of [true, false]) {
      const error = await fails(() => open(text, { mapped }), 'corrupt', 'text.cai')
      assert.equal(error.offset, 0)
      await fails(() => open(empty, { mapped }), 'corrupt', 'empty')
    }
  }
})

test('a closed archive', async () => {
  const copy = scratch('copy.cai')
  copyFileSync(path, copy)
  const archive = await Archive.open(copy)
  const under_way = archive.verify()
  archive.close()
  archive.close()
  await under_way
  for (const verify of both(archive, 'verify')) {
    await fails(verify, 'invalid_argument', 'archive is closed')
  }
  const uses = [
    () => archive.size, () => archive.fileBytes, () => archive.aliases, () => archive.metadata,
    () => archive.names(), () => archive.find('x'), () => archive.tensor('x'),
    () => archive.tensorAt(0), () => archive.inspect(),
  ]
  for (const use of uses) await fails(use, 'invalid_argument', 'archive is closed')
  assert.throws(() => new Archive())
})
