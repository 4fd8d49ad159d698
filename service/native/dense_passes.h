/* The chain of linear layers, once for each kind of processor: NAME(f), TARGET, WIDE, floats in a register, and ACTIVE,
   how the units that stay are found, are set. */

typedef float NAME(wide) __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
#define wide NAME(wide)

/* place: of the units that are kept and not 0. Returns how many, or -1 where the magnitude of any unit, kept or not, is
   not at most `largest`. */
TARGET static inline int64_t NAME(active)(
    const float *value, const uint16_t *keeps, int64_t n, float largest, int32_t *place) {
    int64_t count = 0, bad = 0, i = 0;
#if ACTIVE == COMPRESS
    const __m512i step = _mm512_set1_epi32(16);
    const __m512 most = _mm512_set1_ps(largest);
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; i < n; i += 16, places = _mm512_add_epi32(places, step)) {
        const __m512 x = n - i >= 16 ? _mm512_loadu_ps(value + i)
                                     : _mm512_maskz_loadu_ps((__mmask16)((1u << (n - i)) - 1), value + i);
        const __m512 zero = _mm512_setzero_ps();
        const __mmask16 counts = _mm512_mask_cmp_ps_mask(keeps[i / 16], x, zero, _CMP_NEQ_UQ);
        bad |= _mm512_cmp_ps_mask(_mm512_abs_ps(x), most, _CMP_NLE_UQ);
        _mm512_storeu_si512(place + count, _mm512_maskz_compress_epi32(counts, places));
        count += __builtin_popcount(counts);
    }
#elif ACTIVE == PERMUTE
    const __m256 most = _mm256_set1_ps(largest), zero = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
    for (; i + 8 <= n; i += 8) {
        const __m256 x = _mm256_loadu_ps(value + i);
        const uint32_t counts =
            (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, zero, _CMP_NEQ_UQ)) & (keeps[i / 16] >> i % 16 & 0xff);
        bad |= _mm256_movemask_ps(_mm256_cmp_ps(_mm256_andnot_ps(sign, x), most, _CMP_NLE_UQ));
        const __m256i bits = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bits_of[counts]));
        _mm256_storeu_si256((__m256i *)(place + count), _mm256_add_epi32(bits, _mm256_set1_epi32((int32_t)i)));
        count += __builtin_popcount(counts);
    }
#endif
    for (; i < n; i++) {
        place[count] = (int32_t)i;
        count += (keeps[i / 16] >> i % 16 & 1) & (value[i] != 0);
        bad |= !(value[i] <= largest && value[i] >= -largest);
    }
    return bad ? -1 : count;
}

#define UNROLLED _Pragma("GCC unroll 16")
/* PARTS registers of outputs at a time, and TURNS partial sums of each, so that no addition waits for the one before and
   all sums stay in registers. weight: (in, PARTS registers). */
#define SUM(PARTS, TURNS)                                                                              \
    {                                                                                                  \
        wide sums[TURNS][PARTS];                                                                       \
        UNROLLED for (int j = 0; j < PARTS; j++) sums[0][j] = *(const wide *)(bias + WIDE * j);        \
        UNROLLED for (int j = PARTS; j < TURNS * PARTS; j++) sums[j / PARTS][j % PARTS] = (wide){0};   \
        int64_t k = 0;                                                                                 \
        for (; k + TURNS <= count; k += TURNS)                                                         \
            UNROLLED for (int j = 0; j < TURNS * PARTS; j++) sums[j / PARTS][j % PARTS] +=             \
                value[place[k + j / PARTS]] *                                                          \
                *(const wide *)(weight + WIDE * (PARTS * (int64_t)place[k + j / PARTS] + j % PARTS));  \
        for (; k < count; k++)                                                                         \
            UNROLLED for (int j = 0; j < PARTS; j++) sums[0][j] +=                                     \
                value[place[k]] * *(const wide *)(weight + WIDE * (PARTS * (int64_t)place[k] + j));    \
        UNROLLED for (int j = PARTS; j < TURNS * PARTS; j++) sums[0][j % PARTS] += sums[j / PARTS][j % PARTS]; \
        UNROLLED for (int j = 0; j < PARTS; j++) *(wide *)(out + WIDE * j) = sums[0][j];               \
    }

TARGET static void NAME(panel)(
    const float *value, const int32_t *place, int64_t count, const float *weight, const float *bias, int64_t vectors,
    float *out) {
#if WIDE == 16
    if (vectors == 4) SUM(4, 4)
    else if (vectors == 2) SUM(2, 4)
    else SUM(1, 4)
#else /* sixteen registers: eight sums */
    if (vectors == 4) SUM(8, 1)
    else if (vectors == 2) SUM(4, 2)
    else SUM(2, 4)
#endif
}

TARGET static void NAME(passes)(const struct chain *c, int64_t first, int64_t end, struct room room) {
    for (int64_t start = first; start < end; start += TOGETHER) {
        const int64_t passes = end - start < TOGETHER ? end - start : TOGETHER;
        float *value = room.odd, *out = room.even;
        int bad[TOGETHER] = {0};
        for (int64_t s = 0; s < c->count; s++) {
            const struct stage *stage = &c->stages[s];
            const float *read[TOGETHER];
            int64_t counts[TOGETHER];
            for (int64_t i = 0; i < passes; i++) {
                const int64_t pass = start + i, draw = c->row_masks ? pass : pass / c->rows;
                read[i] = s ? value + i * room.stride : (const float *)c->values + pass % c->rows * stage->in;
                const uint16_t *keeps = stage->keeps + draw * stage->words;
                counts[i] = NAME(active)(read[i], keeps, stage->in, s ? FLT_MAX : c->largest, room.place + i * room.stride);
                bad[i] |= counts[i] < 0;
            }
            const float *weight = stage->weight;
            for (int64_t at = 0; at < stage->width;) {
                int64_t vectors = PANEL;
                while (stage->width - at < vectors * LANES) vectors /= 2;
                for (int64_t i = 0; i < passes; i++)
                    NAME(panel)(read[i], room.place + i * room.stride, counts[i], weight,
                                stage->bias + at, vectors, out + i * room.stride + at);
                weight += stage->in * vectors * LANES;
                at += vectors * LANES;
            }
            if (stage->relu)
                for (int64_t i = 0; i < passes; i++)
                    for (int64_t j = 0; j < stage->width; j++) {
                        float *x = out + i * room.stride + j;
                        *x = *x < 0 ? 0 : *x;
                    }
            float *swap = value;
            value = out;
            out = swap;
        }
        const struct stage *last = &c->stages[c->count - 1];
        float *output = c->output + start * last->out;
        for (int64_t i = 0; i < passes; i++) {
            memcpy(output + i * last->out, value + i * room.stride, last->out * sizeof(float));
            for (int64_t j = 0; bad[i] && j < last->out; j++) output[i * last->out + j] = __builtin_nanf("");
        }
        if (c->softmax) errorbar_softmax_rows(output, passes, last->out, output);
    }
}

#undef wide
#undef SUM
#undef UNROLLED
#undef NAME
#undef TARGET
#undef WIDE
#undef ACTIVE
