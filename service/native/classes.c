/* Probabilities of classes, and what samples of them disagree about: sixteen rows side by side. */
#include <stdlib.h>

#include "library.h"
#include "softmax.h"

#define ENOUGH 4096 /* numbers that one thread takes no longer for than another takes to wake */

/* The first `count` of sixteen rows (rows, classes), transposed; the others are 0. */
INLINE void gathered(const float *values, int64_t count, int64_t classes, float *across) {
    if (count < LANES) memset(across, 0, classes * LANES * sizeof(float));
    for (int64_t row = 0; row < count; row++)
        for (int64_t j = 0; j < classes; j++) across[j * LANES + row] = values[row * classes + j];
}

CLONES void errorbar_softmax_rows(const float *logits, int64_t rows, int64_t classes, float *made) {
    float across[MOST_CLASSES * LANES];
    for (int64_t first = 0; first < rows; first += LANES, logits += LANES * classes, made += LANES * classes) {
        const int64_t count = rows - first < LANES ? rows - first : LANES;
        gathered(logits, count, classes, across);
        normalise(across, classes);
        for (int64_t row = 0; row < count; row++)
            for (int64_t j = 0; j < classes; j++) made[row * classes + j] = across[j * LANES + row];
    }
}

void errorbar_softmax(const struct classes *c, int threads) {
    const int64_t total = c->samples * c->rows, tile = ENOUGH / c->classes + 1;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t first = 0; first < total; first += tile)
        errorbar_softmax_rows(c->values + first * c->classes, total - first < tile ? total - first : tile, c->classes,
                              c->made + first * c->classes);
}

/* Sixteen rows of probabilities, side by side: their entropies and their most probable classes. */
INLINE void looked_at(const float *across, int64_t classes, float *entropies, int32_t *winners) {
    v16 entropy = all(0.0f), most = load(across);
    i16 winner = (i16)all(0.0f);
    for (int64_t j = 0; j < classes; j++) {
        const v16 x = load(across + j * LANES);
        entropy -= choose(x == 0.0f, x, x * logarithm(x));
        const i16 more = x > most;
        most = choose(more, x, most);
        winner = (winner & ~more) | ((int32_t)j & more);
    }
    store(entropies, entropy);
    memcpy(winners, &winner, sizeof winner);
}

INLINE void counted(const struct classes *c, int64_t sample, int64_t row, float entropy, int32_t winner) {
    double *sum = c->entropies + sample / c->size * c->rows + row;
    *sum = (sample % c->size ? *sum : 0) + (double)entropy;
    c->votes[row * c->classes + winner]++;
}

/* Of `count` rows from the first on, sample by sample; of few rows, all there are, several samples side by side. */
CLONES static void information(const struct classes *c, int64_t first, int64_t count) {
    float across[MOST_CLASSES * LANES], entropies[LANES];
    int32_t winners[LANES];
    for (int64_t j = 0; j < count * c->classes; j++) c->votes[first * c->classes + j] = 0;
    if (c->rows < LANES) {
        const int64_t total = c->samples * c->rows;
        for (int64_t start = 0; start < total; start += LANES) {
            const int64_t here = total - start < LANES ? total - start : LANES;
            gathered(c->values + start * c->classes, here, c->classes, across);
            looked_at(across, c->classes, entropies, winners);
            for (int64_t i = 0; i < here; i++)
                counted(c, (start + i) / c->rows, (start + i) % c->rows, entropies[i], winners[i]);
        }
        return;
    }
    for (int64_t sample = 0; sample < c->samples; sample++) {
        gathered(c->values + (sample * c->rows + first) * c->classes, count, c->classes, across);
        looked_at(across, c->classes, entropies, winners);
        for (int64_t i = 0; i < count; i++) counted(c, sample, first + i, entropies[i], winners[i]);
    }
}

void errorbar_information(const struct classes *c, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t first = 0; first < c->rows; first += LANES)
        information(c, first, c->rows - first < LANES ? c->rows - first : LANES);
}
