import cortex from './index.js'

export const {
  Archive,
  CortexError,
  SdrIndex,
  Tensor,
  Writer,
  abiVersion,
  codecs,
  compressFile,
  compressFileSync,
  decompressFile,
  decompressFileSync,
  specParse,
  version,
} = cortex
export default cortex
