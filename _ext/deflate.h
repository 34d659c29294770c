/* Deflate (RFC 1951) without matches, in a zlib wrapper (RFC 1950), for differences of neighbouring samples.
 *
 * In differences of photographs there is hardly anything to match, so all that can be gained is in the lengths of the codes, and
 * looking for matches takes most of an encoder's time. Every block of 64 KiB has Huffman codes of its own or is stored,
 * whichever is shorter. The output depends on nothing but the input, so a resumed file has the same bytes.
 *
 * Code lengths: Moffat and Katajainen, In-Place Calculation of Minimum-Redundancy Codes, 1995. Those that are too long become
 * as long as allowed, and others longer until Kraft's sum is 1 again, which costs almost nothing.
 */
#ifndef SRT_DEFLATE_H
#define SRT_DEFLATE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SRT_BLOCK_BYTES 65535 /* what a stored block can hold */
#define SRT_END 256           /* the symbol after the last byte of a block */
#define SRT_SYMBOLS 257
#define SRT_LIMIT 14 /* longest code: four of them and seven bits fit into 64 bits; the format allows 15 */

typedef struct {
    uint16_t code[SRT_SYMBOLS];
    uint8_t bits[SRT_SYMBOLS];
} srt_codes;

typedef struct {
    uint64_t held; /* bits that are not written yet, the first in the lowest place */
    int count;
    uint8_t *at;
} srt_bits;

/* Most bytes that `size` bytes are coded as. */
static inline ptrdiff_t srt_deflate_bound(ptrdiff_t size) {
    return size + 5 * (size / SRT_BLOCK_BYTES + 1) + 16;
}

static inline void srt_put(srt_bits *out, uint32_t value, int count) {
    out->held |= (uint64_t)value << out->count;
    out->count += count;
}

/* Write whole bytes; up to 7 bits remain. Up to 8 bytes after them are overwritten. */
static inline void srt_flush(srt_bits *out) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(out->at, &out->held, 8);
#else
    for (int k = 0; k < 8; ++k) out->at[k] = (uint8_t)(out->held >> 8 * k);
#endif
    out->at += out->count / 8;
    out->held >>= out->count & ~7;
    out->count &= 7;
}

static int srt_by_count(const void *a, const void *b) { /* the symbol is in the lower bits, so no two are equal */
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Lengths of minimum-redundancy codes of at most `limit` bits for counts of symbols; 0 for those that do not occur. */
static void srt_lengths(const uint32_t *counts, int symbols, int limit, uint8_t *lengths) {
    uint64_t sorted[SRT_SYMBOLS];
    uint32_t a[SRT_SYMBOLS];
    int n = 0;
    memset(lengths, 0, (size_t)symbols);
    for (int s = 0; s < symbols; ++s)
        if (counts[s]) sorted[n++] = (uint64_t)counts[s] << 16 | (uint64_t)s;
    if (n < 2) { /* one code of one bit; some decoders want two */
        const int only = n ? (int)(sorted[0] & 0xFFFF) : 0;
        lengths[only] = lengths[only ? 0 : 1] = 1;
        return;
    }
    qsort(sorted, (size_t)n, sizeof *sorted, srt_by_count);
    for (int k = 0; k < n; ++k) a[k] = (uint32_t)(sorted[k] >> 16);
    /* Internal nodes of the tree and their parents, then depths of internal nodes, then of leaves. */
    int leaf = 2, root = 0;
    a[0] += a[1];
    for (int next = 1; next < n - 1; ++next) {
        for (int side = 0; side < 2; ++side) {
            const uint32_t added = side ? a[next] : 0;
            if (leaf >= n || (root < next && a[root] < a[leaf])) {
                a[next] = added + a[root];
                a[root++] = (uint32_t)next;
            } else {
                a[next] = added + a[leaf++];
            }
        }
    }
    a[n - 2] = 0;
    for (int next = n - 3; next >= 0; --next) a[next] = a[a[next]] + 1;
    int of_length[32] = {0}; /* codes of each length */
    int free_places = 1, depth = 0, next = n - 1;
    for (root = n - 2; free_places > 0; ++depth) {
        int used = 0;
        for (; root >= 0 && (int)a[root] == depth; --root) ++used;
        for (; free_places > used; --free_places, --next) ++of_length[depth < limit ? depth : limit];
        free_places = 2 * used;
    }
    uint32_t kraft = 0; /* in units of the shortest interval */
    for (int l = 1; l <= limit; ++l) kraft += (uint32_t)of_length[l] << (limit - l);
    while (kraft > 1u << limit) { /* split a code to make room for one of those that are too long */
        int l = limit - 1;
        while (!of_length[l]) --l;
        --of_length[limit], --of_length[l], of_length[l + 1] += 2, --kraft;
    }
    for (int l = limit, k = 0; l > 0; --l)
        for (int m = 0; m < of_length[l]; ++m) lengths[sorted[k++] & 0xFFFF] = (uint8_t)l;
}

/* Canonical codes, whose first bit is the lowest. */
static void srt_assign(srt_codes *codes, int symbols) {
    uint16_t next[16] = {0}, count[16] = {0};
    for (int s = 0; s < symbols; ++s) ++count[codes->bits[s]];
    count[0] = 0;
    for (int l = 1; l < 16; ++l) next[l] = (uint16_t)((next[l - 1] + count[l - 1]) << 1);
    for (int s = 0; s < symbols; ++s) {
        uint32_t code = next[codes->bits[s]]++, turned = 0;
        for (int k = 0; k < codes->bits[s]; ++k) turned |= (code >> k & 1u) << (codes->bits[s] - 1 - k);
        codes->code[s] = codes->bits[s] ? (uint16_t)turned : 0;
    }
}

/* Code lengths as a block's head has them: symbols below 19 with the bits after them. */
static int srt_runs(const uint8_t *lengths, int count, uint8_t *symbols, uint8_t *extra) {
    int n = 0;
    for (int k = 0; k < count;) {
        int run = 1;
        while (k + run < count && lengths[k + run] == lengths[k] && run < (lengths[k] ? 7 : 138)) ++run;
        if (!lengths[k] && run >= 3) {
            symbols[n] = run < 11 ? 17 : 18;
            extra[n++] = (uint8_t)(run < 11 ? run - 3 : run - 11);
        } else if (lengths[k] && run >= 4) {
            symbols[n] = lengths[k], extra[n++] = 0;
            symbols[n] = 16, extra[n++] = (uint8_t)(run - 4);
        } else {
            for (int m = 0; m < run; ++m) symbols[n] = lengths[k], extra[n++] = 0;
        }
        k += run;
    }
    return n;
}

/* A block of `size` bytes. */
static void srt_block(srt_bits *out, const uint8_t *data, ptrdiff_t size, int last) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint32_t counts[4][SRT_SYMBOLS] = {{0}}; /* four, so that equal bytes need not wait for each other */
    for (ptrdiff_t k = 0; k < size; ++k) ++counts[k & 3][data[k]];
    for (int s = 0; s < SRT_SYMBOLS; ++s) counts[0][s] += counts[1][s] + counts[2][s] + counts[3][s];
    counts[0][SRT_END] = 1;
    srt_codes codes = {{0}, {0}}, head = {{0}, {0}};
    srt_lengths(counts[0], SRT_SYMBOLS, SRT_LIMIT, codes.bits);

    uint8_t lengths[SRT_SYMBOLS + 1], runs[SRT_SYMBOLS + 1], extra[SRT_SYMBOLS + 1];
    memcpy(lengths, codes.bits, SRT_SYMBOLS);
    lengths[SRT_SYMBOLS] = 0; /* there are no distances */
    const int n = srt_runs(lengths, SRT_SYMBOLS + 1, runs, extra);
    uint32_t head_counts[19] = {0};
    for (int k = 0; k < n; ++k) ++head_counts[runs[k]];
    srt_lengths(head_counts, 19, 7, head.bits);
    int heads = 19;
    while (heads > 4 && !head.bits[order[heads - 1]]) --heads;

    uint64_t coded = 17 + 3 * (uint64_t)heads;
    for (int s = 0; s < 19; ++s)
        coded += (uint64_t)head_counts[s] * (head.bits[s] + (s == 16 ? 2u : s == 17 ? 3u : s == 18 ? 7u : 0u));
    for (int s = 0; s < SRT_SYMBOLS; ++s) coded += (uint64_t)counts[0][s] * codes.bits[s];
    if (8 * (uint64_t)size + 40 <= coded) {
        srt_put(out, (uint32_t)last, 3);
        srt_flush(out);
        if (out->count) srt_put(out, 0, 8 - out->count);
        srt_put(out, (uint32_t)size, 16);
        srt_put(out, ~(uint32_t)size & 0xFFFF, 16);
        srt_flush(out);
        if (size) memcpy(out->at, data, (size_t)size);
        out->at += size;
        return;
    }
    srt_assign(&codes, SRT_SYMBOLS);
    srt_assign(&head, 19);
    srt_put(out, (uint32_t)last | 2u << 1, 3);
    srt_put(out, SRT_SYMBOLS - 257, 5);
    srt_put(out, 0, 5); /* one length for distances */
    srt_put(out, (uint32_t)(heads - 4), 4);
    srt_flush(out);
    for (int k = 0; k < heads; ++k) {
        srt_put(out, head.bits[order[k]], 3);
        srt_flush(out);
    }
    for (int k = 0; k < n; ++k) {
        srt_put(out, head.code[runs[k]], head.bits[runs[k]]);
        if (runs[k] >= 16) srt_put(out, extra[k], runs[k] == 16 ? 2 : runs[k] == 17 ? 3 : 7);
        srt_flush(out);
    }
    uint32_t pairs[256]; /* code and number of bits of each byte */
    for (int s = 0; s < 256; ++s) pairs[s] = codes.code[s] | (uint32_t)codes.bits[s] << 16;
    srt_bits bits = *out; /* in registers: bytes that are written could be `out` */
    ptrdiff_t k = 0;
    for (; k + 4 <= size; k += 4) {
        for (int m = 0; m < 4; ++m) srt_put(&bits, pairs[data[k + m]] & 0xFFFF, (int)(pairs[data[k + m]] >> 16));
        srt_flush(&bits);
    }
    for (; k < size; ++k) srt_put(&bits, pairs[data[k]] & 0xFFFF, (int)(pairs[data[k]] >> 16));
    srt_flush(&bits);
    srt_put(&bits, codes.code[SRT_END], codes.bits[SRT_END]);
    srt_flush(&bits);
    *out = bits;
}

static uint32_t srt_adler32(const uint8_t *data, ptrdiff_t size) {
    uint32_t a = 1, b = 0;
    while (size > 0) {
        const uint32_t n = size < 4096 ? (uint32_t)size : 4096; /* sums fit into 32 bits: 255 * 4096 * 4097 / 2 < 2^31 */
        uint32_t sum = 0, weighted = 0;
        for (uint32_t k = 0; k < n; ++k) {
            sum += data[k];
            weighted += (n - k) * data[k];
        }
        b = (uint32_t)((b + (uint64_t)n * a + weighted) % 65521);
        a = (a + sum) % 65521;
        data += n, size -= n;
    }
    return b << 16 | a;
}

/* Code `size` bytes. out: srt_deflate_bound + 8 bytes. Returns how many were written. */
static ptrdiff_t srt_zlib(const uint8_t *data, ptrdiff_t size, uint8_t *out) {
    srt_bits bits = {0, 0, out};
    *bits.at++ = 0x78; /* deflate with a window of 32 KiB */
    *bits.at++ = 0x01; /* the fastest of four levels */
    ptrdiff_t from = 0;
    do {
        const ptrdiff_t count = size - from < SRT_BLOCK_BYTES ? size - from : SRT_BLOCK_BYTES;
        srt_block(&bits, data + from, count, from + count == size);
        from += count;
    } while (from < size);
    srt_put(&bits, 0, 7); /* fill the last byte */
    srt_flush(&bits);
    const uint32_t sum = srt_adler32(data, size);
    for (int k = 3; k >= 0; --k) *bits.at++ = (uint8_t)(sum >> 8 * k);
    return bits.at - out;
}

#endif
