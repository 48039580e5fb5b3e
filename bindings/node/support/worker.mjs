// A thread of test/workers.test.mjs: multiplies by a tensor of an archive that all share.

import { parentPort, workerData } from 'node:worker_threads'

import { Archive, CortexError, Tensor, compressFile } from 'cortex-tensor'

const { path, name, x, calls, endless } = workerData

if (endless) {
  // Work of every kind is under way when the thread is ended.
  const data = { data: new Float32Array(1 << 20).fill(0.5), shape: [1 << 10, 1 << 10] }
  const tensor = Archive.openSync(path).tensor(name)
  for (let i = 0; i < 8; i++) {
    Tensor.compress(data, 'int4(search=lsq)').catch(() => {})
    tensor.matmul(x).catch(() => {})
  }
  compressFile(workerData.model, workerData.output, { onProgress() {} }).catch(() => {})
  parentPort.postMessage('started')
} else {
  const tensor = (await Archive.open(path)).tensor(name)
  const results = []
  for (let i = 0; i < calls; i++) {
    results.push(i % 2 === 0 ? tensor.matmulSync(x) : await tensor.matmul(x))
  }
  let error
  try {
    tensor.matmulSync(x.subarray(1))
  } catch (e) {
    error = { ours: e instanceof CortexError, kind: e.kind, message: e.message }
  }
  parentPort.postMessage({ results, error })
}
