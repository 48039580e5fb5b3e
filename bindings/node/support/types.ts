// Is compiled, not run: what a program in TypeScript may write, and what it may not.

import cortex, {
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
  specParse,
  version,
} from '../index.js'
import type { DType, ErrorKind, MatmulOptions, Progress, Report, TypedArray } from '../index.js'

export async function use(): Promise<void> {
  const tensor: Tensor = await Tensor.compress(
    { data: new Float32Array(12), shape: [3, 4], strides: [4, 1], offset: 0 },
    'int8',
    { signal: AbortSignal.timeout(1000) },
  )
  const dtype: DType = tensor.dtype
  const shape: number[] = tensor.shape
  const name: string | null = tensor.name
  const options: MatmulOptions = { threads: 1, precision: 'exact', computed: null }
  const y: Float32Array = tensor.matmulSync(new Float32Array(4), options)
  const later: Float32Array = await tensor.matmul({ data: new Uint16Array(4), dtype: 'bf16' })
  const all: TypedArray = await tensor.decompress({ out: new Uint8Array(48) })
  const conv: Float32Array = tensor.convSync(y, { stride: [1, 2], padding: [0, 0, 1, 1] })
  using second = tensor.clone()
  second.close()

  const archive = await Archive.open(new URL('file:///model.cai'), { mapped: false })
  const aliases: Map<string, string> = archive.aliases
  const report: Report = archive.inspect()
  const writer = Writer.createSync('out.cai')
  await writer.add('w', archive.tensor('w'))
  const size: number = await writer.finish()

  const index = new SdrIndex(1024)
  index.add(2n ** 60n, [1, 2, 3])
  const found: { id: number | bigint; overlap: number }[] = await index.topK(new Uint32Array(1), 3)

  await compressFile('a', 'b', {
    rules: [{ pattern: 'x', spec: 'int8' }],
    onProgress: (progress: Progress) => progress.tensor,
  })
  await decompressFile('b', 'c', { threads: 2 })
  const text: string = specParse('int8') + version() + abiVersion() + codecs().forms[0]?.name
  try {
    cortex.specParse('nothing')
  } catch (error) {
    if (error instanceof CortexError) {
      const kind: ErrorKind = error.kind
      const offset: number | null = error.offset
      void [kind, offset, error.tensor]
    }
  }
  void [dtype, shape, name, later, all, conv, aliases, report, size, found, text]
}

export function refused(tensor: Tensor): void {
  // @ts-expect-error: no such dtype
  tensor.matmulSync({ data: new Uint16Array(4), dtype: 'float16' })
  // @ts-expect-error: results are f32
  tensor.matmulSync(new Float32Array(4), { out: new Float64Array(4) })
  // @ts-expect-error: nothing can stop a call that blocks
  compressFileSync('a', 'b', { signal: AbortSignal.abort() })
  // @ts-expect-error: read only
  tensor.name = 'w'
}
