/* What Python calls. The structures are laid out again in __init__.py: whoever changes one changes LAYOUT in both. */
#ifndef ERRORBAR_LIBRARY_H
#define ERRORBAR_LIBRARY_H

#include <stdint.h>

#define LAYOUT 4
#define MOST_CLASSES 1024

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

struct moments {
    int64_t samples, columns;
    int64_t blocks;               /* of the same size, whose samples depend on each other; 0: all are independent */
    const float *values;          /* (samples, columns) */
    double *mean, *std;           /* (columns) */
};

/* Fills m->mean and m->std; definitions: service/statistics/moments.py. */
void errorbar_moments(const struct moments *m, int threads);

struct stage {
    int64_t in, out, width, words; /* width: out, rounded up to vectors of 16; words: that hold the bits of a mask */
    const float *weight;          /* panels of 32 outputs (the last one may have 16), each (in, outputs); 0 beyond out */
    const float *bias;            /* (width) */
    const uint16_t *keeps;        /* (samples or passes, words): bit i % 16 of word i / 16 says whether unit i stays */
    int64_t relu;
};

struct chain {
    int64_t rows, samples, count;
    int64_t row_masks;            /* whether each row has masks of its own */
    int64_t softmax;              /* whether to give probabilities; out of the last stage is at most MOST_CLASSES then */
    const float *values;          /* (rows, in of the first stage) */
    float *output;                /* (samples, rows, out of the last stage) */
    struct stage *stages;
};

/* Fills c->output. Returns 0, or 1 where memory ran out. */
int errorbar_dense_chain(const struct chain *c, int threads);

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

int errorbar_layout(void);

#endif
