// Made by `npm run build` from src; changes are lost.

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

/**
 * An open .cai file.
 *
 * Tensors taken from it keep the file open or mapped and may outlive it. It cannot be posted
 * to a worker: open the file in each, which shares the mapped memory.
 */
export declare class Archive {
  /**
   * Opens an archive by mapping the file: what is not packed is used in place, and only
   * what is used is read. The file must not be cut or rewritten while it is open; replacing
   * it by rename, as Cortex does, is safe. With `mapped: false` nothing is mapped, and
   * every chunk is read and checked each time it is used: for files that somebody may cut
   * short, and network drives.
   *
   * Rejects with `io`: it cannot be read; `corrupt`: it is no archive, was cut short, or
   * its index is damaged; `unsupported`: a newer major version of the format.
   */
  static open(path: string | URL, options?: OpenOptions | null): Promise<Archive>
  /** As `open`, on the calling thread. */
  static openSync(path: string | URL, options?: OpenOptions | null): Archive
  /** Closes the archive; its tensors live on. Closing it again does nothing. */
  close(): void
  /** `close`, for `using`. */
  [globalThis.Symbol.dispose](): void
  /** Number of tensors; aliases do not count. */
  get size(): number
  /** Bytes of the whole file. */
  get fileBytes(): number
  /** Names of the tensors, in the order of the file; aliases are not among them. */
  names(): Array<string>
  /**
   * The place in `names()` of the tensor of this name, or of the one that this alias names;
   * -1 if there is none.
   */
  find(name: string): number
  /**
   * Opens the tensor of this name, or the one that this alias names. Its data is read when
   * it is used.
   *
   * Throws `invalid_argument`: there is none of this name; `unsupported`: it is stored in a
   * way that this version does not know.
   */
  tensor(name: string): Tensor
  /** Opens the tensor at this place in `names()`; see `tensor`. */
  tensorAt(index: number): Tensor
  /** Further names of tensors, as of tied weights: alias to name. */
  get aliases(): Map<string, string>
  /** Free text about the model. */
  get metadata(): Map<string, string>
  /**
   * What the archive holds, the same that `cortex inspect --json` prints: sizes, ratio, and
   * for each tensor its sizes and measured errors.
   */
  inspect(): Report
  /**
   * Reads every byte of the file and checks it. The error is the first that was found; where
   * there are more its message says how many.
   *
   * Rejects with `corrupt`: something is damaged; the error names the tensor and the offset.
   */
  verify(): Promise<void>
  /** As `verify`, on the calling thread. */
  verifySync(): void
}

/**
 * Sets under numbers, searched by the bits that they share.
 *
 * Numbers have 64 bits: up to `Number.MAX_SAFE_INTEGER` they are numbers, above it bigints;
 * both are taken everywhere. What a promise works on is the index as it was when the call was
 * made; changing it meanwhile copies it once.
 */
export declare class SdrIndex {
  /** An empty index of sets of `bits` bits each, 1 to 1048576. */
  constructor(bits: number)
  /**
   * Reads an index that `save` wrote, and checks it. Nothing of the file is used afterwards.
   *
   * Rejects with `io`: it cannot be read; `corrupt`: it is no index, was cut short, or is
   * damaged; `limit_exceeded`: it would take far more memory than the file has bytes;
   * `unsupported`: a newer version.
   */
  static load(path: string | URL): Promise<SdrIndex>
  /** As `load`, on the calling thread. */
  static loadSync(path: string | URL): SdrIndex
  /**
   * Writes the index to a file, the same bytes for the same sets in whatever order they
   * came. The file appears when it is complete; what stood there is replaced then.
   */
  save(path: string | URL): Promise<void>
  /** As `save`, on the calling thread. */
  saveSync(path: string | URL): void
  /** Frees the index. Closing it again does nothing. */
  close(): void
  /** `close`, for `using`. */
  [globalThis.Symbol.dispose](): void
  /** Bits of every set, active or not. */
  get bits(): number
  /** Number of stored sets. */
  get size(): number
  /** Bytes of memory that the sets and what finds them take, without what the allocator adds. */
  get memoryBytes(): number
  /**
   * Stores the set of the active bits `active`, in any order, under `id`.
   *
   * Throws `invalid_argument`: a bit is not below `bits` or is given twice, or the number is
   * in use.
   */
  add(id: number | bigint, active: ActiveBits): void
  /**
   * The active bits of the set stored under `id`, in increasing order.
   *
   * Throws `invalid_argument`: nothing is stored under `id`.
   */
  get(id: number | bigint): Uint32Array
  /** Removes the set stored under `id`; whether there was one. */
  remove(id: number | bigint): boolean
  /**
   * The `k` stored sets that share most active bits with the set `active`, largest overlap
   * first, the smaller number first among equals; exact, and without those that share none.
   */
  topK(active: ActiveBits, k: number): Promise<SdrMatch[]>
  /** As `topK`, on the calling thread. */
  topKSync(active: ActiveBits, k: number): SdrMatch[]
}

/**
 * A compressed tensor. Seen as a matrix it is W[rows, cols], row-major: `rows` is the first
 * dimension, `cols` the product of the others; a vector [n] is [n, 1], a scalar [1, 1].
 *
 * Made by `Tensor.compress` and `Archive.tensor`. What it holds is freed by `close`, by
 * `using`, or when it is collected as garbage; one from an archive keeps the file open.
 */
export declare class Tensor {
  /** As `compress`, on the calling thread. */
  static compressSync(view: DenseInput, spec?: string | null): Tensor
  /** A second handle on the same tensor: cheap, nothing is copied. Each is closed by itself. */
  clone(): Tensor
  /**
   * Frees what the tensor holds, at once. Calls that are under way end as they would have;
   * later ones throw. Closing it again does nothing.
   */
  close(): void
  /** `close`, for `using`. */
  [globalThis.Symbol.dispose](): void
  /** The name under which it stands in its archive; null if it is from none. */
  get name(): string | null
  /**
   * The canonical spec that it was stored with; compressing the same dense tensor with it
   * gives the same bytes.
   */
  get spec(): string
  /** The element type that it decodes to. */
  get dtype(): DType
  /** Dimensions, outermost first, in elements; empty for a scalar. */
  get shape(): number[]
  /** Number of dimensions; 0 for a scalar. */
  get ndim(): number
  /** Rows as a matrix: the first dimension, 1 for a scalar. */
  get rows(): number
  /** Columns as a matrix: the product of all dimensions but the first. */
  get cols(): number
  /** Bytes of the dense tensor. */
  get rawBytes(): number
  /**
   * Bytes that it takes in an archive, everything counted (codes, scales, masks, padding)
   * but its entry in the index.
   */
  get storedBytes(): number
  /** Stored bits per element; 0 for a tensor without elements. */
  get bitsPerWeight(): number
  /**
   * ‖W − Ŵ‖ / ‖W‖ (Frobenius norm), measured when it was compressed. 0 when every bit came
   * back; Infinity for an all-zero tensor that did not.
   */
  get relativeError(): number
  /** max |w − ŵ|, measured when it was compressed. */
  get maxAbsError(): number
  /**
   * Signal to quantisation noise, −20·log10(relativeError), in dB; Infinity when every bit
   * came back.
   */
  get sqnrDb(): number
  /**
   * Decodes the whole tensor to its dtype, row-major, on all cores. f16 and bf16 come as
   * the Uint16Array, bool as the Uint8Array that has their bits. `out` is filled and
   * returned, if given: an array of that kind, or a Uint8Array, of exactly the size.
   */
  decompress(options?: OutOptions | null): Promise<TypedArray>
  /** As `decompress`, on the calling thread, straight into `out`. */
  decompressSync(options?: OutOptions | null): TypedArray
  /**
   * Decodes rows `start` to `start + count` to the tensor's dtype, row-major, on all cores:
   * out[count, cols]. Only the parts of the file that hold them are read. Arrays as in
   * `decompress`.
   */
  decodeRows(start: number, count: number, options?: OutOptions | null): Promise<TypedArray>
  /** As `decodeRows`, on the calling thread, straight into `out`. */
  decodeRowsSync(start: number, count: number, options?: OutOptions | null): TypedArray
  /**
   * Decodes rows `start` to `start + count` to f32, whatever the dtype: out[count, cols],
   * row-major.
   */
  decodeRowsF32(start: number, count: number, options?: FloatOutOptions | null): Promise<Float32Array>
  /** As `decodeRowsF32`, on the calling thread, straight into `out`. */
  decodeRowsF32Sync(start: number, count: number, options?: FloatOutOptions | null): Float32Array
  /**
   * y = x · Wᵀ, computed on the compressed weights: y[b, rows] = Σ x[b, cols] · W[rows, cols].
   *
   * `x` has any float dtype and strides, its last dimension is `cols`, and the product of
   * the others is the batch b (1 if there is none). Sums are in f32. The result is
   * row-major. `x` is copied before the call returns; `out`, if given, is written just
   * before the promise resolves to it, and must still be there.
   */
  matmul(x: DenseInput, options?: MatmulOptions | null): Promise<Float32Array>
  /**
   * As `matmul`, on the calling thread. f32 without gaps is used in place, anything else is
   * converted to f32 first; `out` is written in place and must not overlap `x`.
   */
  matmulSync(x: DenseInput, options?: MatmulOptions | null): Float32Array
  /**
   * y = g · W, the product that gradients need: y[b, cols] = Σ g[b, rows] · W[rows, cols].
   * As `matmul`, but the last dimension of `g` is `rows`.
   */
  matmulT(g: DenseInput, options?: MatmulOptions | null): Promise<Float32Array>
  /** As `matmulT`, on the calling thread, in place as in `matmulSync`. */
  matmulTSync(g: DenseInput, options?: MatmulOptions | null): Float32Array
  /**
   * The shape of what `conv` makes of an x of the shape `xShape`.
   *
   * Throws `invalid_argument`: the shapes do not fit each other, or the kernel is larger
   * than the padded x.
   */
  convOutputShape(xShape: readonly number[], options?: ConvOptions | null): number[]
  /**
   * y = W ∗ x, a convolution computed on the compressed weights W[out, in / groups, width]
   * or W[out, in / groups, height, width], with x[batch, in, width] or x[batch, in, height,
   * width] and y likewise, row-major. The kernel is not turned round, as the field has it.
   * Arrays as in `matmul`.
   */
  conv(x: DenseInput, options?: ConvOptions | null): Promise<Float32Array>
  /** As `conv`, on the calling thread, in place as in `matmulSync`. */
  convSync(x: DenseInput, options?: ConvOptions | null): Float32Array
  /**
   * The gradient of a convolution with respect to x, a transposed convolution: what `g`, of
   * the shape of y, makes of each element of an x of the shape `xShape`. Always exact.
   */
  convT(g: DenseInput, xShape: readonly number[], options?: ConvOptions | null): Promise<Float32Array>
  /** As `convT`, on the calling thread, in place as in `matmulSync`. */
  convTSync(g: DenseInput, xShape: readonly number[], options?: ConvOptions | null): Float32Array
  /**
   * Reads every stored chunk of the tensor and checks it against its checksum.
   *
   * Rejects with `corrupt`: a chunk is damaged; the error names the tensor and the offset.
   */
  verify(): Promise<void>
  /** As `verify`, on the calling thread. */
  verifySync(): void
}

/**
 * A .cai file in the making. It appears under its name when it is finished, whole; until
 * then, and for ever if the writer is closed or collected or the program is killed, what
 * stood there stays.
 *
 * One call at a time: a call before the promise of the last one is settled throws.
 */
export declare class Writer {
  /**
   * Starts an archive that will be `path`. Its folder must exist and be writable: the file
   * is written beside its place and renamed.
   */
  static create(path: string | URL): Promise<Writer>
  /** As `create`, on the calling thread. */
  static createSync(path: string | URL): Writer
  /**
   * Writes a tensor under `name`, which no other tensor or alias of this file may have. The
   * tensor may be closed afterwards. After any error but `invalid_argument` and
   * `limit_exceeded` the writer can only be closed.
   */
  add(name: string, tensor: Tensor): Promise<void>
  /** As `add`, on the calling thread. */
  addSync(name: string, tensor: Tensor): void
  /** Makes `alias` another name of the tensor `target`, which was added before. */
  alias(alias: string, target: string): void
  /** Sets free text about the model; a key that is set again has its last value. */
  setMetadata(key: string, value: string): void
  /**
   * Completes the file, brings it to the disk and gives it its name. Resolves to its size in
   * bytes. Whatever comes of it, the writer can then only be closed.
   */
  finish(): Promise<number>
  /** As `finish`, on the calling thread. */
  finishSync(): number
  /**
   * Gives the file up, unless it is finished: nothing is left behind. A call that is under
   * way ends as it would have; after `finish` that is a file. Closing again does nothing.
   */
  close(): void
  /** `close`, for `using`. */
  [globalThis.Symbol.dispose](): void
}

/** The ABI of the library: the number in the SONAME of `libcortex.so` of the same version. */
export declare function abiVersion(): number

/** Every name that a spec may hold, with its options. */
export declare function codecs(): Codecs

/**
 * Compresses the model at `input` (safetensors, a sharded one's index.json, npy, npz; found
 * by content) into the archive `output`, holding one tensor in memory at a time. The file
 * appears when it is complete; what stood there is replaced then.
 *
 * Resolves to the report that `cortex compress --json` prints. Rejects with
 * `invalid_argument`: a bad spec or pattern, `output` is an input, or a value that is not
 * finite under a lossy spec; `corrupt`, `limit_exceeded`: the model is damaged; `io`: reading
 * or writing failed; `cancelled`: the signal said so, and no file is left behind.
 */
export declare function compressFile(input: string | URL, output: string | URL, options?: CompressFileOptions & LongCallOptions | null): Promise<Report>

/** As `compressFile`, on the calling thread, which nothing can stop. */
export declare function compressFileSync(input: string | URL, output: string | URL, options?: CompressFileOptions | null): Report

/**
 * Decodes every tensor of the archive `input` into the safetensors file `output`, under its
 * name and in its dtype, in bounded memory. The file appears when it is complete.
 *
 * Resolves to the size of the file in bytes. Rejects with `corrupt`: the archive is damaged,
 * and the error names the tensor and the offset; `cancelled`: the signal said so, and no file
 * is left behind.
 */
export declare function decompressFile(input: string | URL, output: string | URL, options?: DecompressFileOptions & LongCallOptions | null): Promise<number>

/** As `decompressFile`, on the calling thread, which nothing can stop. */
export declare function decompressFileSync(input: string | URL, output: string | URL, options?: DecompressFileOptions | null): number

/** How far a long call has come. */
export interface Progress {
  /** Dense bytes of the tensors that are done. */
  doneBytes: number
  /** Dense bytes of all tensors. */
  totalBytes: number
  /** Tensors that are done. */
  doneTensors: number
  /** All tensors. */
  totalTensors: number
  /** Name of the tensor at work. */
  tensor: string
}

/**
 * Checks a spec and gives it in canonical form: options in a fixed order, defaults left out.
 * Two specs that mean the same have the same canonical form.
 *
 * Throws `invalid_argument`: the message names the column, what stood there and what was
 * expected.
 */
export declare function specParse(spec: string): string

/** The version of the library, such as "1.2.3". */
export declare function version(): string
