/*
 * Cortex keeps neural-network tensors compressed and computes on them without
 * unpacking them. This is its C interface.
 *
 * A tour, simplest call first. Multiply by a weight of an archive, on the
 * compressed weight, in place in the mapped file:
 *
 *     cortex_error *err = NULL;
 *     cortex_archive *model = NULL;
 *     cortex_tensor *w = NULL;
 *     if (cortex_archive_open("model.cai", &model, &err) != CORTEX_OK ||
 *         cortex_archive_tensor(model, "layer.0.weight", &w, &err) != CORTEX_OK)
 *       return fail(err);                               // cortex_error_message(err)
 *     size_t shape[] = {1, cortex_tensor_cols(w)};      // x[1, in]
 *     cortex_view x = {x_data, CORTEX_DTYPE_F32, 2, shape, NULL};
 *     if (cortex_tensor_matmul(w, &x, NULL, y, cortex_tensor_rows(w), &err) != CORTEX_OK)
 *       return fail(err);                               // y[1, out] = x · Wᵀ
 *     cortex_tensor_free(w);
 *     cortex_archive_free(model);
 *
 * Compress a whole model file, or one tensor, and write an archive of your own:
 *
 *     cortex_compress_file("model.safetensors", "model.cai", NULL, NULL, &err);
 *
 *     cortex_tensor_compress(&view, "int4(group=64)", &tensor, &err);
 *     cortex_writer_create("mine.cai", &writer, &err);
 *     cortex_writer_add(writer, "layer.0.weight", tensor, &err);
 *     cortex_writer_finish(writer, NULL, &err);
 *     cortex_writer_free(writer);
 *
 * Find what shares most active bits with a set, of many that are kept:
 *
 *     cortex_sdr_index_create(2048, &index, &err);
 *     cortex_sdr_index_add(index, 17, active, active_len, &err);
 *     cortex_sdr_index_top_k(index, query, query_len, 10, matches, &matches_len, &err);
 *     cortex_sdr_index_free(index);
 *
 * What holds for every function:
 *
 * * Specs. One text says how a tensor is stored: "int8", "int4(group=32, search=lsq)",
 *   "mask(keep=10%) | zstd", "lossless", "auto(error=1%)". cortex_codecs_json() lists
 *   every name and option.
 * * Order. cortex_noun_verb(self, inputs…, outputs…, cortex_error **err).
 * * Errors. A function that can fail returns a cortex_status and takes `err` last.
 *   `err` may be NULL. If it is not, *err is set to a new error when, and only when,
 *   the status is not CORTEX_OK; what it held before is overwritten, not freed. Free
 *   it with cortex_error_free. A NULL argument, a wrong shape, an unknown number or a
 *   short buffer is CORTEX_INVALID_ARGUMENT and the message names the argument.
 * * Outputs are untouched unless the status is CORTEX_OK. Only a data buffer (`out` of
 *   decode and decompress, `y` of matmul and conv, `x_gradient`) that was long enough may
 *   hold part of a result when a damaged or unreadable file is found on the way.
 * * Properties. A function without `err` cannot fail. Given NULL for its object it
 *   returns 0, NULL, or NaN for a double.
 * * Ownership. What comes out through `T **` belongs to the caller, who frees it with
 *   cortex_T_free; char * goes to cortex_string_free. Every free function takes NULL.
 *   `const char *` and other const pointers that are returned belong to the object
 *   asked and live as long as it does. Inputs are borrowed for the call. Objects may
 *   be freed in any order: a tensor keeps the archive's file open or mapped.
 * * Threads. A const pointer may be used from several threads at once; any other needs
 *   exclusive access. Every object may be made in one thread and freed in another.
 * * Units. `_bytes` counts bytes; `_len` counts elements of the array that it belongs
 *   to. Tensors are row-major; a tensor [d0, d1, …] is the matrix of d0 rows and
 *   d1·d2·… columns, a vector [n] the matrix [n, 1], a scalar [1, 1].
 * * Text is UTF-8 and ends in NUL; paths too. A NUL inside a name or value from a
 *   file is shown as U+2400.
 * * Options structs begin with `struct_size`, which the caller sets to their sizeof;
 *   zero in any other field means the default, NULL for the struct all defaults.
 *   Fields are only ever added at the end of a struct with a `struct_size`; numbers
 *   and functions are only ever added; all else stays as it is.
 * * Callbacks are called from any thread, one call at a time. They must return: no
 *   C++ exception, no longjmp.
 *
 * Made by `cargo xtask header` from src/ffi; changes are lost.
 */

#ifndef CORTEX_H
#define CORTEX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The version of this header. */
#define CORTEX_VERSION_MAJOR 0
#define CORTEX_VERSION_MINOR 1
#define CORTEX_VERSION_PATCH 0
#define CORTEX_VERSION_STRING "0.1.0"

/* --------------------------------------------------------------------------
 * Versions.
 */

/**
 * The ABI that the functions below belong to: the number in the library's SONAME.
 * It changes when a program that was linked before would break, never when something
 * is added.
 */
#define CORTEX_ABI_VERSION 1

/**
 * The version of the library that is running, such as "1.2.3". Compare
 * CORTEX_VERSION_STRING, the version of the header that the program was compiled with.
 */
const char *cortex_version(void);

/** The ABI of the library that is running; CORTEX_ABI_VERSION of its header. */
uint32_t cortex_abi_version(void);

/* --------------------------------------------------------------------------
 * Statuses and errors. A status is for programs to branch on, an error's message for
 * people to read.
 */

/**
 * What became of a call: CORTEX_OK or one of the errors below. Further numbers may
 * come; treat one that you do not know as a failure.
 */
typedef int32_t cortex_status;

/** Done. */
#define CORTEX_OK 0

/** An argument, spec, shape or dtype is wrong; the message names it. */
#define CORTEX_INVALID_ARGUMENT 10

/** Valid, but not something that this build or version can do. */
#define CORTEX_UNSUPPORTED 20

/**
 * A file is damaged or is not what it claims to be; see cortex_error_tensor and
 * cortex_error_offset.
 */
#define CORTEX_CORRUPT 30

/** A file, or a shape, asks for more than the limits allow. */
#define CORTEX_LIMIT_EXCEEDED 40

/** The operating system refused a read, write, map or rename. */
#define CORTEX_IO 50

/** Memory could not be had. */
#define CORTEX_OUT_OF_MEMORY 60

/** The progress callback asked to stop. */
#define CORTEX_CANCELLED 70

/** A bug in Cortex. */
#define CORTEX_INTERNAL 90

/** What went wrong, and where. */
typedef struct cortex_error cortex_error;

/**
 * The name of a status: "ok", "invalid_argument", "unsupported", "corrupt",
 * "limit_exceeded", "io", "out_of_memory", "cancelled", "internal"; "unknown" for any
 * other number. Never NULL; lives for ever.
 */
const char *cortex_status_name(cortex_status status);

/** The status that came with the error; CORTEX_OK for NULL. */
cortex_status cortex_error_kind(const cortex_error *error);

/** The name of that status. Lives for ever. */
const char *cortex_error_kind_name(const cortex_error *error);

/**
 * The whole message for people, in English, without a line end. Tensor and offset, where
 * known, are part of it.
 */
const char *cortex_error_message(const cortex_error *error);

/** The name of the tensor in question, or NULL. */
const char *cortex_error_tensor(const cortex_error *error);

/** The offset in the file, in bytes, of what is wrong; -1 if there is none, and for NULL. */
int64_t cortex_error_offset(const cortex_error *error);

/** Frees an error. NULL is allowed. */
void cortex_error_free(cortex_error *error);

/* --------------------------------------------------------------------------
 * Element types. Elements of more than one byte are little-endian.
 */

/** IEEE 754 double. */
#define CORTEX_DTYPE_F64 1

/** IEEE 754 single. */
#define CORTEX_DTYPE_F32 2

/** IEEE 754 half. */
#define CORTEX_DTYPE_F16 3

/** The upper half of a single. */
#define CORTEX_DTYPE_BF16 4

/** Signed, 8 bytes. */
#define CORTEX_DTYPE_I64 5

/** Signed, 4 bytes. */
#define CORTEX_DTYPE_I32 6

/** Signed, 2 bytes. */
#define CORTEX_DTYPE_I16 7

/** Signed, 1 byte. */
#define CORTEX_DTYPE_I8 8

/** Unsigned, 8 bytes. */
#define CORTEX_DTYPE_U64 9

/** Unsigned, 4 bytes. */
#define CORTEX_DTYPE_U32 10

/** Unsigned, 2 bytes. */
#define CORTEX_DTYPE_U16 11

/** Unsigned, 1 byte. */
#define CORTEX_DTYPE_U8 12

/** One byte, 0 or 1. */
#define CORTEX_DTYPE_BOOL 13

/** The name of a dtype, "f32" or "bool"; NULL for a number that is none. Lives for ever. */
const char *cortex_dtype_name(uint32_t dtype);

/** Bytes of one element; 0 for a number that is no dtype. */
size_t cortex_dtype_bytes(uint32_t dtype);

/* --------------------------------------------------------------------------
 * Dense data of the caller, lent for the length of a call.
 */

/** A dense tensor in the caller's memory. `data` need not be aligned. */
typedef struct cortex_view {
  /** Element [0, 0, …]. NULL will do for a tensor without elements. */
  const void *data;
  /** One of CORTEX_DTYPE_*. */
  uint32_t dtype;
  /** Number of dimensions, at most 16; 0 for a scalar. */
  uint32_t ndim;
  /** `ndim` dimensions, outermost first, in elements. NULL will do for a scalar. */
  const size_t *shape;
  /**
   * `ndim` distances from one element to the next along a dimension, in elements;
   * they may be 0 or negative. NULL for row-major without gaps.
   */
  const ptrdiff_t *strides;
} cortex_view;

/* --------------------------------------------------------------------------
 * Compressed tensors. A tensor seen as a matrix is W[rows, cols], row-major: `rows` is
 * the first dimension, `cols` the product of the others. All of them may be used from
 * several threads at once.
 */

/** A compressed tensor. */
typedef struct cortex_tensor cortex_tensor;

/**
 * Compresses a dense tensor of any dtype and strides as `spec` says, on all cores.
 * A spec is followed to the letter. NULL stands for the default: auto(error=1%) for
 * float tensors of at least two dimensions and 4096 elements, lossless for all others.
 *
 * CORTEX_INVALID_ARGUMENT: a bad spec (the message names the column), or a value that is
 * not finite under a lossy spec (it names the index).
 */
cortex_status cortex_tensor_compress(const cortex_view *view,
                                     const char *spec,
                                     cortex_tensor **tensor,
                                     cortex_error **err);

/** A second handle on the same tensor: cheap, nothing is copied. Each is freed by itself. */
cortex_status cortex_tensor_clone(const cortex_tensor *tensor,
                                  cortex_tensor **clone,
                                  cortex_error **err);

/** Frees a tensor. NULL is allowed. */
void cortex_tensor_free(cortex_tensor *tensor);

/** The name under which it stands in its archive; NULL if it is from none. */
const char *cortex_tensor_name(const cortex_tensor *tensor);

/**
 * The canonical spec that it was stored with; compressing the same dense tensor with it
 * gives the same bytes.
 */
const char *cortex_tensor_spec(const cortex_tensor *tensor);

/** The element type that it decodes to, one of CORTEX_DTYPE_*. */
uint32_t cortex_tensor_dtype(const cortex_tensor *tensor);

/** Number of dimensions; 0 for a scalar. */
size_t cortex_tensor_ndim(const cortex_tensor *tensor);

/** The cortex_tensor_ndim() dimensions, outermost first, in elements. */
const size_t *cortex_tensor_shape(const cortex_tensor *tensor);

/** Rows as a matrix: the first dimension, 1 for a scalar. */
size_t cortex_tensor_rows(const cortex_tensor *tensor);

/** Columns as a matrix: the product of all dimensions but the first. */
size_t cortex_tensor_cols(const cortex_tensor *tensor);

/** Bytes of the dense tensor: what cortex_tensor_decompress writes. */
uint64_t cortex_tensor_raw_bytes(const cortex_tensor *tensor);

/**
 * Bytes that it takes in an archive, everything counted (codes, scales, masks, padding)
 * but its entry in the index.
 */
uint64_t cortex_tensor_stored_bytes(const cortex_tensor *tensor);

/** Stored bits per element; 0 for a tensor without elements. */
double cortex_tensor_bits_per_weight(const cortex_tensor *tensor);

/**
 * ‖W − Ŵ‖ / ‖W‖ (Frobenius norm), measured when it was compressed. 0 when every bit came
 * back; infinity for an all-zero tensor that did not.
 */
double cortex_tensor_relative_error(const cortex_tensor *tensor);

/** max |w − ŵ|, measured when it was compressed. */
double cortex_tensor_max_abs_error(const cortex_tensor *tensor);

/**
 * Signal to quantisation noise, −20·log10(relative error), in dB; infinity when every
 * bit came back.
 */
double cortex_tensor_sqnr_db(const cortex_tensor *tensor);

/**
 * Decodes the whole tensor to its dtype, row-major, on all cores. `out_bytes` must be
 * cortex_tensor_raw_bytes(); `out` need not be aligned.
 */
cortex_status cortex_tensor_decompress(const cortex_tensor *tensor,
                                       void *out,
                                       size_t out_bytes,
                                       cortex_error **err);

/**
 * Decodes rows `start` to `start + count` to the tensor's dtype, row-major, on all cores.
 * Only the parts of the file that hold them are read. `out_bytes` must be
 * count · cols · cortex_dtype_bytes(dtype); `out` need not be aligned.
 */
cortex_status cortex_tensor_decode_rows(const cortex_tensor *tensor,
                                        size_t start,
                                        size_t count,
                                        void *out,
                                        size_t out_bytes,
                                        cortex_error **err);

/**
 * Decodes rows `start` to `start + count` to f32, whatever the dtype: out[count, cols],
 * row-major. `out_len` must be count · cols.
 */
cortex_status cortex_tensor_decode_rows_f32(const cortex_tensor *tensor,
                                            size_t start,
                                            size_t count,
                                            float *out,
                                            size_t out_len,
                                            cortex_error **err);

/**
 * Activations are rounded where what that adds lies at least 10 dB below the tensor's own
 * stored error.
 */
#define CORTEX_PRECISION_AUTO 0

/** Activations enter as f32: what a product adds is rounding in f32. */
#define CORTEX_PRECISION_EXACT 1

/**
 * Activations are rounded where the form has faster loops for that: to int8 in groups of
 * columns for quantised weights, an error of about -40 dB in the result.
 */
#define CORTEX_PRECISION_FAST 2

/** How a product is computed. Begin with all zeros and set `struct_size`. */
typedef struct cortex_matmul_options {
  /** sizeof(cortex_matmul_options). */
  size_t struct_size;
  /** Threads to use at most; 0 for all cores. The result does not depend on it. */
  size_t threads;
  /**
   * Memory for decoded windows of weights, all threads together, in bytes; 0 for
   * 32 MiB. One window of the smallest size is used even if it needs more.
   */
  size_t scratch_bytes;
  /** How activations enter, one of CORTEX_PRECISION_*. */
  uint32_t precision;
  /** 0. */
  uint32_t reserved;
  /**
   * Where CORTEX_PRECISION_EXACT or CORTEX_PRECISION_FAST is written: whether
   * activations were rounded. May be NULL.
   */
  uint32_t *computed;
} cortex_matmul_options;

/**
 * y = x · Wᵀ, computed on the compressed weights: y[b, rows] = Σ x[b, cols] · W[rows, cols].
 *
 * `x` has any float dtype and strides, its last dimension is cortex_tensor_cols(), and the
 * product of the others is the batch b (1 if there is none). f32 without gaps is used in
 * place, anything else is converted to f32 first. `y` is f32, row-major, and `y_len`
 * must be b · cortex_tensor_rows(). `x` and `y` must not overlap. Sums are in f32.
 * `options` may be NULL.
 */
cortex_status cortex_tensor_matmul(const cortex_tensor *tensor,
                                   const cortex_view *x,
                                   const cortex_matmul_options *options,
                                   float *y,
                                   size_t y_len,
                                   cortex_error **err);

/**
 * y = g · W, the product that gradients need: y[b, cols] = Σ g[b, rows] · W[rows, cols].
 *
 * As cortex_tensor_matmul, but the last dimension of `g` is cortex_tensor_rows() and
 * `y_len` must be b · cortex_tensor_cols().
 */
cortex_status cortex_tensor_matmul_t(const cortex_tensor *tensor,
                                     const cortex_view *g,
                                     const cortex_matmul_options *options,
                                     float *y,
                                     size_t y_len,
                                     cortex_error **err);

/**
 * Reads every stored chunk of the tensor and checks it against its checksum.
 *
 * CORTEX_CORRUPT: a chunk is damaged; the error names the tensor and the offset.
 */
cortex_status cortex_tensor_verify(const cortex_tensor *tensor,
                                   cortex_error **err);

/* --------------------------------------------------------------------------
 * Convolution, computed on the compressed weights W[out, in / groups, width] or
 * W[out, in / groups, height, width], with x[batch, in, width] or x[batch, in, height,
 * width] and y likewise. The kernel is not turned round:
 *
 *     y[b, o, i, j] = Σ W[o, c, u, v] · x[b, first + c, i·s + u·d − top, j·s′ + v·d′ − left]
 *
 * over c, u, v, where x is 0 in the padding and `first` is the first channel of o's group.
 * A 3×3 convolution that keeps the size of its input:
 *
 *     cortex_conv_options options = {0};
 *     options.struct_size = sizeof options;
 *     options.padding_top = options.padding_bottom = 1;
 *     options.padding_left = options.padding_right = 1;
 *     size_t shape[] = {1, in, height, width};
 *     cortex_view x = {x_data, CORTEX_DTYPE_F32, 4, shape, NULL};
 *     cortex_tensor_conv(w, &x, &options, y, out * height * width, &err);
 */

/**
 * How a convolution is computed. Begin with all zeros and set `struct_size`. Weights of
 * three dimensions have no height: what belongs to it stays 0.
 */
typedef struct cortex_conv_options {
  /** sizeof(cortex_conv_options). */
  size_t struct_size;
  /** Samples from one output to the one below it; 0 for 1. */
  size_t stride_height;
  /** Samples from one output to the next; 0 for 1. */
  size_t stride_width;
  /** Rows of zeros above x. */
  size_t padding_top;
  /** Rows of zeros below x. */
  size_t padding_bottom;
  /** Zeros before each row of x. */
  size_t padding_left;
  /** Zeros after each row of x. */
  size_t padding_right;
  /** Samples from one tap to the one below it; 0 for 1. */
  size_t dilation_height;
  /** Samples from one tap to the next; 0 for 1. */
  size_t dilation_width;
  /** Parts of the channels that are convolved apart; 0 for 1. */
  size_t groups;
  /**
   * Threads, memory and precision; NULL for the defaults. The memory is for decoded
   * weights, patches, padded samples and sums alike.
   */
  const cortex_matmul_options *matmul;
} cortex_conv_options;

/**
 * The shape of what cortex_tensor_conv makes of an x of the shape `x_shape`, `x_ndim` sizes:
 * as many are written to `y_shape`. `options` may be NULL.
 *
 * CORTEX_INVALID_ARGUMENT: the shapes do not fit each other, or the kernel is larger than
 * the padded x.
 */
cortex_status cortex_tensor_conv_output_shape(const cortex_tensor *tensor,
                                              const size_t *x_shape,
                                              size_t x_ndim,
                                              const cortex_conv_options *options,
                                              size_t *y_shape,
                                              cortex_error **err);

/**
 * y = W ∗ x, computed on the compressed weights.
 *
 * `x` has any float dtype and strides and the shape [batch, in, width], or [batch, in,
 * height, width] for weights of four dimensions. f32 without gaps is used in place,
 * anything else is converted to f32 first. `y` is f32, row-major, has the shape that
 * cortex_tensor_conv_output_shape tells, and `y_len` values. `x` and `y` must not overlap.
 * Sums are in f32. `options` may be NULL.
 */
cortex_status cortex_tensor_conv(const cortex_tensor *tensor,
                                 const cortex_view *x,
                                 const cortex_conv_options *options,
                                 float *y,
                                 size_t y_len,
                                 cortex_error **err);

/**
 * The gradient of a convolution with respect to x, a transposed convolution: what `g`, of
 * the shape of y, makes of each element of an x of the shape `x_shape`, `x_ndim` sizes.
 *
 * `g` has any float dtype and strides. `x_gradient` is f32, row-major, and has
 * `x_gradient_len` values, as many as `x_shape` says. They must not overlap. `options` may
 * be NULL; precision is always exact.
 */
cortex_status cortex_tensor_conv_t(const cortex_tensor *tensor,
                                   const cortex_view *g,
                                   const size_t *x_shape,
                                   size_t x_ndim,
                                   const cortex_conv_options *options,
                                   float *x_gradient,
                                   size_t x_gradient_len,
                                   cortex_error **err);

/* --------------------------------------------------------------------------
 * Archives: many compressed tensors in one .cai file, read as they are used.
 */

/** An open .cai file. May be used from several threads at once. */
typedef struct cortex_archive cortex_archive;

/**
 * Opens an archive by mapping the file: what is not packed is used in place, and only
 * what is used is read. The file must not be cut or rewritten while it is open; replacing
 * it by rename, as Cortex does, is safe.
 *
 * CORTEX_IO: it cannot be read. CORTEX_CORRUPT: it is no archive, was cut short, or its
 * index is damaged. CORTEX_UNSUPPORTED: a newer major version of the format.
 */
cortex_status cortex_archive_open(const char *path,
                                  cortex_archive **archive,
                                  cortex_error **err);

/**
 * Opens an archive for plain reads: nothing is mapped, every chunk is read and checked
 * each time it is used. For files that somebody may cut short, and network drives.
 */
cortex_status cortex_archive_open_unmapped(const char *path,
                                           cortex_archive **archive,
                                           cortex_error **err);

/** Frees an archive. NULL is allowed; its tensors live on. */
void cortex_archive_free(cortex_archive *archive);

/** Number of tensors; aliases do not count. */
size_t cortex_archive_len(const cortex_archive *archive);

/** Bytes of the whole file. */
uint64_t cortex_archive_file_bytes(const cortex_archive *archive);

/** The name of the tensor at `index`, in the order of the file; NULL past the end. */
const char *cortex_archive_name(const cortex_archive *archive, size_t index);

/**
 * The index of the tensor of this name, or of the one that this alias names; -1 if there
 * is none, and for a NULL name.
 */
ptrdiff_t cortex_archive_find(const cortex_archive *archive, const char *name);

/**
 * Opens the tensor of this name, or the one that this alias names. Its data is read when
 * it is used. The tensor keeps the file open or mapped and may outlive the archive.
 *
 * CORTEX_INVALID_ARGUMENT: there is none of this name. CORTEX_UNSUPPORTED: it is stored in
 * a way that this version does not know.
 */
cortex_status cortex_archive_tensor(const cortex_archive *archive,
                                    const char *name,
                                    cortex_tensor **tensor,
                                    cortex_error **err);

/** Opens the tensor at `index`, in the order of the file; see cortex_archive_tensor. */
cortex_status cortex_archive_tensor_at(const cortex_archive *archive,
                                       size_t index,
                                       cortex_tensor **tensor,
                                       cortex_error **err);

/** Number of aliases: further names of tensors, as of tied weights. */
size_t cortex_archive_alias_len(const cortex_archive *archive);

/** The alias at `index`; NULL past the end. */
const char *cortex_archive_alias(const cortex_archive *archive, size_t index);

/** The name of the tensor that the alias at `index` stands for; NULL past the end. */
const char *cortex_archive_alias_target(const cortex_archive *archive,
                                        size_t index);

/** Number of entries of free text about the model. */
size_t cortex_archive_metadata_len(const cortex_archive *archive);

/** The key of the entry at `index`; NULL past the end. */
const char *cortex_archive_metadata_key(const cortex_archive *archive,
                                        size_t index);

/** The text under `key`; NULL if there is none. */
const char *cortex_archive_metadata(const cortex_archive *archive,
                                    const char *key);

/**
 * What the archive holds, as one JSON object, the same that `cortex inspect --json` prints:
 * sizes, ratio, and for each tensor name, dtype, shape, spec, raw_bytes, stored_bytes,
 * bits_per_weight, relative_error, sqnr_db and max_abs_error. Free it with
 * cortex_string_free.
 */
cortex_status cortex_archive_inspect(const cortex_archive *archive,
                                     char **json,
                                     cortex_error **err);

/**
 * Reads every byte of the file and checks it. The error is the first that was found; where
 * there are more its message says how many.
 *
 * CORTEX_CORRUPT: something is damaged; the error names the tensor and the offset.
 */
cortex_status cortex_archive_verify(const cortex_archive *archive,
                                    cortex_error **err);

/* --------------------------------------------------------------------------
 * Writing an archive, a tensor at a time, in bounded memory. The file appears under its
 * name when it is finished, whole; until then, and for ever if the writer is freed or
 * the program is killed, what stood there stays.
 */

/** A .cai file in the making. */
typedef struct cortex_writer cortex_writer;

/**
 * Starts an archive that will be `path`. Its folder must exist and be writable: the file
 * is written beside its place and renamed.
 */
cortex_status cortex_writer_create(const char *path,
                                   cortex_writer **writer,
                                   cortex_error **err);

/**
 * Writes a tensor under `name`, which no other tensor or alias of this file may have.
 * The tensor may be freed afterwards. After any error but CORTEX_INVALID_ARGUMENT and
 * CORTEX_LIMIT_EXCEEDED the writer can only be freed.
 */
cortex_status cortex_writer_add(cortex_writer *writer,
                                const char *name,
                                const cortex_tensor *tensor,
                                cortex_error **err);

/** Makes `alias` another name of the tensor `target`, which was added before. */
cortex_status cortex_writer_alias(cortex_writer *writer,
                                  const char *alias,
                                  const char *target,
                                  cortex_error **err);

/** Sets free text about the model; a key that is set again has its last value. */
cortex_status cortex_writer_set_metadata(cortex_writer *writer,
                                         const char *key,
                                         const char *value,
                                         cortex_error **err);

/**
 * Completes the file, brings it to the disk and gives it its name. `file_bytes` takes its
 * size and may be NULL. Whatever the status, the writer can then only be freed.
 */
cortex_status cortex_writer_finish(cortex_writer *writer,
                                   uint64_t *file_bytes,
                                   cortex_error **err);

/** Frees a writer; one that was not finished leaves no file behind. NULL is allowed. */
void cortex_writer_free(cortex_writer *writer);

/* --------------------------------------------------------------------------
 * Whole model files, in and out.
 */

/** How far a long call has come. */
typedef struct cortex_progress {
  /** Bytes of this struct in the library that is running. */
  size_t struct_size;
  /** Dense bytes of the tensors that are done. */
  uint64_t done_bytes;
  /** Dense bytes of all tensors. */
  uint64_t total_bytes;
  /** Tensors that are done. */
  uint64_t done_tensors;
  /** All tensors. */
  uint64_t total_tensors;
  /** Name of the tensor at work; valid during the callback. */
  const char *tensor;
} cortex_progress;

/**
 * Told at most every 50 ms, and after each tensor, how far a call has come. Any value but
 * 0 stops the call, which then returns CORTEX_CANCELLED and leaves no file behind. Called
 * from any thread, one call at a time.
 */
typedef int32_t (*cortex_progress_fn)(const cortex_progress *progress,
                                      void *user_data);

/** A spec for some tensors of a model. */
typedef struct cortex_rule {
  /** Regular expression; found anywhere in a tensor's name, unless it has ^ and $. */
  const char *pattern;
  /** Spec for the tensors of such names, followed to the letter. */
  const char *spec;
} cortex_rule;

/** How a model is compressed. Begin with all zeros and set `struct_size`. */
typedef struct cortex_compress_options {
  /** sizeof(cortex_compress_options). */
  size_t struct_size;
  /**
   * For every tensor that no rule names; NULL for auto(error=1%). A lossy one leaves
   * integers, bools, vectors and tensors of under 4096 elements lossless.
   */
  const char *spec;
  /** Regular expression: tensors with such a name stay lossless, rules or not. May be NULL. */
  const char *exclude;
  /** `rules_len` rules, of which the first that matches counts. May be NULL if there are none. */
  const cortex_rule *rules;
  /** Number of rules. */
  size_t rules_len;
  /** Threads, at most 4096; 0 for all cores. The file does not depend on it. */
  size_t threads;
  /** May be NULL. */
  cortex_progress_fn progress;
  /** Passed to `progress`. */
  void *user_data;
  /**
   * File (safetensors, npy, npz) of second moments of the activations, an entry for each
   * tensor by its name: [in] for their diagonal, [in, in] for all. May be NULL.
   */
  const char *calibration;
  /** Not 0: the report lists for each tensor what was measured and why it was taken or not. */
  size_t explain;
} cortex_compress_options;

/** How a model is decompressed. Begin with all zeros and set `struct_size`. */
typedef struct cortex_decompress_options {
  /** sizeof(cortex_decompress_options). */
  size_t struct_size;
  /** Threads, at most 4096; 0 for all cores. */
  size_t threads;
  /** May be NULL. */
  cortex_progress_fn progress;
  /** Passed to `progress`. */
  void *user_data;
} cortex_decompress_options;

/**
 * Compresses the model at `input` (safetensors, a sharded one's index.json, npy, npz; found
 * by content) into the archive `output`, holding one tensor in memory at a time. The file
 * appears when it is complete; what stood there is replaced then.
 *
 * `options` may be NULL. `report` takes one JSON object, the same that
 * `cortex compress --json` prints, and may be NULL; free it with cortex_string_free.
 *
 * CORTEX_INVALID_ARGUMENT: a bad spec or pattern, `output` is an input, or a value that is
 * not finite under a lossy spec. CORTEX_CORRUPT, CORTEX_LIMIT_EXCEEDED: the model is damaged.
 * CORTEX_IO: reading or writing failed. CORTEX_CANCELLED: the callback said so.
 */
cortex_status cortex_compress_file(const char *input,
                                   const char *output,
                                   const cortex_compress_options *options,
                                   char **report,
                                   cortex_error **err);

/**
 * Decodes every tensor of the archive `input` into the safetensors file `output`, under its
 * name and in its dtype, in bounded memory. The file appears when it is complete.
 *
 * `options` may be NULL. `file_bytes` takes the size of the file and may be NULL.
 * CORTEX_CORRUPT: the archive is damaged; the error names the tensor and the offset.
 */
cortex_status cortex_decompress_file(const char *input,
                                     const char *output,
                                     const cortex_decompress_options *options,
                                     uint64_t *file_bytes,
                                     cortex_error **err);

/* --------------------------------------------------------------------------
 * Specs: what there is, and what a text means.
 */

/**
 * Every name that a spec may hold, as JSON: {"directives": […], "forms": […], "packs": […]},
 * each entry with "name", "summary" and "options", each option with "key", "values", "default"
 * and "doc". Never NULL; lives for ever.
 */
const char *cortex_codecs_json(void);

/**
 * Checks a spec and gives it in canonical form: options in a fixed order, defaults left
 * out. Two specs that mean the same have the same canonical form. Free `canonical` with
 * cortex_string_free.
 *
 * CORTEX_INVALID_ARGUMENT: the message names the column, what stood there and what was
 * expected.
 */
cortex_status cortex_spec_parse(const char *spec,
                                char **canonical,
                                cortex_error **err);

/** Frees a text that came out through `char **`. NULL is allowed. */
void cortex_string_free(char *string);

/* --------------------------------------------------------------------------
 * Sparse distributed representations: sets of a few active bits among many, whose shared
 * bits say how alike two things are. An index keeps sets under numbers and finds those
 * that share most bits with one asked for.
 */

/** Sets under numbers, searched by the bits that they share. */
typedef struct cortex_sdr_index cortex_sdr_index;

/** A stored set and how many active bits it shares with the one asked for. */
typedef struct cortex_sdr_match {
  /** The number it was added under. */
  uint64_t id;
  /** Shared active bits, at least one. */
  uint64_t overlap;
} cortex_sdr_match;

/** An empty index of sets of `bits` bits each, 1 to 1048576. */
cortex_status cortex_sdr_index_create(size_t bits,
                                      cortex_sdr_index **index,
                                      cortex_error **err);

/**
 * Reads an index that cortex_sdr_index_save wrote, and checks it. Nothing of the file is
 * used afterwards.
 *
 * CORTEX_IO: it cannot be read. CORTEX_CORRUPT: it is no index, was cut short, or is
 * damaged. CORTEX_LIMIT_EXCEEDED: it would take far more memory than the file has bytes.
 * CORTEX_UNSUPPORTED: a newer version.
 */
cortex_status cortex_sdr_index_load(const char *path,
                                    cortex_sdr_index **index,
                                    cortex_error **err);

/**
 * Writes the index to a file, the same bytes for the same sets in whatever order they
 * came. The file appears when it is complete; what stood there is replaced then.
 */
cortex_status cortex_sdr_index_save(const cortex_sdr_index *index,
                                    const char *path,
                                    cortex_error **err);

/** Frees an index. NULL is allowed. */
void cortex_sdr_index_free(cortex_sdr_index *index);

/** Bits of every set, active or not. */
size_t cortex_sdr_index_bits(const cortex_sdr_index *index);

/** Number of stored sets. */
size_t cortex_sdr_index_len(const cortex_sdr_index *index);

/** Bytes of memory that the sets and what finds them take, without what the allocator adds. */
uint64_t cortex_sdr_index_memory_bytes(const cortex_sdr_index *index);

/**
 * Stores the set of the `active_len` active bits `active`, in any order, under `id`.
 *
 * CORTEX_INVALID_ARGUMENT: a bit is not below cortex_sdr_index_bits() or is given twice,
 * or the number is in use.
 */
cortex_status cortex_sdr_index_add(cortex_sdr_index *index,
                                   uint64_t id,
                                   const uint32_t *active,
                                   size_t active_len,
                                   cortex_error **err);

/**
 * The active bits of the set stored under `id`, in increasing order. `active_len` takes
 * how many there are; `active` has room for `active_cap`, which must be enough. With NULL
 * for `active`, and 0 for `active_cap`, they are only counted.
 *
 * CORTEX_INVALID_ARGUMENT: nothing is stored under `id`.
 */
cortex_status cortex_sdr_index_get(const cortex_sdr_index *index,
                                   uint64_t id,
                                   uint32_t *active,
                                   size_t active_cap,
                                   size_t *active_len,
                                   cortex_error **err);

/**
 * Removes the set stored under `id`, if there is one. `removed` takes 1 if there was and 0
 * if not, and may be NULL.
 */
cortex_status cortex_sdr_index_remove(cortex_sdr_index *index,
                                      uint64_t id,
                                      int32_t *removed,
                                      cortex_error **err);

/**
 * The `k` stored sets that share most active bits with the set `active`, largest overlap
 * first, the smaller number first among equals; exact, and without those that share none.
 * `matches` has room for `k`; `matches_len` takes how many there are. `active` is as in
 * cortex_sdr_index_add.
 */
cortex_status cortex_sdr_index_top_k(const cortex_sdr_index *index,
                                     const uint32_t *active,
                                     size_t active_len,
                                     size_t k,
                                     cortex_sdr_match *matches,
                                     size_t *matches_len,
                                     cortex_error **err);

#ifdef __cplusplus
}
#endif

#endif /* CORTEX_H */
