/**
 * Compressed neural-network tensors that are multiplied without being unpacked.
 *
 * <p>A {@link io.cortex.Tensor} comes from an {@link io.cortex.Archive} (a {@code .cai} file) or
 * from {@link io.cortex.Tensor#compress}; a {@link io.cortex.Writer} makes archives, {@link
 * io.cortex.Cortex} compresses whole model files, an {@link io.cortex.SdrIndex} finds sets of bits
 * that are alike.
 *
 * <pre>{@code
 * try (Archive model = Archive.open(Path.of("model.cai"));
 *     Tensor w = model.tensor("layer.0.weight")) {
 *   float[] y = w.matmul(x); // y[b, rows] = x[b, cols] · Wᵀ
 * }
 * }</pre>
 *
 * <p>What holds for every class:
 *
 * <ul>
 *   <li><b>Specs.</b> One text says how a tensor is stored: {@code "int8"}, {@code "int4(group=32,
 *       search=lsq)"}, {@code "mask(keep=10%) | zstd"}, {@code "lossless"}, {@code
 *       "auto(error=1%)"}. {@link io.cortex.Cortex#codecs()} lists every name and option.
 *   <li><b>Errors.</b> Whatever the library refuses or fails at is a {@link
 *       io.cortex.CortexException}, whose {@link io.cortex.CortexException#kind() kind} is for
 *       programs and whose message is for people. A null argument is a {@link
 *       java.lang.NullPointerException}, unless its documentation says what null stands for.
 *   <li><b>Closing.</b> Tensors, archives, writers and indices hold memory or files outside the
 *       Java heap. Close them; what is forgotten is closed some time after it became unreachable.
 *       They may be closed in any order, twice, and by any thread: a call that is running in another
 *       one ends as it would have, later ones throw {@link
 *       io.cortex.ErrorKind#INVALID_ARGUMENT}.
 *   <li><b>Threads.</b> Every object may be used from several threads at once. Changes of a writer
 *       or an index wait for each other.
 *   <li><b>Buffers.</b> The elements from a buffer's position to its limit are used; neither is
 *       moved. A direct buffer is used in place and must not be written to, or used at all if it
 *       takes the result, by anybody else during the call. Arrays, and buffers that are not direct,
 *       are copied. The byte order must be the machine's own ({@link
 *       java.nio.ByteOrder#nativeOrder()}), which is not what a new {@link java.nio.ByteBuffer}
 *       has.
 *   <li><b>Results.</b> Only a buffer that was large enough may hold part of a result when a call
 *       fails because a file is damaged or unreadable.
 *   <li><b>Units.</b> Names that end in {@code Bytes} count bytes. Tensors are row-major; a tensor
 *       [d0, d1, …] is the matrix of d0 rows and d1·d2·… columns, a vector [n] the matrix [n, 1], a
 *       scalar [1, 1]. A buffer holds less than 2 GiB: decode larger tensors in windows of rows.
 * </ul>
 */
package io.cortex;
