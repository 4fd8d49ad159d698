/* Tiles of channel_sums.c, once for each kind of processor: NAME(f), TARGET and LANES, channels in a vector, are set. */

typedef float NAME(lanes) __attribute__((vector_size(4 * LANES), may_alias));
typedef float NAME(loose) __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* anywhere in memory */
#define lanes NAME(lanes)
#define loose NAME(loose)

#ifndef LARGER /* b where either is NaN */
#define BITS(a) ((__typeof__((a) > (a)))(a))
#define LARGER(a, b) ((lanes)((((a) > (b)) & BITS(a)) | (~((a) > (b)) & BITS(b))))
#endif

/* What each subset of a group of input channels adds to the sums at SLOTS positions, for LANES output channels: partial
   (groups, SUBSETS, SLOTS, LANES). wrong (SLOTS): 0, or NaN where a channel is not finite. row: padded; weight: (channels,
   taps, LANES). */
TARGET static void NAME(partial_maps)(
    const struct convolution *c, const float *row, const float *weight, const int32_t *slot_at, float *partial,
    lanes *wrong) {
    const int64_t plane = c->padded_height * c->padded_width;
    const lanes zero = {0};
#define START(i) lanes wrong##i = {0}; const float *x##i = row + slot_at[i];
    EACH_SLOT(START)
#undef START
    lanes *group = (lanes *)partial;
    for (int64_t channel = 0, bit = 1; channel < c->channels; channel++) {
#define START(i) lanes y##i = {0};
        EACH_SLOT(START)
#undef START
        for (int64_t tap = 0; tap < c->taps; tap++, weight += LANES) {
            const lanes w = *(const loose *)weight;
            const int64_t at = c->tap_at[tap];
#define ADD(i) y##i += w * x##i[at];
            EACH_SLOT(ADD)
#undef ADD
        }
        lanes *own = group + (bit - 1) * SLOTS; /* alone; behind it with each subset of those before it */
#define KEEP(i) own[i] = y##i; wrong##i += y##i * zero; x##i += plane;
        EACH_SLOT(KEEP)
#undef KEEP
        for (int64_t with = 1; with < bit; with++) {
            const lanes *rest = group + (with - 1) * SLOTS;
            lanes *both = own + with * SLOTS;
#define ADD(i) both[i] = rest[i] + y##i;
            EACH_SLOT(ADD)
#undef ADD
        }
        bit *= 2;
        if (bit > SUBSETS) {
            bit = 1;
            group += SUBSETS * SLOTS;
        }
    }
#define KEEP(i) wrong[i] = wrong##i;
    EACH_SLOT(KEEP)
#undef KEEP
}

/* Writes to out (samples apart by out_step): the largest of each `phases` slots' sums. after, out: at the first of the
   output channels, of which there are `columns`, LANES where they are full, and of the `places` positions. */
TARGET INLINE void NAME(sum_maps)(
    const struct convolution *c, const float *partial, const lanes *wrong, const struct sum *sums, int64_t samples,
    const float *bias, const float *after, int64_t after_step, float *out, int64_t out_step, int64_t columns, int64_t places,
    const int phases, const int full) {
    const lanes *maps = (const lanes *)partial;
    const lanes zero = {0};
    const int relu = (int)c->relu;
    const int64_t outputs = c->outputs;
    lanes shift[SLOTS];
    for (int i = 0; i < SLOTS / phases; i++) {
        shift[i] = *(const loose *)bias;
        for (int k = 0; k < phases; k++) shift[i] += wrong[i * phases + k];
    }
    for (int64_t t = 0; t < samples; t++) {
        const struct sum *s = sums + t;
#define START(i) lanes sum##i = zero;
        EACH_SLOT(START)
#undef START
        for (const int32_t *subset = s->subsets, *end = subset + s->count; subset < end; subset++) {
            const lanes *y = maps + *subset * (int64_t)SLOTS;
#define ADD(i) sum##i += y[i];
            EACH_SLOT(ADD)
#undef ADD
        }
        float *to = out + t * out_step;
        const lanes scale = zero + s->scale;
        lanes next = zero + 1.0f;
        if (after && full) next = *(const loose *)(after + t * after_step);
        else if (after) memcpy(&next, after + t * after_step, sizeof(float) * columns);
#define GIVE(place, value)                                                                \
    if (place < places) {                                                                 \
        lanes v = (value) * scale + shift[place];                                         \
        if (relu) v = LARGER(zero, v);                                                    \
        v *= next;                                                                        \
        if (full) *(loose *)(to + (place) * outputs) = v;                                 \
        else memcpy(to + (place) * outputs, &v, sizeof(float) * columns);                 \
    }
        if (phases == 4) {
            const lanes a = LARGER(sum0, sum1), b = LARGER(sum2, sum3), d = LARGER(sum4, sum5), e = LARGER(sum6, sum7);
            GIVE(0, LARGER(a, b))
            GIVE(1, LARGER(d, e))
        } else if (phases == 2) {
            GIVE(0, LARGER(sum0, sum1))
            GIVE(1, LARGER(sum2, sum3))
            GIVE(2, LARGER(sum4, sum5))
            GIVE(3, LARGER(sum6, sum7))
        } else {
#define GIVE_EACH(i) GIVE(i, sum##i)
            EACH_SLOT(GIVE_EACH)
#undef GIVE_EACH
        }
#undef GIVE
    }
}

/* One row, LANES output channels from `first` on, all positions and samples. */
TARGET static void NAME(tile)(
    const struct convolution *c, const float *row, const struct sum *sums, int64_t samples, int64_t first, const float *after,
    int64_t after_step, float *out, int64_t out_step, float *partial) {
    const int64_t at_once = SLOTS / c->phases;
    const int64_t columns = c->outputs - first < LANES ? c->outputs - first : LANES;
    const int32_t *slot_at = c->slot_at;
    lanes wrong[SLOTS];
    for (int64_t place = 0; place < c->positions; place += at_once, slot_at += SLOTS) {
        NAME(partial_maps)(c, row, c->weight + first * c->channels * c->taps, slot_at, partial, wrong);
#define SUM(phases, full)                                                                                      \
    NAME(sum_maps)(c, partial, wrong, sums, samples, c->bias + first, after, after_step,                       \
                   out + place * c->outputs + first, out_step, columns, c->positions - place, phases, full)
        if (columns == LANES && c->phases == 4) SUM(4, 1);
        else if (columns == LANES && c->phases == 2) SUM(2, 1);
        else if (columns == LANES) SUM(1, 1);
        else if (c->phases == 4) SUM(4, 0);
        else if (c->phases == 2) SUM(2, 0);
        else SUM(1, 0);
#undef SUM
    }
}

#undef lanes
#undef loose
#undef LARGER
#undef BITS
#undef LANES
#undef NAME
#undef TARGET
