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

/* log x for x >= 0, within 2 units in the last place; -infinity at 0. */
INLINE v16 logarithm(v16 x) {
    const i16 tiny = x < all(1.17549435e-38f);
    const v16 y = choose(tiny, x * 8388608.0f, x); /* denormals by 2^23 */
    i16 bits = (i16)y;
    i16 n = (bits >> 23) - 126;
    v16 m = (v16)((bits & 0x007FFFFF) | 0x3F000000); /* in [1/2, 1) */
    const i16 low = m < all(0.70710678118654752f);
    n = n + low - (tiny & 23); /* a true comparison is -1 */
    m = choose(low, m + m, m) - 1.0f;
    const v16 square = m * m;
    v16 p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const v16 e = __builtin_convertvector(n, v16);
    p = p * m * square - 2.12194440e-4f * e - 0.5f * square;
    const v16 found = m + p + 0.693359375f * e;
    return choose(x == 0.0f, all(-__builtin_inff()), choose(x == x, found, x));
}

#endif
