/* What Python calls. The structures are laid out again in __init__.py. */
#ifndef ERRORBAR_LIBRARY_H
#define ERRORBAR_LIBRARY_H

#include <stdint.h>

#define MOST_CLASSES 1024
#define MOST_BLOCKS 64

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

struct masks {
    uint64_t key[2];
    int64_t balanced;
    int64_t inner, first_block, blocks, runs;
    const int64_t *outer;         /* (runs, 2): counter words 2 and 3 */
    int64_t rest, few, many;      /* balanced: see masks.py; independent samples: rest is the least half that stays */
    const int32_t *patterns;      /* (few + many): bit k says whether sample k keeps the unit */
    int64_t keeps;                /* the bits of what a unit that stays is multiplied by */
    int32_t *made;                /* (blocks, samples of a block, runs, inner) */
};

/* Fills m->made. */
void errorbar_masks(const struct masks *m, int threads);

struct dither {
    int64_t samples, rows, units; /* of a row's mask */
    uint32_t start, sample_step, unit_step; /* turns: of the first sample, and what each sample and each unit adds */
    int32_t limit;                /* under which a unit that stays gets high */
    uint32_t low, high;           /* bits of bfloat16 */
    const int32_t *stays;         /* (samples, rows, units), not 0 where a unit stays */
    uint16_t *made;               /* of that shape: 0, low or high */
};

/* Fills d->made; definitions: service/sampling/dithering.py. */
void errorbar_dither(const struct dither *d, int threads);

struct moments {
    int64_t samples, columns;
    int64_t blocks;               /* of the same size, whose samples depend on each other; 0: all are independent */
    const float *values;          /* (samples, columns) */
    double *mean, *std;           /* (columns) */
};

/* Fills m->mean and m->std; definitions: service/statistics/moments.py. */
void errorbar_moments(const struct moments *m, int threads);

struct stage {
    int64_t in, out, width, words; /* words: that hold the bits of a mask */
    /* errorbar_dense_chain: width is out, rounded up to vectors of 16, and weight has panels of 64 outputs, then of 32
       and 16, each (in, outputs) of float32. errorbar_tile_chain: width is in, rounded up to tiles of 32, and weight has
       tiles of 16 outputs, rounded up to 32, each (width / 32, 16, 32) of bfloat16; of the last stage it has panels of 16
       outputs, each (in, 16) of float32. What is added to round up is 0. */
    const void *weight;
    const float *bias;            /* as many as outputs of weight */
    const uint16_t *keeps;        /* (samples or passes, words): bit i % 16 of word i / 16 says whether unit i stays */
    int64_t relu;
};

struct chain {
    int64_t rows, samples, count;
    int64_t row_masks;            /* whether each row has masks of its own */
    int64_t softmax;              /* whether to give probabilities; out of the last stage is at most MOST_CLASSES then */
    float largest;                /* of values; where one is larger, a unit may overflow and the outputs are NaN */
    const void *values;           /* (rows, in of the first stage) of float32; for tiles (rows, its width) of bfloat16 */
    float *output;                /* (samples, rows, out of the last stage) */
    struct stage *stages;
};

/* Fills c->output. Returns 0, or 1 where memory ran out. */
int errorbar_dense_chain(const struct chain *c, int threads);

/* Whether this processor has matrix tiles for bfloat16, and this process may use them. */
int errorbar_has_tiles(void);

/* The same in bfloat16, for two stages or more, where errorbar_has_tiles() said yes. */
int errorbar_tile_chain(const struct chain *c, int threads);

struct classes {
    int64_t samples, rows, classes; /* at most MOST_CLASSES */
    const float *values;            /* (samples, rows, classes): logits, or probabilities */
    float *made;                    /* of that shape: the logits' probabilities */
    int64_t size;                   /* samples of a block, but for the last one */
    double *entropies;              /* (blocks, rows): sums of the samples' entropies, nats */
    int64_t *votes;                 /* (rows, classes): samples whose most probable class it is */
};

/* Of (rows, classes); made may be logits. */
void errorbar_softmax_rows(const float *logits, int64_t rows, int64_t classes, float *made);

/* Fills c->made from logits. */
void errorbar_softmax(const struct classes *c, int threads);

/* Fills c->entropies and c->votes from probabilities. */
void errorbar_information(const struct classes *c, int threads);

struct statistics {
    int64_t samples, rows, columns; /* columns: at most MOST_CLASSES */
    int64_t size, blocks;         /* samples of a block, but for the last one; at most MOST_BLOCKS */
    int64_t balanced;             /* whether the samples of a block depend on each other */
    const float *values;          /* (samples, rows, columns) */
    const double *mean, *std;     /* (rows, columns) */
    const double *entropies;      /* as in classes, where there is information to be had */
    const int64_t *votes;
    double *mean_se, *std_se;     /* (rows, columns); left alone with fewer than two (balanced) or three blocks */
    double *information;          /* NULL, or (6, rows): entropy, entropy_se, expected_entropy, mutual_information,
                                     mutual_information_se, variation_ratio; errors left alone with fewer than three */
};

/* Returns 0, or 1 where memory ran out. */
int errorbar_statistics(const struct statistics *s, int threads);

struct convolution {
    int64_t channels, height, width, padded_height, padded_width, top, left; /* top, left: of the padding */
    int64_t taps, outputs;
    int64_t positions;            /* of the output, behind the max-pool */
    int64_t phases;               /* numbers of which the pool takes the largest: 1 (no pool), 2 or 4 */
    int64_t relu;
    int64_t lanes;                /* output channels side by side: 8, or 16 where errorbar_channel_lanes says so */
    const int32_t *tap_at;        /* (taps): places in a padded plane, from a window's start */
    const int32_t *slot_at;       /* (positions, phases): where the windows start; eight at a time, the last repeated */
    const float *weight;          /* (outputs / lanes rounded up, channels, taps, lanes) */
    const float *bias;            /* (outputs, rounded up to whole lanes) */
};

struct channel_sums {
    const struct convolution *convolution;
    int64_t rows, samples;
    const float *values;          /* (rows, channels, height, width), so many numbers apart: */
    int64_t stride[4];
    const float *mask;            /* (samples, mask_rows, channels): each sample's of 0 and one positive number */
    int64_t mask_rows;            /* 1, or as many as rows */
    const float *after;           /* NULL, or (samples, after_rows, outputs): what the results are multiplied by */
    int64_t after_rows;
    float *output;                /* (samples, rows, positions, outputs) */
};

/* Fills s->output. Returns 0, or 1 where memory ran out. */
int errorbar_channel_sums(const struct channel_sums *s, int threads);

/* The most lanes that this processor runs: 16 or 8. */
int64_t errorbar_channel_lanes(void);

/* The digest of the sources, as sources.py makes it. */
const char *errorbar_sources(void);

#endif
