/* Two-dimensional FFTs of 16 x 16 real samples, a vector of channels at a time, for one instruction set. srcnn.h
 * includes this file several times, with the macros that conv_rows.h describes.
 *
 * A spectrum of real samples is symmetric, so 128 complex numbers and 4 real ones describe it: columns 0 and 8 of the
 * row transforms are real, and so are their own transforms at rows 0 and 8. The real transforms split even and odd
 * samples; the complex one is of radix 4 x 4. Factors of the inverse (1/256) are in the weights.
 *
 * A product of two complex numbers takes three real ones (Gauss): with data a + bi and weights c + di,
 *   p1 = (a + b) c,  p2 = a (d - c),  p3 = b (c + d)   gives   (p1 - p3) + (p1 + p2) i.
 * So a complex number has three places in a spectrum: a, b, a + b before the products, p2, p3, p1 after them.
 */
#define FN SRT_TARGET static inline __attribute__((always_inline)) void

/* The rotations by pi/8, pi/4 and 3 pi/8. */
#define COS_1 0.92387953251128674f
#define SIN_1 0.38268343236508978f
#define COS_2 0.70710678118654752f

/* Real transforms: x[0], x[step], ... -> re[0 ... n/2], im[1 ... n/2 - 1]. */
FN SRT_NAME(real4)(VEC a, VEC b, VEC c, VEC d, VEC *re0, VEC *re1, VEC *im1, VEC *re2) {
    const VEC even = a + c, odd = b + d;
    *re0 = even + odd, *re2 = even - odd, *re1 = a - c, *im1 = d - b;
}

FN SRT_NAME(real8)(const VEC *x, int step, VEC *re, VEC *im) {
    VEC e0, e1, f1, e2, o0, o1, p1, o2;
    SRT_NAME(real4)(x[0], x[2 * step], x[4 * step], x[6 * step], &e0, &e1, &f1, &e2);
    SRT_NAME(real4)(x[step], x[3 * step], x[5 * step], x[7 * step], &o0, &o1, &p1, &o2);
    const VEC r = COS_2 * (o1 + p1), i = COS_2 * (p1 - o1);
    re[0] = e0 + o0, re[4] = e0 - o0;
    re[1] = e1 + r, im[1] = f1 + i;
    re[2] = e2, im[2] = -o2;
    re[3] = e1 - r, im[3] = i - f1;
}

FN SRT_NAME(real16)(const VEC *x, VEC *re, VEC *im) {
    VEC er[5], ei[4], or[5], oi[4], r, i;
    SRT_NAME(real8)(x, 2, er, ei);
    SRT_NAME(real8)(x + 1, 2, or, oi);
    re[0] = er[0] + or[0], re[8] = er[0] - or[0];
    re[4] = er[4], im[4] = -or[4];
    r = COS_1 * or[1] + SIN_1 * oi[1], i = COS_1 * oi[1] - SIN_1 * or[1];
    re[1] = er[1] + r, im[1] = ei[1] + i, re[7] = er[1] - r, im[7] = i - ei[1];
    r = COS_2 * (or[2] + oi[2]), i = COS_2 * (oi[2] - or[2]);
    re[2] = er[2] + r, im[2] = ei[2] + i, re[6] = er[2] - r, im[6] = i - ei[2];
    r = SIN_1 * or[3] + COS_1 * oi[3], i = SIN_1 * oi[3] - COS_1 * or[3];
    re[3] = er[3] + r, im[3] = ei[3] + i, re[5] = er[3] - r, im[5] = i - ei[3];
}

/* Their inverses, without the factor 1 / n. */
FN SRT_NAME(inverse4)(VEC re0, VEC re1, VEC im1, VEC re2, VEC *x, int step) {
    const VEC even = re0 + re2, odd = re0 - re2;
    x[0] = even + 2.0f * re1, x[2 * step] = even - 2.0f * re1;
    x[step] = odd - 2.0f * im1, x[3 * step] = odd + 2.0f * im1;
}

FN SRT_NAME(inverse8)(const VEC *re, const VEC *im, VEC *x, int step) {
    const VEC r = re[1] - re[3], i = im[1] + im[3];
    SRT_NAME(inverse4)(re[0] + re[4], re[1] + re[3], im[1] - im[3], 2.0f * re[2], x, 2 * step);
    SRT_NAME(inverse4)(re[0] - re[4], COS_2 * (r - i), COS_2 * (r + i), -2.0f * im[2], x + step, 2 * step);
}

FN SRT_NAME(inverse16)(const VEC *re, const VEC *im, VEC *x) {
    VEC er[5], ei[4], or[5], oi[4], r, i;
    er[0] = re[0] + re[8], or[0] = re[0] - re[8];
    er[4] = 2.0f * re[4], or[4] = -2.0f * im[4];
    er[1] = re[1] + re[7], ei[1] = im[1] - im[7], r = re[1] - re[7], i = im[1] + im[7];
    or[1] = COS_1 * r - SIN_1 * i, oi[1] = COS_1 * i + SIN_1 * r;
    er[2] = re[2] + re[6], ei[2] = im[2] - im[6], r = re[2] - re[6], i = im[2] + im[6];
    or[2] = COS_2 * (r - i), oi[2] = COS_2 * (r + i);
    er[3] = re[3] + re[5], ei[3] = im[3] - im[5], r = re[3] - re[5], i = im[3] + im[5];
    or[3] = SIN_1 * r - COS_1 * i, oi[3] = SIN_1 * i + COS_1 * r;
    SRT_NAME(inverse8)(er, ei, x, 2);
    SRT_NAME(inverse8)(or, oi, x + 1, 2);
}

/* Complex transform in place. X[k] ends in place SRT_SLOT(k). With re and im exchanged it is the inverse. */
#define SRT_SLOT(k) ((k) / 4 + 4 * ((k) % 4))

FN SRT_NAME(butterfly)(VEC *re, VEC *im, int a, int step) {
    const int b = a + step, c = b + step, d = c + step;
    const VEC sr = re[a] + re[c], si = im[a] + im[c], dr = re[a] - re[c], di = im[a] - im[c];
    const VEC tr = re[b] + re[d], ti = im[b] + im[d], ur = re[b] - re[d], ui = im[b] - im[d];
    re[a] = sr + tr, im[a] = si + ti, re[c] = sr - tr, im[c] = si - ti;
    re[b] = dr + ui, im[b] = di - ur, re[d] = dr - ui, im[d] = di + ur;
}

FN SRT_NAME(rotate)(VEC *re, VEC *im, float c, float s) {
    const VEC a = *re, b = *im;
    *re = c * a + s * b, *im = c * b - s * a;
}

FN SRT_NAME(complex16)(VEC *re, VEC *im) {
SRT_UNROLL(4)
    for (int k = 0; k < 4; ++k) SRT_NAME(butterfly)(re, im, k, 4);
    SRT_NAME(rotate)(re + 5, im + 5, COS_1, SIN_1);
    SRT_NAME(rotate)(re + 6, im + 6, COS_2, COS_2);
    SRT_NAME(rotate)(re + 7, im + 7, SIN_1, COS_1);
    SRT_NAME(rotate)(re + 9, im + 9, COS_2, COS_2);
    const VEC quarter = re[10];
    re[10] = im[10], im[10] = -quarter;
    SRT_NAME(rotate)(re + 11, im + 11, -COS_2, COS_2);
    SRT_NAME(rotate)(re + 13, im + 13, SIN_1, COS_1);
    SRT_NAME(rotate)(re + 14, im + 14, -COS_2, COS_2);
    SRT_NAME(rotate)(re + 15, im + 15, -COS_1, -SIN_1);
SRT_UNROLL(4)
    for (int k = 0; k < 4; ++k) SRT_NAME(butterfly)(re, im, 4 * k, 1);
}

/* Samples of one vector of channels, 16 rows of 16 -> a spectrum, whose places are `pitch` floats apart. */
SRT_TARGET static void SRT_NAME(forward)(const float *const *rows, float *spectrum, ptrdiff_t pitch) {
    VEC re[9][16], im[9][16];
    for (int y = 0; y < 16; ++y) {
        VEC x[16], r[9], i[8];
        for (int k = 0; k < 16; ++k) x[k] = *(const VEC *)(rows[y] + k * SRT_LANES);
        SRT_NAME(real16)(x, r, i);
        for (int k = 0; k < 9; ++k) re[k][y] = r[k];
        for (int k = 1; k < 8; ++k) im[k][y] = i[k];
    }
#define PUT(value) *(VEC *)spectrum = (value), spectrum += pitch
    for (int column = 0; column < 9; column += 8) {
        VEC r[9], i[8];
        SRT_NAME(real16)(re[column], r, i);
        PUT(r[0]);
        PUT(r[8]);
        for (int k = 1; k < 8; ++k) {
            PUT(r[k]);
            PUT(i[k]);
            PUT(r[k] + i[k]);
        }
    }
    for (int column = 1; column < 8; ++column) {
        SRT_NAME(complex16)(re[column], im[column]);
        for (int k = 0; k < 16; ++k) {
            PUT(re[column][SRT_SLOT(k)]);
            PUT(im[column][SRT_SLOT(k)]);
            PUT(re[column][SRT_SLOT(k)] + im[column][SRT_SLOT(k)]);
        }
    }
#undef PUT
}

/* Products in the places of a spectrum -> 12 rows of 12 samples, with a bias and ReLU. */
SRT_TARGET static void SRT_NAME(inverse)(const float *spectrum, ptrdiff_t pitch, const float *bias,
                                         float *const *rows) {
    VEC re[12][9], im[12][8];
#define GET() (*(const VEC *)((spectrum += pitch) - pitch))
#define GET_COMPLEX(r, i)                        \
    do {                                         \
        const VEC p2 = GET(), p3 = GET();        \
        const VEC p1 = GET();                    \
        (r) = p1 - p3, (i) = p1 + p2;            \
    } while (0)
    for (int column = 0; column < 9; column += 8) {
        VEC r[9], i[8], x[16];
        r[0] = GET();
        r[8] = GET();
        for (int k = 1; k < 8; ++k) GET_COMPLEX(r[k], i[k]);
        SRT_NAME(inverse16)(r, i, x);
        for (int y = 0; y < 12; ++y) re[y][column] = x[y];
    }
    for (int column = 1; column < 8; ++column) {
        VEC r[16], i[16];
        for (int k = 0; k < 16; ++k) GET_COMPLEX(r[k], i[k]);
        SRT_NAME(complex16)(i, r);
        for (int y = 0; y < 12; ++y) re[y][column] = r[SRT_SLOT(y)], im[y][column] = i[SRT_SLOT(y)];
    }
#undef GET_COMPLEX
#undef GET
    const VEC add = *(const VEC *)bias;
    for (int y = 0; y < 12; ++y) {
        VEC x[16];
        SRT_NAME(inverse16)(re[y], im[y], x);
        for (int k = 0; k < 12; ++k) *(VEC *)(rows[y] + k * SRT_LANES) = SRT_NAME(relu)(x[k] + add);
    }
}
#undef COS_1
#undef SIN_1
#undef COS_2
#undef FN
