/* The mailbox between a guest and the host: impl/xen/mailbox.py has the same layout in Python.
 *
 * Each vCPU has one page of head, then its items.  The host writes items and their count, then `request`; the guest runs
 * them in order and then sets `done` to `request`.  Little-endian; offsets are the same on arm64 and arm32.
 */
#ifndef MAILBOX_H
#define MAILBOX_H

#include <stdint.h>

#define MAILBOX_MAGIC 0x786F626C6C6B6C42ull   /* not in the image: composed at run time from its two halves */
#define MAILBOX_VERSION 1u

#define PAGE 4096u
#define REGISTERS 31

/* what an item does */
enum { DO_NOTHING, DO_CALL, DO_LOAD, DO_STORE, DO_FETCH, DO_PUT, DO_AWAIT, DO_SPIN, DO_INTERRUPT, DO_CACHE };

/* flags of an item */
#define FLAG_FULL 1u      /* DO_CALL: all registers come from the head and go there */

/* how an item ended */
enum {
    OUTCOME_NOT_RUN, OUTCOME_VALUE, OUTCOME_DATA_ABORT, OUTCOME_FETCH_ABORT, OUTCOME_UNDEFINED, OUTCOME_STUCK,
    OUTCOME_SERROR, OUTCOME_OTHER, OUTCOME_CANNOT
};

struct item {
    uint8_t kind, size;
    uint16_t flags;
    uint32_t instruction;     /* DO_CALL: the word that is executed */
    uint64_t in[6];           /* x0..x4 (r0..r4) and x16 (r12); DO_LOAD: address; DO_STORE: address, value */
    uint16_t from[6];         /* 1 + the item whose first result is added to in[i]; 0: none */
    uint32_t unused;
    uint32_t outcome;
    uint32_t changed;         /* DO_CALL: bit n: register n, neither of in[], changed */
    uint64_t out[6];          /* after a call x0..x4, x16; a value; after a fault syndrome, address, pc, status */
};

struct head {
    uint64_t magic;           /* written last */
    uint32_t version, domain, vcpu, capacity;   /* capacity: items */
    uint64_t head_ipa, items_ipa;
    uint64_t low, high;       /* guest addresses [low, high) that the payload keeps for itself */
    uint64_t ram_base, ram_size;
    uint64_t hole, hole_size; /* where Xen offers room for grants */
    uint64_t entry;           /* of a vCPU started by PSCI */
    uint32_t request, count;
    uint32_t done, position;  /* position: items finished */
    uint32_t turn, polls;     /* DO_AWAIT waits for turn; polls: grows while idle */
    uint32_t gic, width;      /* 2 or 3; 32 or 64 */
    uint64_t gicd, gicc;      /* gicc: GICR of a GICv3 */
    uint64_t frequency;       /* of the counter, Hz */
    uint32_t died, trim_error;  /* died: an exception outside of an item, and what it was in registers[0..3] */
    uint64_t registers[REGISTERS];
};

_Static_assert(sizeof(struct item) == 128, "items are 128 bytes");
_Static_assert(sizeof(struct head) == 408, "as in mailbox.py; the slot is at 2048, the host's scratch at 3072");

#endif
