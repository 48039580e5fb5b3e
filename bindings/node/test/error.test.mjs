import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inspect } from 'node:util'

import { Archive, CortexError, specParse } from 'cortex-tensor'

import { fails, golden, scratch } from '../support/index.mjs'

test('an error is one of the language', async () => {
  const error = await fails(() => specParse('int9'), 'invalid_argument', 'int9')
  assert.equal(Object.getPrototypeOf(error), CortexError.prototype)
  assert.equal(String(error), `CortexError: ${error.message}`)
  assert.match(error.stack, /error\.test\.mjs/)
  assert.match(inspect(error), /kind: 'invalid_argument'/)
  assert.deepEqual(Object.keys(error), ['kind', 'tensor', 'offset'])
})

test('it says where', async () => {
  const archive = await Archive.open(golden('refused-newer.cai'))
  const error = await fails(() => archive.tensor('form'), 'unsupported', "tensor 'form'")
  assert.deepEqual([error.tensor, error.offset], ['form', null])
  const damaged = await fails(() => Archive.open(golden('manifest.json')), 'corrupt')
  assert.deepEqual([damaged.tensor, damaged.offset], [null, 0])
  assert.ok(damaged.message.includes('(at byte 0)'))
  await fails(() => Archive.open(scratch('none')), 'io')
})

test('programs can make their own', () => {
  const error = new CortexError('message', 'corrupt', 'tensor', 64)
  assert.deepEqual(
    [error.message, error.kind, error.tensor, error.offset],
    ['message', 'corrupt', 'tensor', 64],
  )
})
