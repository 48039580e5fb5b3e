// Cortex keeps neural-network tensors compressed and computes on them without unpacking them.
// This is its C++ interface: C++17, headers only, on top of cortex.h, which it declares too.
//
// Multiply by a weight of an archive, on the compressed weight, in place in the mapped file:
//
//     cortex::Archive model = cortex::Archive::open("model.cai");
//     cortex::Tensor w = model.tensor("layer.0.weight");
//     std::vector<float> x(w.cols());                 // x[in]
//     std::vector<float> y = w.matmul(x);             // y[out] = W · x
//
// Again and again, in memory of your own, a batch at a time:
//
//     std::vector<float> xs(8 * w.cols()), ys(8 * w.rows());
//     cortex::MatmulOptions options;
//     options.threads = 1;
//     w.matmul(cortex::View(xs, {8, w.cols()}), ys, options);
//
// Compress a whole model file, or one tensor, and write an archive of your own:
//
//     cortex::compress_file("model.safetensors", "model.cai");
//
//     cortex::Tensor t = cortex::Tensor::compress(cortex::View(data, {64, 256}), "int4(group=64)");
//     cortex::Writer writer = cortex::Writer::create("mine.cai");
//     writer.add("layer.0.weight", t);
//     writer.finish();
//
// What holds for every class and function:
//
// * Specs. One text says how a tensor is stored: "int8", "int4(group=32, search=lsq)",
//   "mask(keep=10%) | zstd", "lossless", "auto(error=1%)". codecs_json() lists all of them.
// * Errors. What fails throws cortex::Error, which has a kind() to branch on and a message for
//   people. Each such function has a `try_` form that returns a cortex::Result instead; with
//   -fno-exceptions, use those: the others end the program where they would throw. Only memory
//   for a few bytes that cannot be had is std::bad_alloc in either form. Outputs are untouched
//   unless the call succeeds; only a data buffer may hold part of a result when a damaged file
//   is found on the way.
// * Ownership. Objects are moved, never copied, and free what they hold. They may be destroyed
//   in any order: a tensor keeps its archive's file open or mapped. Views and spans only borrow.
// * Threads. Const functions may be called from several threads at once, all others need
//   exclusive access. An object may be made in one thread and destroyed in another.
// * Text is UTF-8, paths too; one that holds a NUL is refused.
// * Sizes that end in `bytes` count bytes, all others elements. Tensors are row-major.
//
// handle() of each class gives its object of the C interface.

#ifndef CORTEX_HPP
#define CORTEX_HPP

#include <cortex.h>

#include <cortex/archive.hpp>
#include <cortex/codecs.hpp>
#include <cortex/compress.hpp>
#include <cortex/conv.hpp>
#include <cortex/dtype.hpp>
#include <cortex/error.hpp>
#include <cortex/matmul.hpp>
#include <cortex/sdr.hpp>
#include <cortex/tensor.hpp>
#include <cortex/version.hpp>
#include <cortex/view.hpp>
#include <cortex/writer.hpp>

#endif
