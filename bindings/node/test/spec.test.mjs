import assert from 'node:assert/strict'
import { test } from 'node:test'

import { codecs, specParse } from 'cortex-tensor'

import { fails } from '../support/index.mjs'

test('the canonical form', () => {
  assert.equal(specParse(' int4( search=lsq , group=64 ) '), specParse('int4(group=64,search=lsq)'))
})

test('what is no spec', async () => {
  const error = await fails(() => specParse('int8 | zst'), 'invalid_argument', 'column 8', 'zstd')
  assert.deepEqual([error.tensor, error.offset], [null, null])
  for (const wrong of [undefined, null, 8, {}]) {
    await fails(() => specParse(wrong), 'invalid_argument', 'spec is', 'a string is needed')
  }
})

test('what there is', () => {
  const { directives, forms, packs } = codecs()
  for (const list of [directives, forms, packs]) {
    assert.ok(list.length > 0)
    for (const { name, summary, options } of list) {
      assert.ok(name && summary)
      for (const option of options) assert.ok(option.key && option.doc)
    }
  }
  const names = (list) => list.map((entry) => entry.name)
  assert.ok(names(forms).includes('int8') && names(packs).includes('zstd'))
  // Ours to change: each call gives its own.
  codecs().forms.length = 0
  assert.ok(codecs().forms.length > 0)
})
