/* Standard errors and entropies of samples that are all at hand, a row at a time. Formulas: service/statistics. */
#include <math.h>
#include <stdlib.h>

#include "library.h"

static inline double xlogx(double x) { return x > 0 ? x * log(x) : x; }

/* Standard error of an estimate by delete-one-block jackknife (Busing, Meijer & van der Leeden 1999), and through
   `corrected` the estimate less its bias. without: the estimate with that block left out; counts: its samples. */
static double jackknife(double estimate, const double *without, int64_t blocks, const double *counts, double n,
                        double *corrected) {
    double less = 0, variance = 0;
    for (int64_t b = 0; b < blocks; b++) less += (1 - counts[b] / n) * without[b];
    *corrected = blocks * estimate - less;
    for (int64_t b = 0; b < blocks; b++) {
        const double ratio = n / counts[b], away = ratio * estimate - (ratio - 1) * without[b] - *corrected;
        variance += away * away / (ratio - 1);
    }
    return sqrt(variance / blocks);
}

static double within(double x) { return x < 0 ? 0 : x > 1 ? 1 : x; } /* NaN stays NaN */

struct scratch {
    double counts[MOST_BLOCKS], without[MOST_BLOCKS], difference[MOST_BLOCKS], entropy[MOST_BLOCKS];
    double sums[]; /* (2, columns, blocks): of the shifted values, and of their squares */
};

static void errors(const struct statistics *s, int64_t at, const double *first, const double *second,
                   struct scratch *t) {
    const int64_t blocks = s->blocks;
    const double n = s->samples;
    double total = 0, total_second = 0, squared = 0, means = 0, means_squared = 0;
    for (int64_t b = 0; b < blocks; b++) {
        const double mean = first[b] / t->counts[b];
        total += first[b];
        total_second += second[b];
        squared += first[b] * first[b];
        means += mean;
        means_squared += mean * mean;
    }
    if (!s->balanced)
        s->mean_se[at] = s->std[at] / sqrt(n);
    else if (blocks > 1) {
        const double spread = (blocks * squared - total * total) / (n * n * (blocks - 1));
        s->mean_se[at] = spread < 0 ? 0 : sqrt(spread);
    }
    if (blocks < 3) return;
    for (int64_t b = 0; b < blocks; b++) {
        const double left = n - t->counts[b], mean = (total - first[b]) / left;
        double variance = (total_second - second[b]) / left - mean * mean;
        if (s->balanced) {
            const double own = first[b] / t->counts[b], others = (means - own) / (blocks - 1);
            const double spread = (means_squared - own * own) / (blocks - 1) - others * others;
            variance += (spread < 0 ? 0 : spread) / (blocks - 2);
        } else
            variance *= left / (left - 1);
        t->without[b] = variance < 0 ? 0 : sqrt(variance);
    }
    double corrected;
    s->std_se[at] = jackknife(s->std[at], t->without, blocks, t->counts, n, &corrected);
}

static void information(const struct statistics *s, int64_t row, struct scratch *t) {
    const int64_t blocks = s->blocks, columns = s->columns, rows = s->rows;
    const double n = s->samples, *mean = s->mean + row * columns;
    double entropy = 0, expected = 0, corrected;
    int64_t most = 0;
    for (int64_t b = 0; b < blocks; b++) {
        t->entropy[b] = 0;
        expected += s->entropies[b * rows + row];
    }
    for (int64_t j = 0; j < columns; j++) {
        const double *first = t->sums + j * blocks;
        double total = 0;
        for (int64_t b = 0; b < blocks; b++) total += first[b];
        entropy -= xlogx(within(mean[j]));
        if (blocks >= 3)
            for (int64_t b = 0; b < blocks; b++) {
                const double without = mean[j] + ((total - first[b]) / (n - t->counts[b]) - total / n);
                t->entropy[b] -= xlogx(within(without));
            }
        if (s->votes[row * columns + j] > most) most = s->votes[row * columns + j];
    }
    double *told = s->information + row;
    told[0 * rows] = entropy;
    told[2 * rows] = expected / n;
    told[3 * rows] = entropy - expected / n;
    told[5 * rows] = 1 - most / n;
    if (blocks >= 3) {
        for (int64_t b = 0; b < blocks; b++)
            t->difference[b] =
                t->entropy[b] - (expected - s->entropies[b * rows + row]) / (n - t->counts[b]);
        told[1 * rows] = jackknife(entropy, t->entropy, blocks, t->counts, n, &corrected);
        told[4 * rows] = jackknife(entropy - expected / n, t->difference, blocks, t->counts, n, &corrected);
        told[3 * rows] = corrected;
    }
    if (told[3 * rows] < 0) told[3 * rows] = 0;
}

CLONES static void sums(const struct statistics *s, int64_t row, struct scratch *t) {
    const int64_t columns = s->columns, stride = s->rows * columns, blocks = s->blocks;
    const float *values = s->values + row * columns;
    double *first = t->sums, *second = t->sums + columns * blocks;
    for (int64_t j = 0; j < 2 * columns * blocks; j++) t->sums[j] = 0;
    for (int64_t b = 0, sample = 0; b < blocks; b++)
        for (int64_t k = 0; k < s->size && sample < s->samples; k++, sample++)
            for (int64_t j = 0; j < columns; j++) {
                const double away = (double)values[sample * stride + j] - values[j];
                first[j * blocks + b] += away;
                second[j * blocks + b] += away * away;
            }
}

int errorbar_statistics(const struct statistics *s, int threads) {
    const int64_t blocks = s->blocks, columns = s->columns;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        struct scratch *t = malloc(sizeof *t + 2 * columns * blocks * sizeof(double));
        if (t == NULL) {
#pragma omp atomic write
            failed = 1;
        } else
            for (int64_t b = 0; b < blocks; b++) t->counts[b] = b + 1 < blocks ? s->size : s->samples - b * s->size;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < s->rows; row++) {
            if (t == NULL) continue;
            sums(s, row, t);
            for (int64_t j = 0; j < columns; j++)
                errors(s, row * columns + j, t->sums + j * blocks, t->sums + (columns + j) * blocks, t);
            if (s->information != NULL) information(s, row, t);
        }
        free(t);
    }
    return failed;
}
