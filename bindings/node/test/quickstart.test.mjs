// The example, as a program that has installed the package.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { before, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { Archive, compressFile } from 'cortex-tensor'

import { root, scratch } from '../support/index.mjs'

const program = scratch('quickstart.mjs')
const model = scratch('digits.cai')

before(async () => {
  mkdirSync(scratch('node_modules'))
  const here = fileURLToPath(new URL('..', import.meta.url))
  symlinkSync(here, scratch('node_modules/cortex-tensor'), 'junction')
  copyFileSync(join(root, 'examples', 'node', 'quickstart.mjs'), program)
  await compressFile(join(root, 'examples', 'digits', 'digits.safetensors'), model, { spec: 'int8' })
})

test('the quickstart', async () => {
  const output = execFileSync(process.execPath, [program, model], { encoding: 'utf8' })
  const archive = await Archive.open(model)
  const tensors = archive.names().map((name) => archive.tensor(name))
  for (const { name, dtype, rows, cols, spec } of tensors) {
    const line = output.split('\n').find((l) => l.startsWith(`${name} `))
    assert.ok(line.includes(`${dtype}[${rows} x ${cols}]`), line)
    assert.ok(line.includes(spec), line)
  }
  const first = tensors.find((t) => t.ndim === 2)
  const y = first.matmulSync(new Float32Array(first.cols).fill(1))
  const found = output.match(new RegExp(`^y = W x for ${first.name}, x all ones: (.*) \\.\\.\\.$`, 'm'))
  const sums = found[1].split(' ').map(Number)
  assert.equal(sums.length, 8)
  sums.forEach((sum, i) => assert.ok(Math.abs(sum - y[i]) <= 1e-4 * Math.abs(y[i])))
})

test('what it says when it cannot', () => {
  const run = (...args) => spawnSync(process.execPath, [program, ...args], { encoding: 'utf8' })
  assert.equal(run().status, 2)
  const { status, stderr } = run(scratch('nothing.cai'))
  assert.equal(status, 1)
  assert.match(stderr, /^io: .*nothing\.cai/)
})
