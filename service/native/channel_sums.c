/* A convolution whose input is the same for every sample but for a mask over its channels.

   Of each row every input channel is convolved once, by itself; a sample is the sum over the channels that it keeps.
   Channels form groups of GROUP; the sums of each group's subsets are made once, and a sample adds one of them a group
   (the method of four Russians). Nothing is ever subtracted, so a large channel that a sample drops leaves no rounding
   behind. Some positions of some output channels are made at a time, for all samples, so that nothing leaves the
   innermost cache. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "library.h"

#define INLINE static inline __attribute__((always_inline))
#define SLOTS 8 /* positions at a time */
#ifndef GROUP
#define GROUP 3 /* input channels */
#endif
#define SUBSETS ((1 << GROUP) - 1) /* of a group, but for the empty one: bit k of a subset's number is its channel k */
#define EACH_SLOT(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

/* One sample: its subsets, group after group, and what their sum is multiplied by. A group of which nothing is kept has
   none. */
struct sum {
    int64_t count;
    float scale;
    const int32_t *subsets;
};

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define NAME(f) f##_avx512
#define LANES 16
#define LARGER(a, b) ((lanes)_mm512_max_ps((__m512)(a), (__m512)(b)))
#include "channel_tiles.h"
#define TARGET __attribute__((target("avx2,fma")))
#define NAME(f) f##_avx2
#define LANES 8
#define LARGER(a, b) ((lanes)_mm256_max_ps((__m256)(a), (__m256)(b)))
#include "channel_tiles.h"
#endif
#define TARGET
#define NAME(f) f##_any
#define LANES 8
#include "channel_tiles.h"

typedef void (*tile)(
    const struct convolution *, const float *, const struct sum *, int64_t, int64_t, const float *, int64_t, float *,
    int64_t, float *);

int64_t errorbar_channel_lanes(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 16;
#endif
    return 8;
}

static tile fitting(int64_t lanes) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (lanes == 16) return tile_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return tile_avx2;
#endif
    return tile_any;
}

static void pad_row(const struct convolution *c, const float *x, const int64_t *stride, float *row) {
    for (int64_t k = 0; k < c->channels; k++)
        for (int64_t i = 0; i < c->height; i++) {
            float *to = row + (k * c->padded_height + c->top + i) * c->padded_width + c->left;
            const float *from = x + k * stride[1] + i * stride[2];
            for (int64_t j = 0; j < c->width; j++) to[j] = from[j * stride[3]];
        }
}

/* What each sample adds up. mask: samples apart by step; subsets: memory for one a group and sample. */
static void list_sums(const struct convolution *c, const float *mask, int64_t step, int64_t samples, int32_t *subsets,
                      struct sum *sums) {
    for (int64_t t = 0; t < samples; t++) {
        const float *m = mask + t * step;
        struct sum *s = sums + t;
        *s = (struct sum){0, 0, subsets};
        for (int64_t k = 0, before = 0; k < c->channels; before += SUBSETS) {
            int32_t subset = 0;
            for (int bit = 1; bit <= SUBSETS && k < c->channels; bit *= 2, k++)
                if (m[k] != 0) {
                    subset += bit;
                    s->scale = m[k];
                }
            if (subset) subsets[s->count++] = (int32_t)before + subset - 1;
        }
        subsets += s->count;
    }
}

int errorbar_channel_sums(const struct channel_sums *s, int threads) {
    const struct convolution *c = s->convolution;
    const tile run = fitting(c->lanes);
    const int64_t panels = (c->outputs + c->lanes - 1) / c->lanes, width = c->positions * c->outputs;
    const int64_t padded = c->channels * c->padded_height * c->padded_width;
    const int64_t groups = (c->channels + GROUP - 1) / GROUP, maps = groups * SUBSETS * SLOTS * c->lanes;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const size_t bytes = sizeof(float) * (maps + padded);
        float *partial = aligned_alloc(64, (bytes + 63) / 64 * 64);
        int32_t *subsets = malloc(sizeof *subsets * s->samples * groups);
        struct sum *sums = malloc(sizeof *sums * s->samples);
        const int ready = partial && subsets && sums;
        float *row = partial + maps;
        int64_t here = -1, listed = -1;
        if (ready) memset(row, 0, sizeof(float) * padded);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s->rows * panels; i++) {
            if (!ready) continue;
            const int64_t r = i / panels, first = i % panels * c->lanes, own = s->mask_rows > 1 ? r : 0;
            if (r != here) pad_row(c, s->values + r * s->stride[0], s->stride, row);
            if (own != listed)
                list_sums(c, s->mask + own * c->channels, s->mask_rows * c->channels, s->samples, subsets, sums);
            here = r;
            listed = own;
            const float *after = s->after ? s->after + (s->after_rows > 1 ? r : 0) * c->outputs + first : NULL;
            run(c, row, sums, s->samples, first, after, s->after_rows * c->outputs, s->output + r * width,
                s->rows * width, partial);
        }
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
        free(partial);
        free(subsets);
        free(sums);
    }
    return failed;
}
