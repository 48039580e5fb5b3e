'use strict'

const { fileURLToPath } = require('node:url')
const native = require('./native.js')
const { CortexError } = require('./error.js')
const { longCall } = require('./long-call.js')

const { Tensor } = native
native.setup(CortexError, fileURLToPath)

// A method, so that it cannot be called with `new`, as the others cannot.
const { compress } = {
  compress(view, spec, options) {
    return longCall(native, options, (call) => native.compressTensor(view, spec, call))
  },
}
Object.defineProperty(Tensor, 'compress', { value: compress })

function compressFile(input, output, options) {
  return longCall(native, options, (call) => native.compressFile(input, output, options, call))
}

function decompressFile(input, output, options) {
  return longCall(native, options, (call) => native.decompressFile(input, output, options, call))
}

// Named one by one, so that Node sees them when a module imports this file.
module.exports.Archive = native.Archive
module.exports.CortexError = CortexError
module.exports.SdrIndex = native.SdrIndex
module.exports.Tensor = Tensor
module.exports.Writer = native.Writer
module.exports.abiVersion = native.abiVersion
module.exports.codecs = native.codecs
module.exports.compressFile = compressFile
module.exports.compressFileSync = native.compressFileSync
module.exports.decompressFile = decompressFile
module.exports.decompressFileSync = native.decompressFileSync
module.exports.specParse = native.specParse
module.exports.version = native.version
