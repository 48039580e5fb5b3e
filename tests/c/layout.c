/* The frozen numbers and layouts of ABI 1. A line here may be added, never changed. */

#include <cortex.h>
#include <cortex.h> /* twice does no harm */

#include <string.h>

#define SAME(a, b) _Static_assert((a) == (b), #a " is " #b)
#define FIELD(type, field, offset) SAME(offsetof(type, field), offset)

SAME(CORTEX_ABI_VERSION, 1);

SAME(CORTEX_OK, 0);
SAME(CORTEX_INVALID_ARGUMENT, 10);
SAME(CORTEX_UNSUPPORTED, 20);
SAME(CORTEX_CORRUPT, 30);
SAME(CORTEX_LIMIT_EXCEEDED, 40);
SAME(CORTEX_IO, 50);
SAME(CORTEX_OUT_OF_MEMORY, 60);
SAME(CORTEX_CANCELLED, 70);
SAME(CORTEX_INTERNAL, 90);

SAME(CORTEX_DTYPE_F64, 1);
SAME(CORTEX_DTYPE_F32, 2);
SAME(CORTEX_DTYPE_F16, 3);
SAME(CORTEX_DTYPE_BF16, 4);
SAME(CORTEX_DTYPE_I64, 5);
SAME(CORTEX_DTYPE_I32, 6);
SAME(CORTEX_DTYPE_I16, 7);
SAME(CORTEX_DTYPE_I8, 8);
SAME(CORTEX_DTYPE_U64, 9);
SAME(CORTEX_DTYPE_U32, 10);
SAME(CORTEX_DTYPE_U16, 11);
SAME(CORTEX_DTYPE_U8, 12);
SAME(CORTEX_DTYPE_BOOL, 13);

SAME(CORTEX_PRECISION_AUTO, 0);
SAME(CORTEX_PRECISION_EXACT, 1);
SAME(CORTEX_PRECISION_FAST, 2);

SAME(sizeof(cortex_status), 4);
SAME(sizeof(cortex_sdr_match), 16);
FIELD(cortex_sdr_match, id, 0);
FIELD(cortex_sdr_match, overlap, 8);

#if UINTPTR_MAX == 0xffffffffffffffffu
SAME(sizeof(cortex_view), 32);
FIELD(cortex_view, data, 0);
FIELD(cortex_view, dtype, 8);
FIELD(cortex_view, ndim, 12);
FIELD(cortex_view, shape, 16);
FIELD(cortex_view, strides, 24);

/* Structs with a struct_size may grow: their old fields stay. */
FIELD(cortex_matmul_options, struct_size, 0);
FIELD(cortex_matmul_options, threads, 8);
FIELD(cortex_matmul_options, scratch_bytes, 16);
FIELD(cortex_matmul_options, precision, 24);
FIELD(cortex_matmul_options, reserved, 28);
FIELD(cortex_matmul_options, computed, 32);

FIELD(cortex_conv_options, struct_size, 0);
FIELD(cortex_conv_options, stride_height, 8);
FIELD(cortex_conv_options, stride_width, 16);
FIELD(cortex_conv_options, padding_top, 24);
FIELD(cortex_conv_options, padding_bottom, 32);
FIELD(cortex_conv_options, padding_left, 40);
FIELD(cortex_conv_options, padding_right, 48);
FIELD(cortex_conv_options, dilation_height, 56);
FIELD(cortex_conv_options, dilation_width, 64);
FIELD(cortex_conv_options, groups, 72);
FIELD(cortex_conv_options, matmul, 80);

FIELD(cortex_progress, struct_size, 0);
FIELD(cortex_progress, done_bytes, 8);
FIELD(cortex_progress, total_bytes, 16);
FIELD(cortex_progress, done_tensors, 24);
FIELD(cortex_progress, total_tensors, 32);
FIELD(cortex_progress, tensor, 40);

SAME(sizeof(cortex_rule), 16);
FIELD(cortex_rule, pattern, 0);
FIELD(cortex_rule, spec, 8);

FIELD(cortex_compress_options, struct_size, 0);
FIELD(cortex_compress_options, spec, 8);
FIELD(cortex_compress_options, exclude, 16);
FIELD(cortex_compress_options, rules, 24);
FIELD(cortex_compress_options, rules_len, 32);
FIELD(cortex_compress_options, threads, 40);
FIELD(cortex_compress_options, progress, 48);
FIELD(cortex_compress_options, user_data, 56);
FIELD(cortex_compress_options, calibration, 64);
FIELD(cortex_compress_options, explain, 72);

FIELD(cortex_decompress_options, struct_size, 0);
FIELD(cortex_decompress_options, threads, 8);
FIELD(cortex_decompress_options, progress, 16);
FIELD(cortex_decompress_options, user_data, 24);
#endif

int main(void) {
  return strcmp(cortex_version(), CORTEX_VERSION_STRING) != 0 ||
         cortex_abi_version() != CORTEX_ABI_VERSION;
}
