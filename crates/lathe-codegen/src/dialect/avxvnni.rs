//! The dialect of AVX-VNNI: AVX2's, with `vpdpbusd` for products of bytes.

use super::{Row, avx2};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "dpbusd",
        gcc: "__builtin_ia32_vpdpbusd_v8si($0, $1, $2)",
        clang: "__builtin_ia32_vpdpbusd256($0, $1, $2)",
    },
    Row {
        name: "dpsubd",
        gcc: "__builtin_ia32_vpdpbusd_v8si($0, $2, $1)",
        clang: "__builtin_ia32_vpdpbusd256($0, $2, $1)",
    },
    avx2::SHUFFLE,
    avx2::F32_OF_F16,
    avx2::F16_OF_F32,
    avx2::ROUND,
    avx2::I32_OF_ROUNDED,
    avx2::I32_OF_U8,
    avx2::I32_OF_I8,
    avx2::I32_OF_U16,
    avx2::I8_OF_I32,
    avx2::MAX,
    avx2::MIN,
    avx2::LEVELS,
    avx2::HOLD,
    avx2::NONTEMPORAL,
    avx2::FENCE,
];

pub(super) const PRELUDE: &str = avx2::PRELUDE;
