// The frozen archives, and what becomes of them when they are damaged.

import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'

import { Archive, CortexError } from 'cortex-tensor'

import { both, bytes, fails, golden, scratch } from '../support/index.mjs'

const { archives, refused } = JSON.parse(readFileSync(golden('manifest.json'), 'utf8'))

function same(array, base64) {
  return Buffer.from(bytes(array)).equals(Buffer.from(base64, 'base64'))
}

test('every archive opens and decodes', async () => {
  assert.ok(archives.length > 30)
  for (const { file, bytes: size, metadata, aliases, tensors } of archives) {
    for (const open of both(Archive, 'open')) {
      for (const mapped of [true, false]) {
        const archive = await open(golden(file), { mapped })
        assert.equal(archive.fileBytes, size, file)
        assert.deepEqual(Object.fromEntries(archive.metadata), metadata, file)
        assert.deepEqual(Object.fromEntries(archive.aliases), aliases, file)
        assert.deepEqual(archive.names(), tensors.map((t) => t.name), file)
        await archive.verify()
        for (const [i, wanted] of tensors.entries()) {
          const what = `${file}, ${wanted.name}`
          const tensor = archive.tensorAt(i)
          assert.equal(tensor.name, wanted.name)
          assert.equal(archive.find(wanted.name), i)
          assert.equal(tensor.dtype, wanted.dtype, what)
          assert.deepEqual(tensor.shape, wanted.shape, what)
          assert.equal(tensor.spec, wanted.spec, what)
          assert.ok(same(await tensor.decompress(), wanted.decoded), what)
          assert.ok(same(tensor.decompressSync(), wanted.decoded), what)
          tensor.close()
        }
        for (const [alias, target] of Object.entries(aliases)) {
          assert.equal(archive.tensor(alias).name, target)
        }
        archive.close()
      }
    }
  }
})

test('what a newer version wrote is refused by name, and the rest opens', async () => {
  assert.ok(refused.length > 0)
  for (const { file } of refused) {
    const archive = await Archive.open(golden(file))
    let opened = 0
    for (const [i, name] of archive.names().entries()) {
      if (name.startsWith('known')) {
        assert.ok((await archive.tensorAt(i).decompress()).length > 0)
        opened++
        continue
      }
      for (const open of [() => archive.tensor(name), () => archive.tensorAt(i)]) {
        const error = await fails(open, 'unsupported', name)
        assert.equal(error.tensor, name)
      }
    }
    assert.equal(opened, 2)
  }
})

/** Uses all that an archive holds; what fails must fail with a CortexError. */
async function useAll(path, mapped) {
  let failures = 0
  const attempt = async (f) => {
    try {
      return await f()
    } catch (error) {
      assert.ok(error instanceof CortexError, error.stack)
      assert.ok(['corrupt', 'limit_exceeded', 'unsupported', 'invalid_argument', 'out_of_memory', 'io'].includes(error.kind), error.message)
      failures++
    }
  }
  const archive = await attempt(() => Archive.open(path, { mapped }))
  if (!archive) return failures
  await attempt(() => archive.verifySync())
  for (let i = 0; i < archive.size; i++) {
    const tensor = await attempt(() => archive.tensorAt(i))
    if (!tensor || tensor.rawBytes > 1 << 20) continue
    await attempt(() => tensor.decompress())
    await attempt(() => tensor.matmulSync(new Float32Array(tensor.cols)))
    tensor.close()
  }
  archive.close()
  return failures
}

test('damaged archives fail with an error, wherever the damage is', async () => {
  const path = scratch('damaged.cai')
  for (const { file, tensors } of archives) {
    const whole = readFileSync(golden(file))
    let noticed = 0
    let tried = 0
    const step = Math.max(1, Math.floor(whole.length / 48))
    for (let at = 0; at < whole.length; at += step) {
      const damaged = Buffer.from(whole)
      damaged[at] ^= 1 << (at % 8)
      writeFileSync(path, damaged)
      tried++
      if ((await useAll(path, at % 2 === 0)) > 0) noticed++
    }
    // Every byte counts: of each flipped one something must be said.
    assert.equal(noticed, tried, file)
    for (let length = 0; length < whole.length; length += step * 4) {
      writeFileSync(path, whole.subarray(0, length))
      await fails(() => Archive.open(path), 'corrupt')
    }
    assert.ok(tensors)
  }
})

test('the error of a damaged chunk names the tensor and the offset', async () => {
  const { file, tensors } = archives.find((a) => a.file === 'pack-zstd.cai')
  const damaged = readFileSync(golden(file))
  const archive = await Archive.open(golden(file))
  const first = archive.inspect().tensors[0]
  assert.equal(first.name, tensors[0].name)
  damaged[64 + 8] ^= 255
  const path = scratch('chunk.cai')
  writeFileSync(path, damaged)
  for (const mapped of [true, false]) {
    const tensor = (await Archive.open(path, { mapped })).tensorAt(0)
    for (const verify of both(tensor, 'verify')) {
      const error = await fails(verify, 'corrupt', first.name)
      assert.equal(error.tensor, first.name)
      assert.equal(error.offset, 64)
    }
    for (const decompress of both(tensor, 'decompress')) {
      const error = await fails(decompress, 'corrupt', first.name)
      assert.equal(error.offset, 64)
    }
  }
})
