'use strict'

const { CortexError } = require('./error.js')

const invalid = (message) => new CortexError(message, 'invalid_argument')

/**
 * Runs a native call that can be stopped and watched.
 *
 * @param native the native half, whose call takes one more argument: what stops it
 * @param options the caller's, of which `signal` and `onProgress` are read here
 * @param start starts the native call
 */
async function longCall(native, options, start) {
  if (options != null && typeof options !== 'object') {
    throw invalid(`options is a ${typeof options}; an object is needed`)
  }
  const signal = options?.signal ?? undefined
  const onProgress = options?.onProgress ?? undefined
  if (signal !== undefined && typeof signal?.addEventListener !== 'function') {
    throw invalid('options.signal is no AbortSignal')
  }
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw invalid('options.onProgress is no function')
  }

  let thrown
  // Called on the event loop while the work runs, and once more when it has ended: so all
  // that was told arrives before the promise is settled.
  const tell = () => {
    for (const progress of native.takeProgress(call)) {
      if (thrown) return
      try {
        onProgress(progress)
      } catch (error) {
        thrown = { error }
        native.cancelCall(call)
      }
    }
  }
  const call = native.newCall(onProgress && tell)
  const abort = () => native.cancelCall(call)
  if (signal?.aborted) abort()
  signal?.addEventListener('abort', abort, { once: true })
  try {
    const result = await start(call)
    if (onProgress) tell()
    if (thrown) throw thrown.error
    return result
  } catch (error) {
    if (onProgress) tell()
    if (thrown) throw thrown.error
    if (error?.kind === 'cancelled' && signal?.aborted) error.cause = signal.reason
    throw error
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

module.exports = { longCall }
