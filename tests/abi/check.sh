#!/bin/sh
# The C ABI is what it is said to be:
#   1. include/cortex.h is what `cargo xtask header` makes;
#   2. the shared library exports exactly the functions of tests/abi/symbols.txt;
#   3. its SONAME has the number of CORTEX_ABI_VERSION;
#   4. libraries made of the headers by cbindgen and by safer-ffi have the same ABI. The one
#      knows the sources, the other the compiler's types.
# Needs nm and readelf (binutils), cc, and abidiff (Debian: abigail-tools).
set -eu
cd "$(dirname "$0")/../.."
for tool in nm readelf cc abidiff; do
    command -v "$tool" >/dev/null || { echo "abi: $tool is missing (Debian: apt-get install binutils gcc abigail-tools)" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
target=${CARGO_TARGET_DIR:-target}

cargo xtask header --check

cargo build --quiet --release --lib
nm -D --defined-only "$target/release/libcortex.so" | awk '{print $3}' | sort > "$work/exported"
grep -v '^#' tests/abi/symbols.txt | sort > "$work/listed"
diff -u "$work/listed" "$work/exported" || {
    echo "abi: the exports (+) are not those of tests/abi/symbols.txt (-). Add a new one at the" >&2
    echo "     end of the list; taking one away or changing it breaks programs." >&2
    exit 1
}

number=$(sed -n 's/^#define CORTEX_ABI_VERSION //p' include/cortex.h)
readelf -d "$target/release/libcortex.so" | grep -q "SONAME.*\[libcortex\.so\.$number\]" || {
    echo "abi: the SONAME in build.rs is not libcortex.so.$number" >&2
    exit 1
}

# stub HEADER NAME: a library with debug information from a header alone.
stub() {
    cargo xtask stub "$1" "$work/$2.c"
    # safer-ffi writes ssize_t, which only sys/types.h knows.
    cc -g -shared -fPIC -include sys/types.h -o "$work/$2.so" "$work/$2.c"
}
cargo xtask header --safer "$work/safer.h"
stub include/cortex.h shipped
stub "$work/safer.h" safer
abidiff "$work/shipped.so" "$work/safer.so" || {
    echo "abi: the shipped header and safer-ffi's do not describe the same ABI" >&2
    exit 1
}
# That abidiff would have noticed: a field grown, an argument changed.
for change in 's/uint32_t ndim/uint64_t ndim/' 's/size_t start/uint32_t start/'; do
    sed "$change" include/cortex.h > "$work/changed.h"
    stub "$work/changed.h" changed
    if abidiff "$work/changed.so" "$work/safer.so" > /dev/null; then
        echo "abi: abidiff does not see $change" >&2
        exit 1
    fi
done
echo "abi: $(wc -l < "$work/exported") functions, SONAME libcortex.so.$number, both headers agree"
