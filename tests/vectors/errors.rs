//! `errors.json`: calls that are refused, by the Rust API and by the C ABI, whose messages
//! differ where their arguments do.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use cortex::archive::Archive;
use cortex::sdr::{Index, Sdr};
use cortex::{Error, MatmulOptions, Tensor};
use serde_json::{Value, json};

use super::common::cai;
use super::compress;
use super::frozen::{self, base64, bytes_of, dtype_of, number_of, sizes_of, text_of};

/// Holds an error against `{kind, contains}`.
pub fn assert_says(error: &Error, expected: &Value, what: &str) {
    assert_message(error.kind().name(), &error.to_string(), expected, what);
}

fn assert_message(kind: &str, message: &str, expected: &Value, what: &str) {
    assert_eq!(kind, text_of(expected, "kind"), "{what}: {message}");
    for text in expected["contains"].as_array().unwrap() {
        let text = text.as_str().unwrap();
        assert!(message.contains(text), "{what}: no '{text}' in '{message}'");
    }
}

fn f32s(values: &[f32]) -> String {
    super::floats_base64(values)
}

/// A whole archive of one small tensor, written by hand from `docs/format.md`.
fn archive() -> Vec<u8> {
    let mut body = cai::Body::new();
    let data: Vec<u8> = (0..24).collect();
    let buffer = body.raw(&data, 4);
    let index = json!({
        "generator": "by hand",
        "metadata": {},
        "tensors": [{
            "name": "w",
            "dtype": "f32",
            "shape": [2, 3],
            "spec": "dense",
            "error": {"relative": 0.0, "max_abs": 0.0},
            "form": {"kind": "dense", "params": {}, "parts": [{"name": "data", "buffer": buffer}]},
        }],
        "aliases": [],
    });
    cai::join(&body.bytes, index.to_string().as_bytes())
}

pub fn cases() -> Vec<Value> {
    let mut all = Vec::new();
    let mut add = |name: &str, call: &str, arguments: Value, kind: &str, contains: &[&str]| {
        let mut case = json!({"name": name, "call": call});
        let members = case.as_object_mut().unwrap();
        members.extend(arguments.as_object().unwrap().clone());
        members.insert("error".into(), json!({"kind": kind, "contains": contains}));
        all.push(case);
    };
    const BAD: &str = "invalid_argument";

    let dense = |dtype: &str, shape: &[usize], data: String, spec: &str| json!({"dtype": dtype, "shape": shape, "data": data, "spec": spec});
    let six = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let with = |at: usize, value: f32| {
        let mut values = six;
        values[at] = value;
        f32s(&values)
    };
    let good = |spec: &str| dense("f32", &[2, 3], f32s(&six), spec);
    for (name, spec, contains) in [
        (
            "a spec of no known form",
            "int9",
            &["column 1", "unknown form 'int9'", "int8"][..],
        ),
        (
            "a spec that ends early",
            "int8(group=",
            &["column 12", "expected a value"],
        ),
        (
            "a pack where a form belongs",
            "zstd",
            &["column 1", "'zstd'"],
        ),
        (
            "a value out of range",
            "q(bits=9)",
            &["column 3", "from 2 to 8"],
        ),
        ("an empty spec", "", &["column 1", "the name of a form"]),
    ] {
        add(name, "compress", good(spec), BAD, contains);
    }
    for (value, text) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        for spec in [
            "int8",
            "ecq",
            "mask(keep=50%)",
            "dct2",
            "svd(rank=1)",
            "int4 + int4",
        ] {
            let name = format!("{text} under {spec}");
            add(
                &name,
                "compress",
                dense("f32", &[2, 3], with(4, value), spec),
                BAD,
                &["4", text],
            );
        }
    }
    add(
        "integers under a lossy form",
        "compress",
        dense("i32", &[2], base64(&[1, 0, 0, 0, 2, 0, 0, 0]), "int8"),
        BAD,
        &["int8 takes floats", "i32"],
    );
    add(
        "bools rounded to halves",
        "compress",
        dense("bool", &[3], base64(&[1, 0, 1]), "dense(type=f16)"),
        BAD,
        &["rounds floats", "bool"],
    );
    add(
        "a shape that asks for too much",
        "compress",
        dense("f32", &[0, 1 << 50], String::new(), "dense"),
        "limit_exceeded",
        &["2^46 bytes"],
    );
    add(
        "more specs inside each other than there may be",
        "compress",
        good(&format!(
            "{}dense{}",
            "mask(values=[".repeat(8),
            "])".repeat(8)
        )),
        "limit_exceeded",
        &["inside each other"],
    );

    let wide = |x_shape: &[usize]| {
        let mut case = dense("f32", &[2, 37], f32s(&[0.5; 74]), "int8");
        case["x_shape"] = json!(x_shape);
        case
    };
    add(
        "x has a column too few",
        "matmul",
        wide(&[1, 36]),
        BAD,
        &["37"],
    );
    add(
        "x has a column too many",
        "matmul",
        wide(&[3, 38]),
        BAD,
        &["37"],
    );
    add("x is a row too short", "matmul", wide(&[36]), BAD, &["37"]);

    let window = |start: usize, count: usize| {
        let mut case = dense("f32", &[5, 2], f32s(&[1.0; 10]), "dense");
        case["start"] = json!(start);
        case["count"] = json!(count);
        case
    };
    add(
        "rows past the end",
        "decode_rows",
        window(3, 4),
        BAD,
        &["5 rows"],
    );
    add(
        "rows from past the end",
        "decode_rows",
        window(6, 0),
        BAD,
        &["5 rows"],
    );

    let whole = archive();
    let file = |bytes: &[u8]| json!({"file": base64(bytes)});
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        file(&bytes)
    };
    let n = whole.len();
    add(
        "an empty file",
        "open",
        file(&[]),
        "corrupt",
        &["the file is empty"],
    );
    add(
        "another kind of file",
        "open",
        file(b"PK\x03\x04 not at all"),
        "corrupt",
        &["not a .cai archive"],
    );
    add(
        "a header alone",
        "open",
        file(&whole[..64]),
        "corrupt",
        &["cut short"],
    );
    add(
        "a file without its last byte",
        "open",
        file(&whole[..n - 1]),
        "corrupt",
        &["the end of the file is missing"],
    );
    add(
        "a damaged header",
        "open",
        changed(20, &[1]),
        "corrupt",
        &["the header is damaged", "byte 0"],
    );
    add(
        "a damaged footer",
        "open",
        changed(n - 60, &[9]),
        "corrupt",
        &["the footer is damaged"],
    );
    add(
        "a damaged index",
        "open",
        changed(n - 80, b"!"),
        "corrupt",
        &["the index is damaged"],
    );
    let mut newer = whole.clone();
    newer[8] = 2;
    cai::seal(&mut newer[..64], 60);
    add(
        "a newer major version",
        "open",
        file(&newer),
        "unsupported",
        &["format version 2.0"],
    );
    let (body, mut index, _) = cai::split(&whole);
    index["tensors"][0]["form"]["parts"][0]["buffer"]["chunks"][0][0] = json!(1u64 << 40);
    let lying = cai::join(&body, index.to_string().as_bytes());
    add(
        "a chunk outside the file",
        "open",
        file(&lying),
        "corrupt",
        &["tensor 'w'", "outside the data"],
    );

    let stored = |tensor: &str| json!({"file": "refused-newer.cai", "tensor": tensor});
    for (tensor, contains) in [
        ("form", &["tensor 'form'", "the form 'wavelet'"][..]),
        (
            "nested form",
            &["tensor 'nested form'", "the form 'wavelet'"],
        ),
        ("pack", &["tensor 'pack'", "'brotli'"]),
        ("dtype", &["tensor 'dtype'", "the dtype 'f8'"]),
    ] {
        add(
            &format!("a newer {tensor}"),
            "tensor",
            stored(tensor),
            "unsupported",
            contains,
        );
    }
    add(
        "no such tensor",
        "tensor",
        stored("knowm"),
        BAD,
        &["no tensor 'knowm'", "did you mean 'known'"],
    );

    let sets = |bits: usize, active: &[u32]| json!({"bits": bits, "active": active});
    add(
        "a bit that is not in the set",
        "sdr_add",
        sets(100, &[3, 100]),
        BAD,
        &["100"],
    );
    add(
        "a bit that is given twice",
        "sdr_add",
        sets(100, &[7, 3, 7]),
        BAD,
        &["twice"],
    );
    all
}

pub fn run(cases: &[Value]) {
    for case in cases {
        let what = text_of(case, "name");
        let error = in_rust(case).err();
        let error = error.unwrap_or_else(|| panic!("{what}: not refused"));
        assert_says(&error, &case["error"], what);
        let (kind, message) = in_c(case);
        assert_message(&kind, &message, &case["error"], &format!("in C, {what}"));
    }
}

fn with_file<T>(bytes: &[u8], use_it: impl FnOnce(&Path) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.cai");
    std::fs::write(&path, bytes).unwrap();
    use_it(&path)
}

fn golden(case: &Value) -> std::path::PathBuf {
    frozen::folder("golden/v1").join(text_of(case, "file"))
}

fn in_rust(case: &Value) -> cortex::Result<()> {
    match text_of(case, "call") {
        "compress" => compress(case).map(drop),
        "matmul" => {
            let (tensor, shape) = (compress(case)?, sizes_of(case, "x_shape"));
            let batch = shape[..shape.len() - 1].iter().product();
            let x = vec![0.0; shape.iter().product()];
            let mut y = vec![0.0; batch * tensor.rows()];
            tensor
                .matmul(&x, batch, &mut y, &MatmulOptions::default())
                .map(drop)
        }
        "decode_rows" => {
            let (tensor, start) = (compress(case)?, number_of(case, "start"));
            let count = number_of(case, "count");
            let mut out = vec![0u8; count * tensor.cols() * tensor.dtype().size()];
            tensor.decode_rows(start..start + count, &mut out)
        }
        "open" => with_file(&bytes_of(case, "file"), |path| {
            Archive::open(path).map(drop)
        }),
        "tensor" => Archive::open(&golden(case))?
            .tensor(text_of(case, "tensor"))
            .map(drop),
        "sdr_add" => {
            let bits = number_of(case, "bits");
            let active = sizes_of(case, "active")
                .into_iter()
                .map(|b| b as u32)
                .collect();
            Index::new(bits)?.add(1, &Sdr::new(bits, active)?)
        }
        other => panic!("call {other}"),
    }
}

/// `cortex_view`.
#[repr(C)]
struct CView {
    data: *const c_void,
    dtype: u32,
    ndim: u32,
    shape: *const usize,
    strides: *const isize,
}

type Handle = *mut c_void;

// As `include/cortex.h` declares them.
unsafe extern "C" {
    fn cortex_tensor_compress(
        view: *const CView,
        spec: *const c_char,
        tensor: *mut Handle,
        err: *mut Handle,
    ) -> i32;
    fn cortex_tensor_matmul(
        tensor: Handle,
        x: *const CView,
        options: *const c_void,
        y: *mut f32,
        y_len: usize,
        err: *mut Handle,
    ) -> i32;
    fn cortex_tensor_decode_rows(
        tensor: Handle,
        start: usize,
        count: usize,
        out: *mut c_void,
        out_bytes: usize,
        err: *mut Handle,
    ) -> i32;
    fn cortex_tensor_free(tensor: Handle);
    fn cortex_archive_open(path: *const c_char, archive: *mut Handle, err: *mut Handle) -> i32;
    fn cortex_archive_tensor(
        archive: Handle,
        name: *const c_char,
        tensor: *mut Handle,
        err: *mut Handle,
    ) -> i32;
    fn cortex_archive_free(archive: Handle);
    fn cortex_sdr_index_create(bits: usize, index: *mut Handle, err: *mut Handle) -> i32;
    fn cortex_sdr_index_add(
        index: Handle,
        id: u64,
        active: *const u32,
        active_len: usize,
        err: *mut Handle,
    ) -> i32;
    fn cortex_sdr_index_free(index: Handle);
    fn cortex_error_kind_name(error: Handle) -> *const c_char;
    fn cortex_error_message(error: Handle) -> *const c_char;
    fn cortex_error_free(error: Handle);
}

fn view(dtype: u32, shape: &[usize], data: *const c_void) -> CView {
    CView {
        data,
        dtype,
        ndim: shape.len() as u32,
        shape: shape.as_ptr(),
        strides: null(),
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// Kind and message of the error that the call gives in C.
fn in_c(case: &Value) -> (String, String) {
    let (mut object, mut err): (Handle, Handle) = (null_mut(), null_mut());
    let call = text_of(case, "call");
    // SAFETY: all pointers are to values that outlive the calls, with the lengths given; each
    // handle is freed once, by the function of its kind, after its last use.
    unsafe {
        match call {
            "compress" | "matmul" | "decode_rows" => {
                let (shape, data) = (sizes_of(case, "shape"), bytes_of(case, "data"));
                let dense = view(dtype_of(case, "dtype") as u32, &shape, data.as_ptr().cast());
                let spec = CString::new(text_of(case, "spec")).unwrap();
                let mut status =
                    cortex_tensor_compress(&dense, spec.as_ptr(), &mut object, &mut err);
                if call == "matmul" {
                    assert_eq!(status, 0);
                    let x_shape = sizes_of(case, "x_shape");
                    let x = vec![0.0f32; x_shape.iter().product()];
                    let x = view(cortex::DType::F32 as u32, &x_shape, x.as_ptr().cast());
                    let batch: usize = x_shape[..x_shape.len() - 1].iter().product();
                    let mut y = vec![0.0f32; batch * shape[0]];
                    status =
                        cortex_tensor_matmul(object, &x, null(), y.as_mut_ptr(), y.len(), &mut err);
                } else if call == "decode_rows" {
                    assert_eq!(status, 0);
                    let (start, count) = (number_of(case, "start"), number_of(case, "count"));
                    let mut out = vec![0u8; count * data.len() / shape[0]];
                    let to = out.as_mut_ptr().cast();
                    status =
                        cortex_tensor_decode_rows(object, start, count, to, out.len(), &mut err);
                }
                assert_ne!(status, 0);
                cortex_tensor_free(object);
            }
            "open" => with_file(&bytes_of(case, "file"), |path| {
                let path = c_path(path);
                assert_ne!(cortex_archive_open(path.as_ptr(), &mut object, &mut err), 0);
            }),
            "tensor" => {
                let (path, name) = (
                    c_path(&golden(case)),
                    CString::new(text_of(case, "tensor")).unwrap(),
                );
                assert_eq!(cortex_archive_open(path.as_ptr(), &mut object, &mut err), 0);
                let mut tensor = null_mut();
                assert_ne!(
                    cortex_archive_tensor(object, name.as_ptr(), &mut tensor, &mut err),
                    0
                );
                cortex_archive_free(object);
            }
            "sdr_add" => {
                let active: Vec<u32> = sizes_of(case, "active")
                    .into_iter()
                    .map(|b| b as u32)
                    .collect();
                assert_eq!(
                    cortex_sdr_index_create(number_of(case, "bits"), &mut object, &mut err),
                    0
                );
                assert_ne!(
                    cortex_sdr_index_add(object, 1, active.as_ptr(), active.len(), &mut err),
                    0
                );
                cortex_sdr_index_free(object);
            }
            other => panic!("call {other}"),
        }
        let text = |p: *const c_char| CStr::from_ptr(p).to_str().unwrap().to_owned();
        let found = (
            text(cortex_error_kind_name(err)),
            text(cortex_error_message(err)),
        );
        cortex_error_free(err);
        found
    }
}

/// Keeps the library's symbols in the link, whatever of its Rust API is used.
#[allow(dead_code)]
const LINKED: fn(&cortex::View<'_>, &str) -> cortex::Result<Tensor> = Tensor::compress;
