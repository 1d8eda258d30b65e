"""CPU traits: the flags that the host's `cpu_info` reports, as os-traits names them.

The flags are Linux's (/proc/cpuinfo of dom0). vmx and svm are left out: a guest of ours cannot start guests.
"""

import os_traits

_FLAGS = {
    "3dnow": "HW_CPU_X86_3DNOW",
    "abm": "HW_CPU_X86_ABM",
    "aes": "HW_CPU_X86_AESNI",
    "amx_bf16": "HW_CPU_X86_AMXBF16",
    "amx_int8": "HW_CPU_X86_AMXINT8",
    "amx_tile": "HW_CPU_X86_AMXTILE",
    "avx": "HW_CPU_X86_AVX",
    "avx2": "HW_CPU_X86_AVX2",
    "avx512bw": "HW_CPU_X86_AVX512BW",
    "avx512cd": "HW_CPU_X86_AVX512CD",
    "avx512dq": "HW_CPU_X86_AVX512DQ",
    "avx512er": "HW_CPU_X86_AVX512ER",
    "avx512f": "HW_CPU_X86_AVX512F",
    "avx512ifma": "HW_CPU_X86_AVX512IFMA",
    "avx512pf": "HW_CPU_X86_AVX512PF",
    "avx512vbmi": "HW_CPU_X86_AVX512VBMI",
    "avx512vl": "HW_CPU_X86_AVX512VL",
    "avx512_bitalg": "HW_CPU_X86_AVX512BITALG",
    "avx512_vbmi2": "HW_CPU_X86_AVX512VBMI2",
    "avx512_vnni": "HW_CPU_X86_AVX512VNNI",
    "avx512_vpopcntdq": "HW_CPU_X86_AVX512VPOPCNTDQ",
    "bmi1": "HW_CPU_X86_BMI",
    "bmi2": "HW_CPU_X86_BMI2",
    "f16c": "HW_CPU_X86_F16C",
    "fma": "HW_CPU_X86_FMA3",
    "fma4": "HW_CPU_X86_FMA4",
    "gfni": "HW_CPU_X86_AVX512GFNI",
    "mmx": "HW_CPU_X86_MMX",
    "mpx": "HW_CPU_X86_MPX",
    "pclmulqdq": "HW_CPU_X86_CLMUL",
    "pdpe1gb": "HW_CPU_X86_PDPE1GB",
    "pni": "HW_CPU_X86_SSE3",
    "sha_ni": "HW_CPU_X86_SHA",
    "sse": "HW_CPU_X86_SSE",
    "sse2": "HW_CPU_X86_SSE2",
    "sse4_1": "HW_CPU_X86_SSE41",
    "sse4_2": "HW_CPU_X86_SSE42",
    "sse4a": "HW_CPU_X86_SSE4A",
    "ssse3": "HW_CPU_X86_SSSE3",
    "tbm": "HW_CPU_X86_TBM",
    "vaes": "HW_CPU_X86_AVX512VAES",
    "vpclmulqdq": "HW_CPU_X86_AVX512VPCLMULQDQ",
    "xop": "HW_CPU_X86_XOP",
}


def of_flags(flags: str) -> set[str]:
    """The traits for a line of flags; those that this os-traits does not know are left out."""
    known = set(os_traits.get_traits("HW_CPU_X86_"))
    return {trait for flag in flags.lower().split() if (trait := _FLAGS.get(flag)) in known and trait}


def owned() -> set[str]:
    """Every trait that this driver decides about: those a host lacks are taken away."""
    return set(_FLAGS.values())
