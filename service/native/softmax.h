/* Probabilities of sixteen rows of logits, side by side. */
#ifndef ERRORBAR_SOFTMAX_H
#define ERRORBAR_SOFTMAX_H

#include "vectors.h"

/* across: (classes, 16), logits to probabilities. */
INLINE void normalise(float *across, int64_t classes) {
    v16 most = load(across), sum = all(0.0f);
    for (int64_t j = 1; j < classes; j++) most = larger(load(across + j * LANES), most);
    for (int64_t j = 0; j < classes; j++) {
        const v16 x = exponential(load(across + j * LANES) - most);
        store(across + j * LANES, x);
        sum += x;
    }
    const v16 share = 1.0f / sum;
    for (int64_t j = 0; j < classes; j++) store(across + j * LANES, load(across + j * LANES) * share);
}

#endif
