/* Probabilities of classes, and what samples of them disagree about: sixteen rows side by side. */
#include <stdlib.h>

#include "library.h"
#include "vectors.h"

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
        v16 most = load(across), sum = all(0.0f);
        for (int64_t j = 1; j < classes; j++) most = larger(load(across + j * LANES), most);
        for (int64_t j = 0; j < classes; j++) {
            const v16 x = exponential(load(across + j * LANES) - most);
            store(across + j * LANES, x);
            sum += x;
        }
        const v16 share = 1.0f / sum;
        for (int64_t j = 0; j < classes; j++) store(across + j * LANES, load(across + j * LANES) * share);
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

CLONES static void information(const struct classes *c, int64_t first, int64_t count) {
    float across[MOST_CLASSES * LANES];
    for (int64_t j = 0; j < count * c->classes; j++) c->votes[first * c->classes + j] = 0;
    for (int64_t sample = 0; sample < c->samples; sample++) {
        gathered(c->values + (sample * c->rows + first) * c->classes, count, c->classes, across);
        v16 entropy = all(0.0f), most = load(across);
        i16 winner = (i16)all(0.0f);
        for (int64_t j = 0; j < c->classes; j++) {
            const v16 x = load(across + j * LANES);
            entropy -= choose(x == 0.0f, x, x * logarithm(x));
            const i16 more = x > most;
            most = choose(more, x, most);
            winner = (winner & ~more) | ((int32_t)j & more);
        }
        double *sums = c->entropies + sample / c->size * c->rows + first;
        for (int64_t row = 0; row < count; row++) {
            sums[row] = (sample % c->size ? sums[row] : 0) + (double)entropy[row];
            c->votes[(first + row) * c->classes + winner[row]]++;
        }
    }
}

void errorbar_information(const struct classes *c, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t first = 0; first < c->rows; first += LANES)
        information(c, first, c->rows - first < LANES ? c->rows - first : LANES);
}
