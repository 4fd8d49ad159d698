/* Chains of linear layers in bfloat16, by the matrix tiles of a processor that has them (AMX): sixteen passes side by
   side, a column each. Of a column every sum has one order, so a row's answer does not depend on what else runs. The
   last layer is float32. */
#include <stdlib.h>

#include "library.h"
#include "softmax.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__has_include)
#if __has_include(<amxbf16intrin.h>)
#define TILES
#endif
#endif

#ifdef TILES
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TARGET __attribute__((target(                                                                                  \
    "amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi2")))
#define TILE 512 /* bfloat16 numbers: 16 outputs of 32 inputs, or 16 pairs of inputs of 16 columns */
#define TOGETHER 2 /* blocks of sixteen columns that share the weights' tiles */

struct configuration {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16]; /* of a row of each tile */
    uint8_t rows[16];
};

/* Sixteen columns: some rows of a sample, or a few samples of all rows. */
struct block {
    int64_t columns, first_sample, first_row;
    int64_t sample[LANES], row[LANES];
};

/* What a thread needs for a block. read, made: bfloat16, pairs of units of sixteen columns; hidden: what the last layer
   reads; across: of each unit, the columns whose pass keeps it. */
struct room {
    uint16_t *read, *made, *across;
    float *hidden;
    int32_t *active;
};

int errorbar_has_tiles(void) {
    const long permission = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    const unsigned bf16 = 1u << 22, tile = 1u << 24;
    unsigned a, b, c, d;
    __builtin_cpu_init();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (bf16 | tile)) != (bf16 | tile)) return 0;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("bmi2"))
        return 0;
    return syscall(SYS_arch_prctl, permission, tile_data) == 0;
}

static void locate(const struct chain *c, int64_t index, struct block *block) {
    const int64_t some = c->rows < LANES ? LANES / c->rows : 1, groups = (c->samples + some - 1) / some;
    block->first_sample = index % groups * some;
    block->first_row = index / groups * LANES;
    const int64_t samples = c->samples - block->first_sample < some ? c->samples - block->first_sample : some;
    const int64_t rows = c->rows - block->first_row < LANES ? c->rows - block->first_row : LANES;
    block->columns = samples * rows;
    for (int64_t i = 0; i < LANES; i++) { /* columns that are left repeat the first one */
        const int64_t column = i < block->columns ? i : 0;
        block->sample[i] = block->first_sample + column / rows;
        block->row[i] = block->first_row + column % rows;
    }
}

/* Sixteen rows, or a few times all of them, as tiles of pairs. width: of the values, a multiple of 32. */
static void laid_out(const struct chain *c, int64_t block, int64_t width, uint16_t *made) {
    const int64_t first = block * LANES, rows = c->rows - first < LANES ? c->rows - first : LANES;
    const uint16_t *values = c->values;
    for (int64_t i = 0; i < LANES; i++) {
        const uint16_t *row = values + (first + i % rows) * width;
        for (int64_t k = 0; k < width; k += 2) memcpy(made + (k * LANES + 2 * i), row + k, 2 * sizeof *made);
    }
}

/* Whether any of a row's numbers is larger than what is safe, or none at all. */
static int is_bad(const struct chain *c, int64_t row, int64_t width) {
    uint32_t bits;
    memcpy(&bits, &c->largest, sizeof bits);
    const uint16_t *values = (const uint16_t *)c->values + row * width, most = (uint16_t)(bits >> 16);
    int bad = 0;
    for (int64_t k = 0; k < width; k++) bad |= (values[k] & 0x7fff) > most;
    return bad;
}

/* across: of each unit, a bit a column. shared: whether all columns have the masks of one sample. */
TARGET static void find_across(
    const struct chain *c, const struct stage *stage, const struct block *block, int shared, uint16_t *across) {
    const uint16_t *keeps[LANES];
    for (int64_t i = 0; i < LANES; i++) {
        const int64_t draw = c->row_masks ? block->sample[i] * c->rows + block->row[i] : block->sample[i];
        keeps[i] = stage->keeps + draw * stage->words;
    }
    for (int64_t word = 0; word < stage->words; word++, across += LANES) {
        if (shared) {
            _mm256_storeu_si256((__m256i *)across, _mm256_movm_epi16(keeps[0][word]));
            continue;
        }
        uint16_t bits[LANES];
        for (int64_t i = 0; i < LANES; i++) bits[i] = keeps[i][word];
        const __m256i words = _mm256_loadu_si256((const __m256i *)bits);
        for (int unit = 0; unit < LANES; unit++)
            across[unit] = _mm256_test_epi16_mask(words, _mm256_set1_epi16((int16_t)(1 << unit)));
    }
}

/* Pairs of units, without what a column's pass drops. */
TARGET static void masked(const uint16_t *read, const uint16_t *across, int64_t units, int shared, uint16_t *made) {
    for (int64_t k = 0; k < units; k += 2, read += 2 * LANES, made += 2 * LANES) {
        const __m512i pair = _mm512_loadu_si512(read);
        if (shared) {
            int32_t both;
            memcpy(&both, across + k, sizeof both);
            _mm512_storeu_si512(made, _mm512_and_si512(pair, _mm512_set1_epi32(both)));
        } else {
            const __mmask32 both = _pdep_u32(across[k], 0x55555555) | _pdep_u32(across[k + 1], 0xaaaaaaaa);
            _mm512_storeu_si512(made, _mm512_maskz_mov_epi16(both, pair));
        }
    }
}

/* 32 outputs of a layer, for two blocks of columns. */
TARGET static void multiply(
    const uint16_t *weight, int64_t depth, const uint16_t *left, const uint16_t *right, float *sums) {
    const uint16_t *below = weight + depth * TILE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; k++) {
        _tile_loadd(4, weight + k * TILE, 64);
        _tile_loadd(6, left + k * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, below + k * TILE, 64);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(7, right + k * TILE, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + TILE / 2, 64);
    _tile_stored(2, sums + TILE, 64);
    _tile_stored(3, sums + TILE * 3 / 2, 64);
}

/* Of sums of 32 outputs to what the next layer reads of them: bias, activation, mask. */
TARGET static void finish(
    const struct stage *stage, int64_t first, const float *sums, const uint16_t *across, int exact, struct room room) {
    const __m512 floor = stage->relu ? _mm512_setzero_ps() : _mm512_set1_ps(-__builtin_inff());
    for (int64_t i = 0; i < 32; i += 2) {
        __m512 x[2];
        for (int64_t j = 0; j < 2; j++) {
            const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(sums + (i + j) * LANES), _mm512_set1_ps(stage->bias[first + i + j]));
            x[j] = _mm512_maskz_max_ps(across[first + i + j], sum, floor);
        }
        if (exact) {
            _mm512_storeu_ps(room.hidden + (first + i) * LANES, x[0]);
            _mm512_storeu_ps(room.hidden + (first + i + 1) * LANES, x[1]);
        } else {
            const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x[0]));
            const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x[1]));
            _mm512_storeu_si512(room.made + (first + i) * LANES, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

#define UNROLLED _Pragma("GCC unroll 16")
#define SUM(COUNT)                                                                                                     \
    {                                                                                                                  \
        v16 sums[COUNT];                                                                                               \
        UNROLLED for (int j = 0; j < COUNT; j++) sums[j] = all(bias[j]);                                               \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            const v16 x = load(hidden + LANES * (int64_t)active[i]);                                                   \
            const float *w = weight + LANES * (int64_t)active[i];                                                      \
            UNROLLED for (int j = 0; j < COUNT; j++) sums[j] += x * w[j];                                              \
        }                                                                                                              \
        UNROLLED for (int j = 0; j < COUNT; j++) store(made + LANES * j, sums[j]);                                     \
    }

/* Sixteen outputs, or fewer, of the last layer. weight: (in, 16). */
TARGET static void last_layer(
    const float *hidden, const int32_t *active, int64_t count, const float *weight, const float *bias, int64_t outputs,
    float *made) {
    if (outputs > 12) SUM(16)
    else if (outputs > 8) SUM(12)
    else if (outputs > 4) SUM(8)
    else SUM(4)
}

TARGET static void ended(
    const struct chain *c, const struct block *block, const uint8_t *bad, const uint16_t *across, struct room room) {
    const struct stage *last = &c->stages[c->count - 1];
    float made[MOST_CLASSES * LANES];
    int64_t count = 0;
    for (int64_t i = 0; i < last->in; i++) {
        room.active[count] = (int32_t)i;
        count += across[i] != 0;
    }
    float *output = c->output;
    for (int64_t first = 0; first < last->out; first += MOST_CLASSES) {
        const int64_t outputs = last->out - first < MOST_CLASSES ? last->out - first : MOST_CLASSES;
        for (int64_t j = 0; j < outputs; j += LANES)
            last_layer(room.hidden, room.active, count, (const float *)last->weight + (first + j) * last->in,
                       last->bias + first + j, outputs - j, made + j * LANES);
        if (last->relu)
            for (int64_t j = 0; j < outputs; j++) store(made + j * LANES, larger(load(made + j * LANES), all(0.0f)));
        if (c->softmax) normalise(made, outputs);
        for (int64_t i = 0; i < block->columns; i++) {
            float *to = output + (block->sample[i] * c->rows + block->row[i]) * last->out + first;
            const float fails = bad[block->row[i]] ? __builtin_nanf("") : 0.0f;
            for (int64_t j = 0; j < outputs; j++) to[j] = made[j * LANES + i] + fails;
        }
    }
}

TARGET static void passes(
    const struct chain *c, int64_t first, int64_t end, const uint16_t *laid, const uint8_t *bad, struct room *rooms) {
    struct configuration configuration = {.palette = 1};
    for (int i = 0; i < 8; i++) configuration.bytes[i] = 64, configuration.rows[i] = 16;
    _tile_loadconfig(&configuration);
    float sums[2 * TILE] __attribute__((aligned(64)));
    for (int64_t start = first; start < end; start += TOGETHER) {
        struct block blocks[TOGETHER];
        int shared[TOGETHER];
        for (int64_t b = 0; b < TOGETHER; b++) { /* an odd one out is run twice */
            const struct stage *stage = &c->stages[0];
            locate(c, start + b < end ? start + b : start, &blocks[b]);
            shared[b] = c->rows >= LANES && !c->row_masks;
            find_across(c, stage, &blocks[b], shared[b], rooms[b].across);
            masked(laid + blocks[b].first_row * stage->width, rooms[b].across, stage->width, shared[b], rooms[b].read);
        }
        for (int64_t s = 0; s + 1 < c->count; s++) {
            const struct stage *stage = &c->stages[s], *next = stage + 1;
            const int exact = s + 2 == c->count;
            for (int64_t b = 0; b < TOGETHER; b++) find_across(c, next, &blocks[b], shared[b], rooms[b].across);
            for (int64_t at = 0; at < stage->out; at += 32) {
                multiply((const uint16_t *)stage->weight + at * stage->width, stage->width / 32, rooms[0].read,
                         rooms[1].read, sums);
                for (int64_t b = 0; b < TOGETHER; b++)
                    finish(stage, at, sums + b * TILE, rooms[b].across, exact, rooms[b]);
            }
            for (int64_t b = 0; b < TOGETHER; b++) {
                uint16_t *swap = rooms[b].read;
                rooms[b].read = rooms[b].made;
                rooms[b].made = swap;
            }
        }
        for (int64_t b = 0; b < TOGETHER && start + b < end; b++) ended(c, &blocks[b], bad, rooms[b].across, rooms[b]);
    }
    _tile_release();
}

int errorbar_tile_chain(const struct chain *c, int threads) {
    const int64_t width = c->stages[0].width, row_blocks = (c->rows + LANES - 1) / LANES;
    const int64_t some = c->rows < LANES ? LANES / c->rows : 1;
    const int64_t total = row_blocks * ((c->samples + some - 1) / some), parts = threads;
    int64_t widest = 32, failed = 0;
    for (int64_t s = 0; s < c->count; s++) {
        const int64_t units = (c->stages[s].in + 63) / 32 * 32; /* and some, which the words of a mask may reach */
        if (units > widest) widest = units;
    }
    uint16_t *laid = aligned_alloc(64, row_blocks * LANES * width * sizeof(uint16_t));
    uint8_t *bad = malloc(c->rows);
    if (laid && bad) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
        for (int64_t block = 0; block < row_blocks; block++) {
            laid_out(c, block, width, laid + block * LANES * width);
            for (int64_t row = block * LANES; row < c->rows && row < (block + 1) * LANES; row++)
                bad[row] = is_bad(c, row, width);
        }
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
        for (int64_t part = 0; part < parts; part++) {
            const int64_t units = widest * LANES, bytes = (2 * 2 + 4) * units + 2 * widest + 4 * widest;
            char *memory = aligned_alloc(64, TOGETHER * bytes);
            if (!memory) {
                failed = 1;
                continue;
            }
            memset(memory, 0, TOGETHER * bytes);
            struct room rooms[TOGETHER];
            for (int64_t b = 0; b < TOGETHER; b++) {
                char *at = memory + b * bytes;
                rooms[b] = (struct room){
                    (uint16_t *)at, (uint16_t *)(at + 2 * units), (uint16_t *)(at + 8 * units),
                    (float *)(at + 4 * units), (int32_t *)(at + 8 * units + 2 * widest)};
            }
            passes(c, total * part / parts, total * (part + 1) / parts, laid, bad, rooms);
            free(memory);
        }
    } else failed = 1;
    free(laid);
    free(bad);
    return (int)failed;
}

#else

int errorbar_has_tiles(void) { return 0; }

int errorbar_tile_chain(const struct chain *c, int threads) {
    (void)c, (void)threads;
    return 1;
}

#endif
