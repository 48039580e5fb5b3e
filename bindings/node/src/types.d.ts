/// <reference types="node" />
/// <reference lib="esnext.disposable" />

/** Name of an element type. Elements of more than one byte are little-endian. */
export type DType =
  | 'f64' | 'f32' | 'f16' | 'bf16'
  | 'i64' | 'i32' | 'i16' | 'i8'
  | 'u64' | 'u32' | 'u16' | 'u8'
  | 'bool'

/**
 * An array of elements. There is none for f16, bf16 and bool: those lie in a Uint16Array and
 * a Uint8Array that have their bits.
 */
export type TypedArray =
  | Float64Array | Float32Array
  | BigInt64Array | Int32Array | Int16Array | Int8Array
  | BigUint64Array | Uint32Array | Uint16Array | Uint8Array | Uint8ClampedArray

/** A dense tensor in memory of the caller. */
export interface DenseView {
  /** The elements; a Uint8Array may hold the bytes of any dtype. */
  data: TypedArray
  /**
   * Element type. That of the array if it is left out; a Uint16Array may be 'f16' or 'bf16', a
   * Uint8Array anything.
   */
  dtype?: DType | null
  /** Dimensions, outermost first, at most 16; `[]` for a scalar. A vector if it is left out. */
  shape?: readonly number[] | null
  /**
   * Distances from one element to the next along each dimension, in elements; they may be 0 or
   * negative. Row-major without gaps if they are left out.
   */
  strides?: readonly number[] | null
  /** Index in `data` of element [0, 0, …]; 0 if it is left out. */
  offset?: number | null
}

/** A dense tensor, or a typed array, which is a vector. */
export type DenseInput = TypedArray | DenseView

/** Where a result goes. */
export interface OutOptions {
  /** Is filled and returned; a new array if it is left out. */
  out?: TypedArray | null
}

/** Where a result of f32 goes. */
export interface FloatOutOptions {
  /** Is filled and returned; a new array if it is left out. */
  out?: Float32Array | null
}

/** How activations enter a product. */
export type Precision =
  /** Rounded where what that adds lies at least 10 dB below the tensor's own stored error. */
  | 'auto'
  /** As f32: what a product adds is rounding in f32. */
  | 'exact'
  /** Rounded where the form has faster loops for that: an error of about -40 dB. */
  | 'fast'

/** How a product is computed. */
export interface MatmulOptions extends FloatOutOptions {
  /** Threads to use at most; 0 for all cores. The result does not depend on it. */
  threads?: number | null
  /** Memory for decoded windows of weights, all threads together, in bytes; 0 for 32 MiB. */
  scratchBytes?: number | null
  /** 'auto' if it is left out. */
  precision?: Precision | null
  /**
   * If there is such a key, whatever its value, it is set: whether activations were rounded.
   */
  computed?: 'exact' | 'fast' | null
}

/** How a convolution is computed. Weights of three dimensions have no height. */
export interface ConvOptions extends MatmulOptions {
  /** Samples from one output to the next, [height, width]; 1 if it is left out. */
  stride?: readonly [number, number] | null
  /** Zeros around x, [top, bottom, left, right]; none if it is left out. */
  padding?: readonly [number, number, number, number] | null
  /** Samples from one tap to the next, [height, width]; 1 if it is left out. */
  dilation?: readonly [number, number] | null
  /** Parts of the channels that are convolved apart; 1 if it is left out. */
  groups?: number | null
}

/** How an archive is opened. */
export interface OpenOptions {
  /** Whether the file is mapped; true if it is left out. */
  mapped?: boolean | null
}

/** What can be stopped. */
export interface AbortOptions {
  /** Stops the work, which then rejects with a `CortexError` of kind "cancelled". */
  signal?: AbortSignal | null
}

/** What can be watched and stopped. */
export interface LongCallOptions extends AbortOptions {
  /**
   * Told at most every 50 ms, and after each tensor, how far the call has come; always before
   * the promise is settled. What it throws stops the call and rejects the promise.
   */
  onProgress?: ((progress: Progress) => void) | null
}

/** A spec for some tensors of a model. */
export interface Rule {
  /**
   * Regular expression, in the syntax of Rust's `regex`; found anywhere in a tensor's name,
   * unless it has ^ and $.
   */
  pattern: string
  /** Spec for the tensors of such names, followed to the letter. */
  spec: string
}

/** How a model is compressed. */
export interface CompressFileOptions {
  /**
   * For every tensor that no rule names; `auto(error=1%)` if it is left out. A lossy one leaves
   * integers, bools, vectors and tensors of under 4096 elements lossless.
   */
  spec?: string | null
  /** Regular expression: tensors with such a name stay lossless, rules or not. */
  exclude?: string | null
  /** The first that matches counts. */
  rules?: readonly Rule[] | null
  /** Threads; 0 for all cores. The file does not depend on it. */
  threads?: number | null
  /**
   * File (safetensors, npy, npz) of second moments of the activations, an entry for each tensor
   * by its name: [in] for their diagonal, [in, in] for all.
   */
  calibration?: string | URL | null
  /** Whether the report lists for each tensor what was measured and why it was taken or not. */
  explain?: boolean | null
}

/** How a model is decompressed. */
export interface DecompressFileOptions {
  /** Threads; 0 for all cores. */
  threads?: number | null
}

/** What became of a model. Names are those of `cortex compress --json`. */
export interface Report {
  /** Bytes of the input files; of the dense tensors when only looked at. */
  input_bytes: number
  /** Bytes of the archive. */
  output_bytes: number
  /** `input_bytes / output_bytes`. */
  ratio: number
  /** Wall seconds. */
  seconds: number
  /** Bytes of the index. */
  index_bytes: number
  /** Bytes of header and footer. */
  header_bytes: number
  /** Further names of tensors: alias to target. */
  aliases: Record<string, string>
  /** Tensors in the order of the file. */
  tensors: TensorReport[]
}

/** What became of a tensor. */
export interface TensorReport {
  name: string
  dtype: string
  /** Dimensions, outermost first. */
  shape: number[]
  /** Canonical spec. */
  spec: string
  /** Dense bytes. */
  raw_bytes: number
  /** Bytes in the file, padding counted. */
  stored_bytes: number
  bits_per_weight: number
  /** ‖W − Ŵ‖ / ‖W‖; 0 when exact, null when infinite. */
  relative_error: number | null
  /** In dB; null when exact. */
  sqnr_db: number | null
  /** max |w − ŵ|; null when infinite. */
  max_abs_error: number | null
  /** Whether the calibration file had an entry for it. */
  calibrated?: boolean
  /** What was done otherwise than asked. */
  notes?: string[]
  /** Seconds that it took to encode and write. */
  seconds?: number
  /** What was measured before the choice, best first, where that was asked for. */
  candidates?: {
    spec: string
    bits_per_weight: number
    relative_error: number | null
    sqnr_db: number | null
    cost: number
    in_place: boolean
    whole: boolean
    verdict: string
  }[]
}

/** Every name that a spec may hold. */
export interface Codecs {
  directives: Codec[]
  forms: Codec[]
  packs: Codec[]
}

/** A name that a spec may hold. */
export interface Codec {
  name: string
  summary: string
  options: CodecOption[]
}

/** An option of a name in a spec. */
export interface CodecOption {
  key: string
  values: unknown
  default: unknown
  doc: string
}

/** Active bits in any order, each at most once. */
export type ActiveBits = Uint32Array | readonly number[]

/** A stored set and how many active bits it shares with the one asked for. */
export interface SdrMatch {
  /** The number it was added under. */
  id: number | bigint
  /** Shared active bits, at least one. */
  overlap: number
}

/** What a program may branch on. */
export type ErrorKind =
  /** An argument, spec, shape or dtype is wrong; the message names it. */
  | 'invalid_argument'
  /** Valid, but not something that this build or version can do. */
  | 'unsupported'
  /** A file is damaged or is not what it claims to be; see `tensor` and `offset`. */
  | 'corrupt'
  /** A file, or a shape, asks for more than the limits allow. */
  | 'limit_exceeded'
  /** The operating system refused a read, write, map or rename. */
  | 'io'
  /** Memory could not be had. */
  | 'out_of_memory'
  /** A signal stopped the call; `cause` is the signal's reason. */
  | 'cancelled'
  /** A bug in Cortex. */
  | 'internal'

/** What went wrong, and where. */
export declare class CortexError extends Error {
  constructor(message: string, kind: ErrorKind, tensor?: string | null, offset?: number | null)
  name: 'CortexError'
  /** For programs to branch on. */
  readonly kind: ErrorKind
  /** The name of the tensor in question, or null. */
  readonly tensor: string | null
  /** The offset in the file, in bytes, of what is wrong, or null. */
  readonly offset: number | null
}

export declare namespace Tensor {
  /**
   * Compresses a dense tensor of any dtype and strides as `spec` says, on all cores. A spec is
   * followed to the letter; without one it is `auto(error=1%)` for float tensors of at least two
   * dimensions and 4096 elements, `lossless` for all others.
   *
   * The data is copied before the call returns. `signal` stops the work.
   *
   * Rejects with `invalid_argument`: a bad spec (the message names the column), or a value that
   * is not finite under a lossy spec (it names the index); `cancelled`: the signal said so.
   */
  function compress(
    view: DenseInput,
    spec?: string | null,
    options?: AbortOptions | null,
  ): Promise<Tensor>
}

