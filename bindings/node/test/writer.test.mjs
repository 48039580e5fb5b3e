import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'

import { Archive, Tensor, Writer } from 'cortex-tensor'

import { both, existsSync, fails, scratch, weights } from '../support/index.mjs'

const small = Tensor.compressSync({ data: weights(64), shape: [8, 8] }, 'int8')

test('both ways write the same file', async () => {
  const files = []
  for (const [create, add, finish] of [
    ['create', 'add', 'finish'],
    ['createSync', 'addSync', 'finishSync'],
  ]) {
    const path = scratch(`${create}.cai`)
    const writer = await Writer[create](path)
    assert.equal(await writer[add]('a', small), undefined)
    await writer[add]('b', await Tensor.compress(new Uint8Array(3)))
    writer.alias('c', 'a')
    writer.setMetadata('k', 'old')
    writer.setMetadata('k', 'new')
    assert.ok(!existsSync(path))
    const size = await writer[finish]()
    files.push(readFileSync(path))
    assert.equal(size, files.at(-1).length)
    const archive = Archive.openSync(path)
    assert.deepEqual(archive.names(), ['a', 'b'])
    assert.equal(archive.metadata.get('k'), 'new')
    assert.deepEqual(archive.tensor('c').decompressSync(), small.decompressSync())
  }
  assert.deepEqual(files[0], files[1])
})

test('one that is given up leaves what stood there', async () => {
  const folder = scratch('given-up')
  mkdirSync(folder)
  const path = `${folder}/old.cai`
  writeFileSync(path, 'old')
  const writer = await Writer.create(path)
  await writer.add('a', small)
  assert.equal(readdirSync(folder).length, 2)
  writer.close()
  writer.close()
  assert.deepEqual(readdirSync(folder), ['old.cai'])
  assert.equal(readFileSync(path, 'utf8'), 'old')

  const disposed = Writer.createSync(path)
  disposed[Symbol.dispose]()
  assert.deepEqual(readdirSync(folder), ['old.cai'])
  await fails(() => disposed.addSync('a', small), 'invalid_argument', 'writer is closed')

  // Closed while a call has it: gone when the call ends.
  const busy = await Writer.create(path)
  const under_way = busy.add('a', small)
  busy.close()
  await under_way
  assert.deepEqual(readdirSync(folder), ['old.cai'])
  await fails(() => busy.finish(), 'invalid_argument', 'writer is closed')
})

test('bad names and tensors do no harm', async () => {
  const path = scratch('harmless.cai')
  const writer = await Writer.create(path)
  await writer.add('a', small)
  for (const add of both(writer, 'add')) {
    const error = await fails(() => add('a', small), 'invalid_argument', 'name')
    assert.equal(error.tensor, 'a')
    await fails(() => add('x'.repeat(5000), small), 'limit_exceeded')
    await fails(() => add(1, small), 'invalid_argument', 'name is a number')
    for (const wrong of [undefined, {}, writer, new Float32Array(1)]) {
      await fails(() => add('b', wrong), 'invalid_argument', 'tensor is', 'a Tensor')
    }
    const closed = small.clone()
    closed.close()
    await fails(() => add('b', closed), 'invalid_argument', 'tensor is closed')
  }
  await fails(() => writer.alias('b', 'nothing'), 'invalid_argument', "'nothing'")
  await fails(() => writer.alias('b'), 'invalid_argument', 'target is undefined')
  await fails(() => writer.setMetadata('k', 1), 'invalid_argument', 'value is a number')
  await writer.finish()
  assert.deepEqual(Archive.openSync(path).names(), ['a'])
  for (const finish of both(writer, 'finish')) {
    await fails(finish, 'invalid_argument', 'writer is finished')
  }
  await fails(() => writer.add('b', small), 'invalid_argument', 'writer is finished')
})

test('one call at a time', async () => {
  const writer = await Writer.create(scratch('busy.cai'))
  // Its end is known when the event loop has turned, and not before.
  const first = writer.add('a', small)
  const others = [
    () => writer.add('b', small),
    () => writer.addSync('b', small),
    () => writer.alias('b', 'a'),
    () => writer.setMetadata('k', 'v'),
    () => writer.finish(),
    () => writer.finishSync(),
  ].map((call) => fails(call, 'invalid_argument', 'at work'))
  await first
  await Promise.all(others)
  await writer.add('b', small)
  assert.ok((await writer.finish()) > 0)
})

test('where no file can be', async () => {
  for (const create of both(Writer, 'create')) {
    await fails(() => create(scratch('no/such/folder.cai')), 'io', 'folder.cai')
    await fails(() => create(scratch('')), 'invalid_argument', 'folder')
    await fails(() => create(7), 'invalid_argument', 'path is a number')
  }
  assert.throws(() => new Writer())
})
