/* Chains of linear layers, one pass (a sample of a row) at a time. A unit that is dropped, or that an activation left
   at 0, costs nothing: its weights are not read. A pass' sums have an order of their own, so a row's answer does not
   depend on what else runs. */
#include <float.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "library.h"
#include "vectors.h"

struct room {
    float *even, *odd;
    int32_t *place;
    int64_t stride; /* numbers of each for a pass */
};

#define PANEL 4 /* vectors of outputs that are summed at a time, at most */
#define TOGETHER 16 /* passes that share a panel of weights while it is in the nearest cache */

/* How the units that stay are found. */
#define EACH 0
#define COMPRESS 1
#define PERMUTE 2

#if defined(__x86_64__)
/* The places of the bits that are set in each byte, lowest first. */
static uint8_t bits_of[256][8];

__attribute__((constructor)) static void fill_bits_of(void) {
    for (int byte = 0; byte < 256; byte++)
        for (int bit = 0, count = 0; bit < 8; bit++)
            if (byte >> bit & 1) bits_of[byte][count++] = (uint8_t)bit;
}

#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,popcnt"
#define TARGET __attribute__((target(AVX512)))
#define NAME(f) f##_avx512
#define WIDE 16
#define ACTIVE COMPRESS
#include "dense_passes.h"
#define TARGET __attribute__((target("avx2,fma,popcnt")))
#define NAME(f) f##_avx2
#define WIDE 8
#define ACTIVE PERMUTE
#include "dense_passes.h"
#endif
#define TARGET
#define NAME(f) f##_any
#define WIDE 8
#define ACTIVE EACH
#include "dense_passes.h"

typedef void (*passes)(const struct chain *, int64_t, int64_t, struct room);

static passes fitting(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return passes_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return passes_avx2;
#endif
    return passes_any;
}

int errorbar_dense_chain(const struct chain *c, int threads) {
    const passes run = fitting();
    int64_t widest = LANES, failed = 0;
    for (int64_t s = 0; s < c->count; s++) {
        if (c->stages[s].in > widest) widest = c->stages[s].in;
        if (c->stages[s].width > widest) widest = c->stages[s].width;
    }
    widest = (widest + 2 * LANES - 1) / LANES * LANES;
    const int64_t total = c->rows * c->samples, parts = threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t part = 0; part < parts; part++) {
        float *memory = aligned_alloc(64, 3 * TOGETHER * widest * sizeof(float));
        if (!memory) {
            failed = 1;
            continue;
        }
        const struct room room = {memory, memory + TOGETHER * widest, (int32_t *)(memory + 2 * TOGETHER * widest), widest};
        run(c, total * part / parts, total * (part + 1) / parts, room);
        free(memory);
    }
    return (int)failed;
}

const char *errorbar_sources(void) { return ERRORBAR_SOURCES; }
