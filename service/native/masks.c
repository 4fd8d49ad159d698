/* Masks from Philox4x64-10 (Salmon et al. 2011): the words and the masks of philox.py and masks.py, bit for bit. */
#include <stdint.h>

#include "library.h"

#define PIECE 1024 /* words that are made and used at once */

struct counter {
    uint64_t word[4];
};

static inline struct counter philox(const uint64_t key[2], struct counter c) {
    uint64_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B97F4A7C15u, k1 += 0xBB67AE8584CAA73Bu) {
        const unsigned __int128 a = (unsigned __int128)c.word[0] * 0xD2E7470EE14C6C93u;
        const unsigned __int128 b = (unsigned __int128)c.word[2] * 0xCA5A826395121157u;
        c = (struct counter){{(uint64_t)(b >> 64) ^ c.word[1] ^ k0, (uint64_t)b,
                              (uint64_t)(a >> 64) ^ c.word[3] ^ k1, (uint64_t)a}};
    }
    return c;
}

/* Words first … first + count - 1 of a run; first is a multiple of 4. */
static inline void words(
    const uint64_t key[2], int64_t first, int64_t count, int64_t block, const int64_t outer[2], uint64_t *made) {
    for (int64_t i = 0; i < count; i += 4) {
        const struct counter c =
            philox(key, (struct counter){{(first + i) / 4, block, (uint64_t)outer[0], (uint64_t)outer[1]}});
        for (int64_t j = 0; j < 4; j++) made[i + j] = c.word[j];
    }
}

CLONES static void fill_balanced(
    const struct masks *m, const uint64_t *drawn, int64_t count, int64_t stride, int32_t *made) {
    int32_t patterns[PIECE];
    for (int64_t i = 0; i < count; i++) {
        const int64_t more = drawn[i] >> 32 < (uint64_t)m->rest;
        const uint64_t chosen = (drawn[i] & 0xFFFFFFFFu) * (uint64_t)(more ? m->many : m->few) >> 32;
        patterns[i] = m->patterns[chosen + (more ? m->few : 0)];
    }
    for (int64_t sample = 0; sample < 10; sample++)
        for (int64_t i = 0; i < count; i++) made[sample * stride + i] = -(patterns[i] >> sample & 1) & m->keeps;
}

CLONES static void fill_iid(
    const struct masks *m, const uint64_t *drawn, int64_t count, int64_t stride, int32_t *made) {
    for (int64_t i = 0; i < count; i++) {
        made[i] = -((drawn[i] & 0xFFFFFFFFu) >= (uint64_t)m->rest) & m->keeps;
        made[stride + i] = -((drawn[i] >> 32) >= (uint64_t)m->rest) & m->keeps;
    }
}

void errorbar_masks(const struct masks *m, int threads) {
    const int64_t pieces = (m->inner + PIECE - 1) / PIECE, stride = m->runs * m->inner;
    const int64_t samples = m->balanced ? 10 : 2, parts = m->blocks * m->runs * pieces;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t part = 0; part < parts; part++) {
        uint64_t drawn[PIECE + 3];
        const int64_t first = part % pieces * PIECE, run = part / pieces % m->runs, block = part / pieces / m->runs;
        const int64_t count = m->inner - first < PIECE ? m->inner - first : PIECE;
        words(m->key, first, count, m->first_block + block, m->outer + 2 * run, drawn);
        int32_t *made = m->made + block * samples * stride + run * m->inner + first;
        (m->balanced ? fill_balanced : fill_iid)(m, drawn, count, stride, made);
    }
}

CLONES static void dithered(const struct dither *d, uint32_t turn, int64_t run) {
    const int32_t *stays = d->stays + run * d->units;
    uint16_t *made = d->made + run * d->units;
    for (int64_t i = 0; i < d->units; i++) {
        const uint32_t scale = (int32_t)(turn + (uint32_t)i * d->unit_step) < d->limit ? d->high : d->low;
        made[i] = (uint16_t)(stays[i] ? scale : 0);
    }
}

void errorbar_dither(const struct dither *d, int threads) {
    const int64_t runs = d->samples * d->rows;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t run = 0; run < runs; run++)
        dithered(d, d->start + (uint32_t)(run / d->rows) * d->sample_step, run);
}
