// What this package exposes against the functions of the C library: parity.json says which
// member stands for which function, and nothing may be missing on either side.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { test } from 'node:test'

import * as esm from 'cortex-tensor'

import { root } from '../support/index.mjs'

const parity = JSON.parse(readFileSync(new URL('../parity.json', import.meta.url), 'utf8'))
const cjs = createRequire(import.meta.url)('cortex-tensor')

/** Everything that the package exposes, found on the objects themselves. */
function exposed() {
  const out = []
  for (const [name, value] of Object.entries(cjs)) {
    out.push(name)
    // Classes, by the custom of the language.
    if (!/^[A-Z]/.test(name)) continue
    const members = (object, skip) => {
      for (const key of Reflect.ownKeys(object)) {
        // Node 20 gives it another description than later ones.
        const text = key === Symbol.dispose ? '[Symbol.dispose]' : String(key)
        if (!skip.includes(key)) out.push(`${name}.${text}`)
      }
    }
    members(value, ['length', 'name', 'prototype', 'arguments', 'caller'])
    members(value.prototype, ['constructor'])
  }
  const own = Reflect.ownKeys(new cjs.CortexError('message', 'io'))
  for (const key of own.filter((k) => k !== 'stack')) out.push(`CortexError.${String(key)}`)
  return out.sort()
}

test('every function of the C library has its place', () => {
  const list = readFileSync(join(root, 'tests', 'abi', 'symbols.txt'), 'utf8')
  const symbols = list.split('\n').filter((line) => line && !line.startsWith('#'))
  assert.deepEqual(Object.keys(parity.symbols).sort(), symbols.sort())
  for (const [symbol, members] of Object.entries(parity.symbols)) {
    assert.ok(members.length > 0, symbol)
  }
})

test('every member has its reason', () => {
  const listed = new Set([...Object.values(parity.symbols).flat(), ...Object.keys(parity.extra)])
  assert.deepEqual(exposed(), [...listed].sort())
  for (const reason of Object.values(parity.extra)) assert.ok(reason.length > 0)
})

test('both kinds of modules have the same names', () => {
  const names = Object.keys(esm).filter((name) => name !== 'default').sort()
  assert.deepEqual(names, Object.keys(cjs).sort())
  for (const name of names) assert.equal(esm[name], cjs[name])
  assert.equal(esm.default, cjs)
})

test('every verb that returns a promise has one that blocks', () => {
  for (const { prototype, ...statics } of [cjs.Tensor, cjs.Archive, cjs.Writer, cjs.SdrIndex].map(
    (c) => Object.getOwnPropertyDescriptors(c),
  )) {
    for (const object of [prototype.value, null]) {
      const names = object ? Object.getOwnPropertyNames(object) : Object.keys(statics)
      for (const name of names.filter((n) => n.endsWith('Sync'))) {
        assert.ok(names.includes(name.slice(0, -4)), name)
      }
    }
  }
})
