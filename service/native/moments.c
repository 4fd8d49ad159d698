/* Mean and standard deviation over samples in one pass over the values. */
#include <math.h>
#include <stdint.h>

#include "library.h"

#define TILE 256 /* columns whose sums stay in the nearest cache */

CLONES static void tile(const struct moments *m, int64_t first, int64_t count) {
    double sums[TILE], squares[TILE], between[TILE], block[TILE], shift[TILE];
    const int64_t n = m->samples, blocks = m->blocks ? m->blocks : 1, size = n / blocks;
    for (int64_t j = 0; j < count; j++) {
        shift[j] = m->values[first + j];
        sums[j] = squares[j] = between[j] = 0;
    }
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t j = 0; j < count; j++) block[j] = 0;
        for (int64_t sample = b * size; sample < (b + 1) * size; sample++) {
            const float *values = m->values + sample * m->columns + first;
            for (int64_t j = 0; j < count; j++) {
                const double away = (double)values[j] - shift[j];
                block[j] += away;
                squares[j] += away * away;
            }
        }
        for (int64_t j = 0; j < count; j++) {
            sums[j] += block[j];
            between[j] += block[j] * block[j];
        }
    }
    for (int64_t j = 0; j < count; j++) {
        const double mean = sums[j] / n;
        const double variance =
            blocks == 1 ? (squares[j] - sums[j] * mean) / (n - 1)
                        : squares[j] / n - mean * mean + (blocks * between[j] - sums[j] * sums[j]) / ((double)n * n * (blocks - 1));
        m->mean[first + j] = mean + shift[j];
        m->std[first + j] = variance < 0 ? 0 : sqrt(variance); /* NaN stays NaN */
    }
}

void errorbar_moments(const struct moments *m, int threads) {
    const int64_t tiles = (m->columns + TILE - 1) / TILE;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t i = 0; i < tiles; i++)
        tile(m, i * TILE, m->columns - i * TILE < TILE ? m->columns - i * TILE : TILE);
}
