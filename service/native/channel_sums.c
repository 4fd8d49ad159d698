/* A convolution whose input is the same for every sample but for a mask over its channels.

   Of each row every input channel is convolved once, by itself; a sample is the sum over the channels that it keeps. As
   few are dropped, it is made as the total less those that are; where more than half are, as the sum of the rest. Some
   positions of some output channels are made at a time, for all samples, so that nothing leaves the innermost cache. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "library.h"

#define INLINE static inline __attribute__((always_inline))
#define SLOTS 8 /* positions at a time */
#define EACH_SLOT(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

/* One sample: the channels that are taken from the total, or summed, and what the sum is multiplied by. */
struct sum {
    int32_t sample, count, sums_kept;
    float scale;
    const int32_t *channels;
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

/* The sums of all samples, by their length: the processor then foresees where each ends. mask: samples apart by step.
   starts, found: of channels + 2 and of samples, to work with. */
static void list_sums(const struct convolution *c, const float *mask, int64_t step, int64_t samples, int32_t *channels,
                      int64_t *starts, struct sum *found, struct sum *sums) {
    memset(starts, 0, sizeof *starts * (c->channels + 2));
    for (int64_t t = 0; t < samples; t++) {
        const float *m = mask + t * step;
        int64_t dropped = 0;
        float scale = 0;
        for (int64_t k = 0; k < c->channels; k++) {
            dropped += m[k] == 0;
            scale = m[k] != 0 ? m[k] : scale;
        }
        const int kept = dropped > c->channels / 2;
        found[t] = (struct sum){(int32_t)t, 0, kept, scale, channels};
        for (int64_t k = 0; k < c->channels; k++)
            if ((m[k] == 0) != kept) channels[found[t].count++] = (int32_t)k;
        channels += found[t].count;
        starts[found[t].count + 1]++;
    }
    for (int64_t k = 0; k <= c->channels; k++) starts[k + 1] += starts[k];
    for (int64_t t = 0; t < samples; t++) sums[starts[found[t].count]++] = found[t];
}

int errorbar_channel_sums(const struct channel_sums *s, int threads) {
    const struct convolution *c = s->convolution;
    const tile run = fitting(c->lanes);
    const int64_t groups = (c->outputs + c->lanes - 1) / c->lanes, width = c->positions * c->outputs;
    const int64_t padded = c->channels * c->padded_height * c->padded_width;
    const int64_t maps = (c->channels + 1) * SLOTS * c->lanes;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const size_t bytes = sizeof(float) * (maps + padded);
        float *partial = aligned_alloc(64, (bytes + 63) / 64 * 64);
        int32_t *channels = malloc(sizeof *channels * (s->samples * (c->channels / 2) + 1));
        int64_t *starts = malloc(sizeof *starts * (c->channels + 2));
        struct sum *sums = malloc(2 * sizeof *sums * s->samples);
        const int ready = partial && channels && starts && sums;
        float *row = partial + maps;
        int64_t here = -1, listed = -1;
        if (ready) memset(row, 0, sizeof(float) * padded);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s->rows * groups; i++) {
            if (!ready) continue;
            const int64_t r = i / groups, first = i % groups * c->lanes, own = s->mask_rows > 1 ? r : 0;
            if (r != here) pad_row(c, s->values + r * s->stride[0], s->stride, row);
            if (own != listed)
                list_sums(c, s->mask + own * c->channels, s->mask_rows * c->channels, s->samples, channels, starts,
                          sums + s->samples, sums);
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
        free(channels);
        free(starts);
        free(sums);
    }
    return failed;
}
