/* Vectors of sixteen floats, by the compiler's own extension: it cuts them down to what the processor has. */
#ifndef ERRORBAR_VECTORS_H
#define ERRORBAR_VECTORS_H

#include <stdint.h>
#include <string.h>

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
#define LANES 16
#define INLINE static inline __attribute__((always_inline))

INLINE v16 load(const float *from) {
    v16 x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, v16 x) { memcpy(to, &x, sizeof x); }

INLINE v16 all(float x) { return x - (v16){}; }

INLINE v16 choose(i16 where, v16 yes, v16 no) { return (v16)(((i16)yes & where) | ((i16)no & ~where)); }

INLINE v16 larger(v16 a, v16 b) { return choose(a > b, a, b); }

/* The largest of all lanes, or their sum, in every lane. */
INLINE v16 across(v16 x, int most) {
    for (int step = LANES / 2; step; step /= 2) {
        i16 other;
        for (int j = 0; j < LANES; j++) other[j] = j ^ step;
        const v16 y = __builtin_shuffle(x, other);
        x = most ? larger(x, y) : x + y;
    }
    return x;
}

/* e^x for x at most 88, within 2 units in the last place; 0 where it is under the least positive float.
   Cody and Waite's reduction to |r| <= ln 2 / 2, then a polynomial (Cephes, expf). */
INLINE v16 exponential(v16 x) {
    const v16 least = all(-104.0f);
    v16 y = choose(x < least, least, x);
    v16 turns = y * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: its low bits are the nearest integer */
    i16 n = (i16)turns - 0x4B400000;
    turns -= 12582912.0f;
    v16 r = y - turns * 0.693359375f;
    r += turns * 2.12194440e-4f;
    v16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    i16 half = n >> 1; /* in two steps, so that the smallest results are not cut off */
    p *= (v16)((half + 127) << 23);
    p *= (v16)((n - half + 127) << 23);
    return choose(x < least, all(0.0f), choose(x == x, p, x));
}

#endif
