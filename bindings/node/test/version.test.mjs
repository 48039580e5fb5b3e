import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { abiVersion, version } from 'cortex-tensor'

import { root } from '../support/index.mjs'

test('versions are those of the header and of the package', () => {
  const header = readFileSync(join(root, 'include', 'cortex.h'), 'utf8')
  const defined = (name) => header.match(new RegExp(`#define ${name} (.*)`))[1]
  assert.equal(JSON.stringify(version()), defined('CORTEX_VERSION_STRING'))
  assert.equal(String(abiVersion()), defined('CORTEX_ABI_VERSION'))
  const manifest = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  assert.equal(JSON.parse(manifest).version, version())
})
