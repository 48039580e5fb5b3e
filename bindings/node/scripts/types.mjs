// Makes index.d.ts of what the compiler of the native half said: without what is the loader's
// own affair, or stands in src/types.d.ts already.

import { readFileSync, writeFileSync } from 'node:fs'

const at = (name) => new URL(`../${name}`, import.meta.url)
let text = readFileSync(at('native.d.ts'), 'utf8')

function drop(what, pattern) {
  const parts = text.split(pattern)
  if (parts.length !== 2) throw new Error(`native.d.ts: ${what} is there ${parts.length - 1} times`)
  text = parts.join('')
}
drop('a second TypedArray', /export type TypedArray =\n  \| Int8Array\n(?:  \| \w+\n)+\n/)
drop('__napiBindingTarget', /\/\*\*\n(?: \*.*\n)+export declare const __napiBindingTarget: .*\n\n/)

const notice = '// Made by `npm run build` from src; changes are lost.\n\n'
writeFileSync(at('index.d.ts'), notice + text.replace(/\n{3,}/g, '\n\n'))
