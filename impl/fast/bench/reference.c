/* What the benchmarks are compared with: the machine's own limits, and the same work in plain C.
 *
 * Compiled on demand by native.py; no part of the product. All memory is one bank: `words` is its first word, `first`
 * the index of that word in the address space (address / 8), `count` its length in words. */

#include <stdint.h>
#include <stddef.h>

#define ADDRESS 0x0000fffffffff000ull
#define AHEAD 24
#define LANES 32

/* Limit A or B: independent loads, prefetched, of the words that walks end in, or of all that they read. */
uint64_t loads(const uint64_t *words, const uint32_t *index, size_t n)
{
    uint64_t sum = 0;
    size_t i, body = n > AHEAD ? n - AHEAD : 0;

    for (i = 0; i < body; i++) {
        __builtin_prefetch(&words[index[i + AHEAD]], 0, 0);
        sum += words[index[i]];
    }
    for (; i < n; i++)
        sum += words[index[i]];
    return sum;
}

/* The read limit: every word of some pages, in their order, once. */
uint64_t read_pages(const uint64_t *words, const uint32_t *page, size_t n)
{
    uint64_t a = 0, b = 0, c = 0, d = 0;

    for (size_t i = 0; i < n; i++) {
        const uint64_t *row = words + (size_t)page[i] * 512;
        for (int j = 0; j < 512; j += 4) {
            a += row[j];
            b += row[j + 1];
            c += row[j + 2];
            d += row[j + 3];
        }
    }
    return a + b + c + d;
}

/* One walk after the other: the descriptor at which it ends, and its level. */
void walk_scalar(const uint64_t *words, uint64_t first, uint64_t count, uint64_t root, int start, int ipa_bits,
                 const uint64_t *ipa, size_t n, uint64_t *found, int8_t *level)
{
    for (size_t i = 0; i < n; i++) {
        int at = start, shift = 12 + 9 * (3 - start);
        uint64_t index, word;

        if (ipa[i] >> ipa_bits) {
            found[i] = 0;
            level[i] = 0;
            continue;
        }
        index = (root >> 3) + (ipa[i] >> shift) - first;
        for (;;) {
            if (index >= count) {
                found[i] = 0;
                level[i] = (int8_t)~at;
                break;
            }
            word = words[index];
            if (at == 3 || (word & 3) != 3) {
                found[i] = word;
                level[i] = (int8_t)at;
                break;
            }
            at++;
            shift -= 9;
            index = ((word & ADDRESS) >> 3) + ((ipa[i] >> shift) & 511) - first;
        }
    }
}

/* The same, LANES walks side by side with prefetches: what a compiled kernel would give. */
void walk_interleaved(const uint64_t *words, uint64_t first, uint64_t count, uint64_t root, int start, int ipa_bits,
                      const uint64_t *ipa, size_t n, uint64_t *found, int8_t *level)
{
    uint64_t index[LANES];
    int lane[LANES];

    for (size_t base = 0; base < n; base += LANES) {
        int width = n - base < LANES ? (int)(n - base) : LANES, alive = 0;
        int at = start, shift = 12 + 9 * (3 - start);

        for (int k = 0; k < width; k++) {
            uint64_t a = ipa[base + k];
            if (a >> ipa_bits) {
                found[base + k] = 0;
                level[base + k] = 0;
                continue;
            }
            index[alive] = (root >> 3) + (a >> shift) - first;
            lane[alive++] = k;
        }
        while (alive) {
            int next = 0;
            shift -= 9;
            for (int k = 0; k < alive; k++) {
                int who = lane[k];
                uint64_t word;
                if (index[k] >= count) {
                    found[base + who] = 0;
                    level[base + who] = (int8_t)~at;
                    continue;
                }
                word = words[index[k]];
                if (at == 3 || (word & 3) != 3) {
                    found[base + who] = word;
                    level[base + who] = (int8_t)at;
                    continue;
                }
                index[next] = ((word & ADDRESS) >> 3) + ((ipa[base + who] >> shift) & 511) - first;
                if (index[next] < count)
                    __builtin_prefetch(&words[index[next]], 0, 0);
                lane[next++] = who;
            }
            alive = next;
            at++;
        }
    }
}

/* The owner map over level-3 tables: frames that were another's are counted. */
uint64_t audit(const uint64_t *words, const uint32_t *page, size_t n, uint64_t low, uint64_t frames, uint8_t *owner,
               uint8_t me)
{
    uint64_t twice = 0;

    for (size_t i = 0; i < n; i++) {
        const uint64_t *row = words + (size_t)page[i] * 512;
        for (int j = 0; j < 512; j++) {
            uint64_t frame = ((row[j] & ADDRESS) >> 12) - low;
            if ((row[j] & 0x403) != 0x403 || frame >= frames)
                continue;
            if (j + 16 < 512) {
                uint64_t later = ((row[j + 16] & ADDRESS) >> 12) - low;
                if (later < frames)
                    __builtin_prefetch(&owner[later], 1, 0);
            }
            if (owner[frame] && owner[frame] != me)
                twice++;
            else
                owner[frame] = me;
        }
    }
    return twice;
}
