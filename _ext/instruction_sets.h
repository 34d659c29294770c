/* The kernels for all instruction sets of a build, and the choice among them. conv_chain.h includes it. */
#ifndef SRT_INSTRUCTION_SETS_H
#define SRT_INSTRUCTION_SETS_H

#if defined(__clang__)
#define SRT_UNROLL(n) _Pragma("clang loop unroll(full)")
#else
#define SRT_PRAGMA(text) _Pragma(#text)
#define SRT_UNROLL(n) SRT_PRAGMA(GCC unroll n)
/* Predictive commoning carries samples over in registers that the sums need. */
#pragma GCC push_options
#pragma GCC optimize("no-predictive-commoning")
#endif
#if defined(__x86_64__)
#define SRT_LANES 16
#define SRT_GROUP 8
#define SRT_BLOCK 24
#define SRT_PAIRS 7
#define SRT_VECTORS 4
#define SRT_PIXELS 14
#define SRT_TILES 14
#define SRT_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma")))
#define SRT_NAME(x) srt_avx512_##x
#include "conv_rows.h"
#include "srcnn_rows.h"
#include "undefine.h"
#define SRT_LANES 8
#define SRT_GROUP 6
#define SRT_BLOCK 24
#define SRT_PAIRS 6
#define SRT_VECTORS 2
#define SRT_PIXELS 6
#define SRT_TILES 12
#define SRT_TARGET __attribute__((target("avx2,fma")))
#define SRT_NAME(x) srt_avx2_##x
#include "conv_rows.h"
#include "srcnn_rows.h"
#include "undefine.h"
#endif
#define SRT_LANES 4
#define SRT_GROUP 6
#define SRT_BLOCK 24
#define SRT_PAIRS 6
#define SRT_VECTORS 2
#define SRT_PIXELS 6
#define SRT_TILES 12
#define SRT_TARGET
#define SRT_NAME(x) srt_generic_##x
#include "conv_rows.h"
#include "srcnn_rows.h"
#include "undefine.h"

#if !defined(__clang__)
#pragma GCC pop_options
#endif

/* Pixels of the memory of a block of tiles, see conv_rows.h. */
#define SRT_BLOCK_PIXELS(tiles) \
    (SRT_READ_DOWN * (2 * SRT_ACROSS * (tiles) + SRT_READ_ACROSS - SRT_ACROSS) + 2 * SRT_READ_ACROSS * (tiles))

typedef int (*srt_window)(const srt_srcnn *, const srt_layout *, const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t, float *,
                          ptrdiff_t, ptrdiff_t, float *, const volatile int *);

typedef struct {
    const char *name;
    int lanes, pairs, tiles; /* see conv_rows.h and srcnn_rows.h */
    int block_pixels;
    void (*first)(const srt_layer *, const float *, ptrdiff_t, ptrdiff_t, float *, ptrdiff_t, float *);
    void (*chain)(const srt_layer *, const float *const *, float *const *, ptrdiff_t, float *);
    srt_window srcnn;
} srt_isa;

#define SRT_ISA(name, lanes, pairs, tiles, block) \
    {#name, lanes, pairs, tiles, SRT_BLOCK_PIXELS(block), srt_##name##_first_layer, srt_##name##_tiles, srt_##name##_srcnn}

/* Instruction sets of this build, the fastest first. */
static const srt_isa srt_isas[] = {
#if defined(__x86_64__)
    SRT_ISA(avx512, 16, 7, 14, 24),
    SRT_ISA(avx2, 8, 6, 12, 24),
#endif
    SRT_ISA(generic, 4, 6, 12, 24),
};
enum { SRT_ISAS = sizeof srt_isas / sizeof *srt_isas };

static int srt_supported(int isa) {
#if defined(__x86_64__)
    if (isa == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    if (isa == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == SRT_ISAS - 1;
}

#endif
