//! The specs that the suites run.

use cortex::form;

/// Specs besides the bare name of every codec in the registry: a new form is tested
/// without writing a test.
const SPECS: &[&str] = &[
    "dense",
    "dense(type=f16)",
    "dense(type=bf16)",
    "int8",
    "int8(group=row)",
    "int8(group=tensor, zero=asymmetric)",
    "int4",
    "int4(group=128, search=lsq)",
    "int4(zero=asymmetric, search=lsq)",
    "q(bits=2)",
    "q(bits=3, group=64)",
    "q(bits=5, zero=asymmetric)",
    "q(bits=6, group=tensor, search=lsq)",
    "q(bits=7, group=row, search=lsq)",
    "mask",
    "mask(keep=10%)",
    "mask(threshold=0.02)",
    "mask(values=[int8])",
    "int4(search=gptq)",
    "mask(keep=20%, score=wanda)",
    "mask(positions=coded)",
    "mask(keep=25%, values=[mask(values=[int4(group=64)])])",
    "sdr",
    "sdr(keep=5%)",
    "sdr(keep=10%, values=sign)",
    "sdr(values=sign)",
    "sdr(threshold=0.02, values=int8)",
    "sdr(values=[int4(group=64)])",
    "sdr(keep=50%, values=[dense(type=bf16)])",
    "sdr(values=[dense | shuffle | lz4]) | zstd",
    "ecq",
    "ecq(bits=2.5)",
    "ecq(error=5%)",
    "ecq(bits=3, trellis=8)",
    "fft",
    "fft2(keep=20%)",
    "dct(error=5%)",
    "dct2(keep=30%, values=[f16])",
    "dct2(keep=auto(error=10%), block=16x16, values=[int8])",
    "fft(keep=25%, block=32, values=[f16])",
    "tucker(ranks=auto)",
    "tucker(error=10%, factors=[int8])",
    "tucker(params=40%)",
    "tucker(ranks=3x2x2, core=[int8])",
    "cp(rank=4)",
    "cp(error=20%, factors=[f16])",
    "outliers(keep=0.5%) + q(bits=3)",
    "outliers(values=f16) + int4(group=row)",
    "svd(rank=4)",
    "svd(error=10%)",
    "svd(energy=90%, factors=[f16])",
    "svd(params=40%, factors=[int8])",
    "svd(rank=2) + int4 | zstd",
    "tt(rank=8)",
    "tt(error=10%)",
    "tt(rank=6, order=interleaved, factors=[int8(group=row)])",
    "int4 + int4",
    // Three deep.
    "mask(values=[sdr(values=[ecq(bits=5)])])",
    "sdr(keep=60%, values=[mask(keep=80%, values=[int8 | rans])]) + int4 | rans",
    "mask(keep=5%) + q(bits=3, group=128) | zstd",
    "int4(group=row) + mask(keep=2%, values=[f16]) + q(bits=2)",
];

/// Every spec once.
pub fn specs() -> impl Iterator<Item = String> {
    let codecs = form::REGISTRY.iter().flat_map(|d| d.codecs).map(|c| c.name);
    let new = codecs.filter(|c| !SPECS.contains(c));
    SPECS.iter().copied().chain(new).map(str::to_owned)
}
