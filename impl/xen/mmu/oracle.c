/* A payload for a bare processor in EL2 (arm64) or Hyp mode (arm32): it translates addresses by the processor's own MMU.
 *
 * RAM begins at machine address 0.  The host writes the control page and the requests, lets the processor run, and reads
 * the results: impl/mmu/machine.py has the same layout in Python.  Little-endian; offsets are the same on both widths.
 *
 * Source: Arm DDI 0487 (AT S12E1R/W, PAR_EL1, ESR_EL2; G: ATS12NSOPR/W, PAR, HSR), DDI 0406C (the same for Armv7).
 */
#include <stdint.h>

struct control {
    uint32_t request, done;       /* done becomes request when all is translated */
    uint32_t count, ready;        /* of requests; ready: the payload runs */
    uint64_t vttbr, vtcr, hcr;    /* of stage 2 */
    uint64_t sctlr, tcr, ttbr, mair;  /* of stage 1 */
    uint64_t window;              /* arm32: machine address of the entry that leads from 0..1 GB to any GB; 0: none */
    uint64_t vectors;             /* guest address of a page of HVC instructions, for fetches */
};

enum { READ, WRITE, FETCH };

struct translation {
    uint64_t address;             /* bits 63:2; bits 1:0 say what for */
    uint64_t par;                 /* of a fetch: 0 */
    uint64_t syndrome;            /* of the abort that it was answered with; 0: none */
};

#define CONTROL ((volatile struct control *)0x100000)
#define LIST ((volatile struct translation *)0x200000)

volatile uint64_t syndrome;
volatile uint64_t place;          /* of a fetch that aborted */
#define HVC 0x12                  /* class of an HVC of a 32-bit guest; of a 64-bit one four more */

#ifdef __aarch64__

asm(".pushsection .head, \"ax\"\n"
    ".globl _start\n"
    "_start:\n"
    "   mov     x0, #0x80000\n"
    "   mov     sp, x0\n"
    "   adr     x0, vectors\n"
    "   msr     vbar_el2, x0\n"
    "   isb\n"
    "   b       serve\n"
    "   .balign 2048\n"
    "vectors:\n"
    "   .skip   0x200\n"
    /* a synchronous exception: note it and go on behind the instruction */
    "   stp     x0, x1, [sp, #-16]!\n"
    "   mrs     x0, esr_el2\n"
    "   adrp    x1, syndrome\n"
    "   str     x0, [x1, #:lo12:syndrome]\n"
    "   mrs     x0, elr_el2\n"
    "   add     x0, x0, #4\n"
    "   msr     elr_el2, x0\n"
    "   ldp     x0, x1, [sp], #16\n"
    "   eret\n"
    "   .balign 512\n"
    /* from EL1: note it and go on behind the exception return that led there */
    "   stp     x0, x1, [sp, #-16]!\n"
    "   mrs     x0, esr_el2\n"
    "   adrp    x1, syndrome\n"
    "   str     x0, [x1, #:lo12:syndrome]\n"
    "   mrs     x0, far_el2\n"
    "   adrp    x1, place\n"
    "   str     x0, [x1, #:lo12:place]\n"
    "   mrs     x0, tpidr_el2\n"
    "   msr     elr_el2, x0\n"
    "   mov     x0, #0x3c9\n"
    "   msr     spsr_el2, x0\n"
    "   ldp     x0, x1, [sp], #16\n"
    "   eret\n"
    ".popsection\n");

#define SET(register, value) asm volatile("msr " #register ", %0" :: "r"((uint64_t)(value)))

static void set_up(void)
{
    SET(vttbr_el2, CONTROL->vttbr);
    SET(vtcr_el2, CONTROL->vtcr);
    SET(sctlr_el1, CONTROL->sctlr);
    SET(tcr_el1, CONTROL->tcr);
    SET(ttbr0_el1, CONTROL->ttbr);
    SET(mair_el1, CONTROL->mair);
    SET(vbar_el1, CONTROL->vectors);
    SET(hcr_el2, CONTROL->hcr);
    asm volatile("isb; dsb sy; tlbi alle1; dsb sy; isb" ::: "memory");
}

static uint64_t translated(uint64_t address, int write)
{
    uint64_t par;
    if (write)
        asm volatile("at s12e1w, %0" :: "r"(address) : "memory");
    else
        asm volatile("at s12e1r, %0" :: "r"(address) : "memory");
    asm volatile("isb; mrs %0, par_el1" : "=r"(par));
    return par;
}

/* Go on at an address in EL1; whatever happens there ends in an exception. */
static void run(uint64_t address)
{
    asm volatile("adr x9, 1f; msr tpidr_el2, x9; msr elr_el2, %0; msr spsr_el2, %1; isb; eret; 1:"
                 :: "r"(address), "r"(0x3c5ull) : "x9", "memory");
}

#else

asm(".pushsection .head, \"ax\"\n"
    ".arch armv7ve\n"
    ".arch_extension virt\n"
    ".arm\n"
    ".globl _start\n"
    "_start:\n"
    "   mov     sp, #0x80000\n"
    "   adr     r0, vectors\n"
    "   mcr     p15, 4, r0, c12, c0, 0\n"
    "   isb\n"
    "   b       serve\n"
    "   .balign 32\n"
    "vectors:\n"
    "1: b       1b\n"
    "1: b       1b\n"
    "1: b       1b\n"
    "1: b       1b\n"
    "   b       aborted\n"
    "   b       returned\n"
    "1: b       1b\n"
    "1: b       1b\n"
    /* a data abort in Hyp mode: note it and go on behind the instruction */
    "aborted:\n"
    "   push    {r0, r1}\n"
    "   mrc     p15, 4, r0, c5, c2, 0\n"
    "   ldr     r1, =syndrome\n"
    "   str     r0, [r1]\n"
    "   mrs     r0, elr_hyp\n"
    "   add     r0, r0, #4\n"
    "   msr     elr_hyp, r0\n"
    "   pop     {r0, r1}\n"
    "   eret\n"
    /* from SVC or another mode: note it and go on behind the exception return that led there */
    "returned:\n"
    "   push    {r0, r1}\n"
    "   mrc     p15, 4, r0, c5, c2, 0\n"
    "   ldr     r1, =syndrome\n"
    "   str     r0, [r1]\n"
    "   mrc     p15, 4, r0, c6, c0, 2\n"
    "   ldr     r1, =place\n"
    "   str     r0, [r1]\n"
    "   mrc     p15, 4, r0, c13, c0, 2\n"
    "   msr     elr_hyp, r0\n"
    "   mov     r0, #0x1da\n"
    "   msr     spsr_cxsf, r0\n"
    "   pop     {r0, r1}\n"
    "   eret\n"
    "   .ltorg\n"
    ".popsection\n");

#define SET(name, value) asm volatile("mcr " name :: "r"((uint32_t)(value)))
#define SET64(name, value) asm volatile("mcrr " name :: "r"((uint32_t)(value)), "r"((uint32_t)((value) >> 32)))

static void forget(void)
{
    asm volatile("dsb; mcr p15, 4, %0, c8, c7, 4; dsb; isb" :: "r"(0) : "memory");
}

static void set_up(void)
{
    SET64("p15, 6, %0, %1, c2", CONTROL->vttbr);
    SET("p15, 4, %0, c2, c1, 2", CONTROL->vtcr);
    SET("p15, 0, %0, c1, c0, 0", CONTROL->sctlr);
    SET("p15, 0, %0, c2, c0, 2", CONTROL->tcr);
    SET64("p15, 0, %0, %1, c2", CONTROL->ttbr);
    SET("p15, 0, %0, c10, c2, 0", CONTROL->mair);
    SET("p15, 0, %0, c10, c2, 1", CONTROL->mair >> 32);
    SET("p15, 0, %0, c12, c0, 0", CONTROL->vectors);
    SET("p15, 4, %0, c1, c1, 0", CONTROL->hcr);
    asm volatile("isb");
    forget();
}

/* Stage 1 leads from the first GB to the GB of the address, of which a 32-bit register holds the rest. */
static void open_window(uint64_t address)
{
    volatile uint64_t *entry = (volatile uint64_t *)(uint32_t)CONTROL->window;
    uint64_t wanted = (address & ~0x3fffffffull) | (*entry & 0xfff);
    if (*entry != wanted) {
        *entry = wanted;
        forget();
    }
}

static uint64_t translated(uint64_t address, int write)
{
    uint32_t low = address, high;
    if (CONTROL->window) {
        open_window(address);
        low &= 0x3fffffff;
    }
    if (write)
        asm volatile("mcr p15, 0, %0, c7, c8, 5" :: "r"(low) : "memory");
    else
        asm volatile("mcr p15, 0, %0, c7, c8, 4" :: "r"(low) : "memory");
    asm volatile("isb; mrrc p15, 0, %0, %1, c7" : "=r"(low), "=r"(high));
    return (uint64_t)high << 32 | low;
}

/* Go on at an address in SVC mode; whatever happens there ends in an exception. */
static void run(uint32_t address)
{
    asm volatile("adr r9, 1f; mcr p15, 4, r9, c13, c0, 2; msr elr_hyp, %0; msr spsr_cxsf, %1; isb; eret; 1:"
                 :: "r"(address), "r"(0x1d3) : "r9", "memory");
}

#endif

/* Fetch an instruction: an abort at the address is noted, and nothing else that may come of it. */
static void fetch(uint64_t address)
{
    run(address);
    if ((syndrome >> 26 & ~4u) == HVC)
        syndrome = 0;
    else if (place != address)
        syndrome = ~0u;
}

void serve(void)
{
    CONTROL->ready = 1;
    for (;;) {
        if (CONTROL->request == CONTROL->done) {
            asm volatile("yield");
            continue;
        }
        asm volatile("dsb sy" ::: "memory");
        set_up();
        for (uint32_t i = 0; i < CONTROL->count; i++) {
            uint64_t address = LIST[i].address & ~3ull;
            int access = LIST[i].address & 3;
            syndrome = 0;
            if (access == FETCH) {
                fetch(address);
                LIST[i].par = 0;
            } else {
                LIST[i].par = translated(address, access == WRITE);
            }
            LIST[i].syndrome = syndrome;
        }
        asm volatile("dsb sy" ::: "memory");
        CONTROL->done = CONTROL->request;
    }
}
