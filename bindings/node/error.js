'use strict'

/** What went wrong, and where; index.d.ts says more. The native half makes them. */
class CortexError extends Error {
  constructor(message, kind, tensor = null, offset = null) {
    super(message)
    this.kind = kind
    this.tensor = tensor
    this.offset = offset
  }
}

// Not enumerable, as the names of the errors of the language are.
Object.defineProperty(CortexError.prototype, 'name', {
  value: 'CortexError',
  writable: true,
  configurable: true,
})

module.exports = { CortexError }
