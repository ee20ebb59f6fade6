/* A guest of Xen on Arm that does what the host says: one source for arm64 and arm32, as dom0 and as any domU.
 *
 * It moves itself to the top of the domain's RAM, gives back what is more than the host wants the domain to have, starts
 * the other vCPUs, and then waits for programs in the mailbox of each vCPU.  The MMU stays off: stage 1 is the identity,
 * and all memory can be executed.
 *
 * Words of the boot arguments: domain=N (its id), trim=N (frames of RAM that stay; all without it), items=N (capacity).
 * Written from: Arm DDI 0487 (exceptions, generic timer, GIC CPU interface), Arm IHI 0048B (GICv2), IHI 0069 (GICv3),
 * Arm DEN 0022 (PSCI), Devicetree Specification v0.4, Linux's boot protocols (Documentation/arch/arm*), and Xen's public
 * interface.
 */
#include <stddef.h>

#include "mailbox.h"

/* nothing is looked up through a table of addresses, which would need relocations */
#pragma GCC visibility push(hidden)

typedef unsigned long word;

#define MOST_VCPUS 8u
#define STACK 8192u
#define TIMER_PPI 27u               /* the virtual timer */
#define TICKS_UNTIL_STUCK 4u
#define TICKS_A_SECOND 200u

enum { XEN_MEMORY_OP = 12, XEN_SCHED_OP = 29 };
enum { XENMEM_DECREASE_RESERVATION = 1, SCHEDOP_YIELD = 0 };

/* kinds of exception, as the vectors number them (arm32 has 2, 3, 4 only) */
#ifdef __aarch64__
enum { TAKEN_SYNCHRONOUS, TAKEN_INTERRUPT, TAKEN_SERROR, TAKEN_OTHER };
#define PSCI_CPU_ON 0xC4000003ul
#define RETURN_INSTRUCTION 0xD65F03C0u
#define WIDTH 64u
struct frame { word r[31], pc, status; };
#else
enum { TAKEN_INTERRUPT = 1, TAKEN_DATA_ABORT, TAKEN_FETCH_ABORT, TAKEN_UNDEFINED };
#define PSCI_CPU_ON 0x84000003ul
#define RETURN_INSTRUCTION 0xE12FFF1Eu
#define WIDTH 32u
struct frame { word r[13], lr, pc, status; };
#endif

/* what an exception means now: nothing is expected; a probe is left by its return address; the slot by call_back */
enum { MODE_NONE, MODE_PROBE, MODE_SLOT };

struct cpu {
    word stack;                     /* read by secondary: must be first */
    struct head *head;
    struct item *items;
    uint32_t *slot;
    volatile uint32_t mode, caught, armed, ticks, interrupt;   /* interrupt: 1 + what was taken */
    volatile word syndrome, address, pc, status;
};

struct info {                       /* what `place` found in the device tree */
    uint64_t ram_base, ram_size, hole, hole_size, gicd, gicc;
    uint32_t gic, domain, trim, items, vcpus;
    word old_base, tree, tree_size;
};

extern char _end[];
extern long xen_call(word number, word a0, word a1, word a2, word a3, word a4);
extern long firmware_call(word function, word a1, word a2, word a3);
extern word load1(word), load2(word), load4(word);
extern uint64_t load8(word);
extern void store1(word, uint64_t), store2(word, uint64_t), store4(word, uint64_t), store8(word, uint64_t);
extern void jump(word);
extern void call_slot(word *registers, uint32_t *slot);
extern char call_back[], secondary[];

static struct info info;
static struct cpu cpus[MOST_VCPUS];

void *memset(void *to, int value, size_t size)
{
    volatile uint8_t *byte = to;
    while (size--)
        *byte++ = (uint8_t)value;
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    volatile uint8_t *byte = to;
    const uint8_t *source = from;
    while (size--)
        *byte++ = *source++;
    return to;
}

int raise(int signal);              /* what a division by zero would call */
int raise(int signal)
{
    (void)signal;
    for (;;)
        ;
}

static void barrier(void) { __asm__ volatile("dsb sy" ::: "memory"); }

/* ---- registers of the processor */

#ifdef __aarch64__
static uint64_t now(void)
{
    uint64_t value;
    __asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(value));
    return value;
}
static uint64_t frequency(void)
{
    uint64_t value;
    __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(value));
    return value;
}
static void timer(uint32_t ticks, uint32_t control)
{
    __asm__ volatile("msr cntv_tval_el0, %0; msr cntv_ctl_el0, %1; isb" :: "r"((word)ticks), "r"((word)control));
}
static void interrupts(uint32_t allowed)
{
    if (allowed)
        __asm__ volatile("msr daifclr, #2" ::: "memory");
    else
        __asm__ volatile("msr daifset, #2" ::: "memory");
}
static void set_self(struct cpu *self) { __asm__ volatile("msr tpidr_el1, %0" :: "r"(self)); }
static struct cpu *self_(void)
{
    struct cpu *value;
    __asm__ volatile("mrs %0, tpidr_el1" : "=r"(value));
    return value;
}
static void forget_instructions(word address)
{
    __asm__ volatile("dc cvau, %0; dsb ish; ic ivau, %0; dsb ish; isb" :: "r"(address) : "memory");
}
#define SYSTEM_READ(name, code) \
    static uint32_t name(void) { word v; __asm__ volatile("mrs %0, " code : "=r"(v)); return (uint32_t)v; }
#define SYSTEM_WRITE(name, code) \
    static void name(uint32_t v) { __asm__ volatile("msr " code ", %0; isb" :: "r"((word)v)); }
SYSTEM_READ(v3_acknowledge, "S3_0_C12_C12_0")       /* ICC_IAR1_EL1 */
SYSTEM_WRITE(v3_end, "S3_0_C12_C12_1")              /* ICC_EOIR1_EL1 */
SYSTEM_WRITE(v3_priority, "S3_0_C4_C6_0")           /* ICC_PMR_EL1 */
SYSTEM_WRITE(v3_enable, "S3_0_C12_C12_7")           /* ICC_IGRPEN1_EL1 */
#else
static uint64_t now(void)
{
    uint32_t low, high;
    __asm__ volatile("isb; mrrc p15, 1, %0, %1, c14" : "=r"(low), "=r"(high));
    return (uint64_t)high << 32 | low;
}
static uint64_t frequency(void)
{
    uint32_t value;
    __asm__ volatile("mrc p15, 0, %0, c14, c0, 0" : "=r"(value));
    return value;
}
static void timer(uint32_t ticks, uint32_t control)
{
    __asm__ volatile("mcr p15, 0, %0, c14, c3, 0; mcr p15, 0, %1, c14, c3, 1; isb" :: "r"(ticks), "r"(control));
}
static void interrupts(uint32_t allowed)
{
    if (allowed)
        __asm__ volatile("cpsie i" ::: "memory");
    else
        __asm__ volatile("cpsid i" ::: "memory");
}
static void set_self(struct cpu *self) { __asm__ volatile("mcr p15, 0, %0, c13, c0, 4" :: "r"(self)); }
static struct cpu *self_(void)
{
    struct cpu *value;
    __asm__ volatile("mrc p15, 0, %0, c13, c0, 4" : "=r"(value));
    return value;
}
static void forget_instructions(word address)
{
    (void)address;
    __asm__ volatile("dsb sy; mcr p15, 0, %0, c7, c5, 0; dsb sy; isb" :: "r"(0) : "memory");
}
/* a 32-bit guest of a GICv3 is not among the machines */
static uint32_t v3_acknowledge(void) { return 1023; }
static void v3_end(uint32_t v) { (void)v; }
static void v3_priority(uint32_t v) { (void)v; }
static void v3_enable(uint32_t v) { (void)v; }
#endif

static volatile uint32_t *device(uint64_t base, word offset) { return (volatile uint32_t *)((word)base + offset); }

/* ---- the device tree */

static uint32_t big(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static int begins(const char *text, const char *with)
{
    while (*with)
        if (*text++ != *with++)
            return 0;
    return 1;
}

/* `text`, `size` bytes of zero-ended texts, has one that holds `part` */
static int holds(const char *text, uint32_t size, const char *part)
{
    for (uint32_t i = 0; i < size; i++)
        if (begins(text + i, part))
            return 1;
    return 0;
}

static uint64_t cells(const uint8_t **at, uint32_t number)
{
    uint64_t value = 0;
    while (number--) {
        value = value << 32 | big(*at);
        *at += 4;
    }
    return value;
}

/* the decimal number behind `name` in `text`, or `otherwise` */
static uint32_t argument(const char *text, uint32_t size, const char *name, uint32_t otherwise)
{
    for (uint32_t i = 0; i < size; i++)
        if (begins(text + i, name)) {
            uint32_t value = 0;
            const char *digit = text + i;
            while (*digit != '=')
                digit++;
            for (digit++; *digit >= '0' && *digit <= '9'; digit++)
                value = value * 10 + (uint32_t)(*digit - '0');
            return value;
        }
    return otherwise;
}

static void read_tree(const uint8_t *tree)
{
    const uint8_t *at = tree + big(tree + 8);
    const char *names = (const char *)tree + big(tree + 12), *name = "";
    uint32_t depth = 0, address_cells = 2, size_cells = 1, in_cpus = 0;
    const uint8_t *reg = 0;
    uint32_t reg_size = 0, is_gic = 0;
    for (;;) {
        uint32_t token = big(at);
        at += 4;
        if (token == 1 || token == 2) {
            /* a node's properties are complete when a child begins or it ends */
            if (depth == 2 && reg) {
                const uint8_t *p = reg;
                uint64_t base = cells(&p, address_cells), size = cells(&p, size_cells);
                if (begins(name, "memory") && !info.ram_size)
                    info.ram_base = base, info.ram_size = size;
                if (begins(name, "hypervisor"))
                    info.hole = base, info.hole_size = size;
                if (is_gic) {
                    info.gic = is_gic;
                    info.gicd = base;
                    if (reg_size >= 8 * (address_cells + size_cells))
                        info.gicc = cells(&p, address_cells);
                }
            }
            reg = 0;
            is_gic = 0;
        }
        if (token == 1) {
            const char *found = (const char *)at;
            uint32_t length = 0;
            while (found[length])
                length++;
            at += (length + 4) & ~3u;
            depth++;
            if (depth == 2) {
                name = found;
                in_cpus = same(found, "cpus");
            }
            if (depth == 3 && in_cpus && begins(found, "cpu@"))
                info.vcpus++;
        } else if (token == 2) {
            depth--;
        } else if (token == 3) {
            uint32_t size = big(at);
            const char *key = names + big(at + 4);
            const uint8_t *value = at + 8;
            at += 8 + ((size + 3) & ~3u);
            if (depth == 1 && same(key, "#address-cells"))
                address_cells = big(value);
            if (depth == 1 && same(key, "#size-cells"))
                size_cells = big(value);
            if (depth == 2 && same(key, "reg"))
                reg = value, reg_size = size;
            if (depth == 2 && same(key, "compatible")) {
                if (holds((const char *)value, size, "arm,gic-v3"))
                    is_gic = 3;
                else if (holds((const char *)value, size, "arm,gic-") || holds((const char *)value, size, "-gic"))
                    is_gic = 2;
            }
            if (depth == 2 && same(name, "chosen") && same(key, "bootargs")) {
                const char *text = (const char *)value;
                info.domain = argument(text, size, "domain=", 0);
                info.trim = argument(text, size, "trim=", 0);
                info.items = argument(text, size, "items=", 512);
            }
        } else if (token == 9) {
            return;
        }
    }
}

static word image_size(word base) { return (word)_end - base; }

/* bytes of head, items, slot and stack of one vCPU */
static word area_size(void)
{
    word items = (info.items * sizeof(struct item) + PAGE - 1) & ~(word)(PAGE - 1);
    return PAGE + items + STACK;
}

/* Read the tree, and say where in RAM the image goes: to the top of what the domain keeps. */
word place(const uint8_t *tree, word base);
word place(const uint8_t *tree, word base)
{
    info.old_base = base;
    info.tree = (word)tree;
    info.tree_size = big(tree + 4);
    read_tree(tree);
    if (info.vcpus > MOST_VCPUS)
        info.vcpus = MOST_VCPUS;
    uint64_t size = info.ram_size;
    if (info.trim && (uint64_t)info.trim * PAGE < size)
        size = (uint64_t)info.trim * PAGE;
    return (word)(info.ram_base + size) - image_size(base);
}

/* ---- the interrupt controller, as far as the payload itself needs it: the virtual timer */

static void gic_set_up(uint32_t vcpu)
{
    if (info.gic == 3) {
        volatile uint32_t *redistributor = device(info.gicc, (word)vcpu * 0x20000);
        *device(info.gicd, 0) = 0x12;                   /* CTLR: affinity routing, group 1 */
        redistributor[0x14 / 4] = 0;                    /* WAKER */
        redistributor[0x10100 / 4] = 1u << TIMER_PPI;   /* ISENABLER0 */
        v3_priority(0xff);
        v3_enable(1);
    } else if (info.gic == 2) {
        *device(info.gicd, 0) = 1;                      /* CTLR */
        *device(info.gicd, 0x100) = 1u << TIMER_PPI;    /* ISENABLER0 */
        *device(info.gicc, 4) = 0xff;                   /* PMR */
        *device(info.gicc, 0) = 1;                      /* CTLR */
    }
}

static uint32_t acknowledge(void)
{
    return (info.gic == 3 ? v3_acknowledge() : *device(info.gicc, 0xc)) & 0x3ff;
}

static void end(uint32_t intid)
{
    if (info.gic == 3)
        v3_end(intid);
    else
        *device(info.gicc, 0x10) = intid;
}

/* ---- exceptions */

static void arm_timer(uint32_t part) { timer((uint32_t)(frequency() / part), 1); }

static void leave(struct cpu *self, struct frame *frame, uint32_t outcome)
{
    self->caught = outcome;
    if (self->mode == MODE_SLOT)
        frame->pc = (word)call_back;
    else
#ifdef __aarch64__
        frame->pc = frame->r[30];
#else
        frame->pc = frame->lr;
#endif
}

static void die(struct cpu *self, struct frame *frame, word kind)
{
    struct head *head = self->head;
    head->registers[0] = kind;
    head->registers[1] = self->syndrome;
    head->registers[2] = frame->pc;
    head->registers[3] = self->address;
    barrier();
    head->died = 1;
    for (;;)
        xen_call(XEN_SCHED_OP, SCHEDOP_YIELD, 0, 0, 0, 0);
}

static void interrupt(struct cpu *self, struct frame *frame)
{
    uint32_t intid = acknowledge();
    if (intid >= 1020)
        return;
    if (intid == TIMER_PPI && self->armed) {
        self->ticks++;
        end(intid);
        if (self->ticks >= TICKS_UNTIL_STUCK && self->mode != MODE_NONE) {
            self->pc = frame->pc;
            timer(0, 0);
            leave(self, frame, OUTCOME_STUCK);
        } else {
            arm_timer(TICKS_A_SECOND);
        }
        return;
    }
    if (intid == TIMER_PPI) {
        timer(0, 0);
        end(intid);
        return;
    }
    end(intid);
    self->interrupt = intid + 1;
    /* one is enough: a level that stays would interrupt for ever */
    frame->status |= 1u << 7;
}

void exception(struct frame *frame, word kind);
void exception(struct frame *frame, word kind)
{
    struct cpu *self = self_();
    if (kind == TAKEN_INTERRUPT) {
        interrupt(self, frame);
        return;
    }
    uint32_t outcome = OUTCOME_OTHER;
    word syndrome = 0, address = 0;
#ifdef __aarch64__
    __asm__ volatile("mrs %0, esr_el1" : "=r"(syndrome));
    __asm__ volatile("mrs %0, far_el1" : "=r"(address));
    if (kind == TAKEN_SERROR) {
        outcome = OUTCOME_SERROR;
    } else if (kind == TAKEN_SYNCHRONOUS) {
        switch (syndrome >> 26) {
        case 0x00: outcome = OUTCOME_UNDEFINED; break;
        case 0x20: case 0x21: outcome = OUTCOME_FETCH_ABORT; break;
        case 0x24: case 0x25: outcome = OUTCOME_DATA_ABORT; break;
        default: break;
        }
    }
#else
    if (kind == TAKEN_DATA_ABORT) {
        __asm__ volatile("mrc p15, 0, %0, c5, c0, 0" : "=r"(syndrome));     /* DFSR */
        __asm__ volatile("mrc p15, 0, %0, c6, c0, 0" : "=r"(address));      /* DFAR */
        outcome = OUTCOME_DATA_ABORT;
    } else if (kind == TAKEN_FETCH_ABORT) {
        __asm__ volatile("mrc p15, 0, %0, c5, c0, 1" : "=r"(syndrome));     /* IFSR */
        __asm__ volatile("mrc p15, 0, %0, c6, c0, 2" : "=r"(address));      /* IFAR */
        outcome = OUTCOME_FETCH_ABORT;
    } else if (kind == TAKEN_UNDEFINED) {
        outcome = OUTCOME_UNDEFINED;
    }
#endif
    self->syndrome = syndrome;
    self->address = address;
    self->pc = frame->pc;
    self->status = frame->status;
#ifndef __aarch64__
    /* a 32-bit guest of a 64-bit Xen finds no mode in SPSR_abt; it was SVC, with interrupts on during a probe */
    if (!(frame->status & 0x10))
        frame->status = self->mode == MODE_PROBE && info.gic ? 0x153 : 0x1d3;
#endif
    if (self->mode == MODE_NONE)
        die(self, frame, kind);
    leave(self, frame, outcome);
}

/* ---- items */

/* A probe begins: faults are caught, and the timer catches an access that is tried for ever. */
static void probe_begin(struct cpu *self)
{
    self->caught = 0;
    self->ticks = 0;
    self->armed = 1;
    self->mode = MODE_PROBE;
    if (info.gic) {
        arm_timer(TICKS_A_SECOND);
        interrupts(1);
    }
}

static void probe_end(struct cpu *self)
{
    if (info.gic) {
        interrupts(0);
        timer(0, 0);
    }
    self->mode = MODE_NONE;
    self->armed = 0;
}

static uint64_t load(uint32_t size, word address)
{
    switch (size) {
    case 1: return load1(address);
    case 2: return load2(address);
    case 4: return load4(address);
    default:
#ifndef __aarch64__
        if (address & 7) {
            uint64_t low = load4(address);
            return self_()->caught ? 0 : low | (uint64_t)load4(address + 4) << 32;
        }
#endif
        return load8(address);
    }
}

#ifndef __aarch64__
/*
 * Eight bytes that are not aligned are two stores on arm32. As with any other access, nothing is stored where part of
 * it faults: what the first one replaced is put back.
 */
static void store_halves(word address, uint64_t value)
{
    struct cpu *self = self_();
    uint32_t before = load4(address);
    if (self->caught)
        probe_begin(self);
    store4(address, value & 0xffffffff);
    if (self->caught)
        return;
    store4(address + 4, value >> 32);
    if (self->caught) {
        uint32_t caught = self->caught;
        store4(address, before);
        self->caught = caught;
    }
}
#endif

static void store(uint32_t size, word address, uint64_t value)
{
    switch (size) {
    case 1: store1(address, value); break;
    case 2: store2(address, value); break;
    case 4: store4(address, value); break;
    default:
#ifndef __aarch64__
        if (address & 7) {
            store_halves(address, value);
            break;
        }
#endif
        store8(address, value);
    }
}

/* Jump to an instruction that returns; whatever else stands there is put back. */
static uint64_t fetch(struct cpu *self, word address)
{
    uint32_t before, patched = 0;
    probe_begin(self);
    before = (uint32_t)load(4, address);
    probe_end(self);
    if (!self->caught && before != RETURN_INSTRUCTION) {
        probe_begin(self);
        store(4, address, RETURN_INSTRUCTION);
        probe_end(self);
        if (self->caught) {
            self->caught = OUTCOME_CANNOT;
            return before;
        }
        patched = 1;
    }
    if (self->caught && self->caught != OUTCOME_DATA_ABORT)
        return 0;
    forget_instructions(address);
    probe_begin(self);
    jump(address);
    probe_end(self);
    if (patched) {
        uint32_t caught = self->caught;
        probe_begin(self);
        store(4, address, before);
        probe_end(self);
        self->caught = caught;
        forget_instructions(address);
    }
    return before;
}

static void put(struct cpu *self, struct item *item, word address)
{
    const uint8_t *data = (const uint8_t *)item->in;
    uint32_t left = item->size;
    probe_begin(self);
    while (left && !self->caught) {
        uint32_t size = left >= 8 && !(address & 7) ? 8 : left >= 4 && !(address & 3) ? 4 : left >= 2 && !(address & 1) ? 2 : 1;
        uint64_t value = 0;
        for (uint32_t i = 0; i < size; i++)
            value |= (uint64_t)data[i] << 8 * i;
        store(size, address, value);
        data += size;
        address += size;
        left -= size;
    }
    probe_end(self);
}

static void call(struct cpu *self, struct item *item, const uint64_t *in)
{
#ifdef __aarch64__
    enum { NUMBER = 16, COUNT = 31 };
#else
    enum { NUMBER = 12, COUNT = 13 };
#endif
    word before[COUNT], registers[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        before[i] = item->flags & FLAG_FULL ? (word)self->head->registers[i] : 0;
    if (!(item->flags & FLAG_FULL)) {
        for (uint32_t i = 0; i < 5; i++)
            before[i] = (word)in[i];
        before[NUMBER] = (word)in[5];
    }
    for (uint32_t i = 0; i < COUNT; i++)
        registers[i] = before[i];
    if (self->slot[0] != item->instruction) {
        self->slot[0] = item->instruction;
        forget_instructions((word)self->slot);
    }
    self->mode = MODE_SLOT;
    call_slot(registers, self->slot);
    self->mode = MODE_NONE;
    for (uint32_t i = 0; i < COUNT; i++) {
        if (registers[i] != before[i] && i > 4 && i != NUMBER)
            item->changed |= 1u << i;
        if (item->flags & FLAG_FULL)
            self->head->registers[i] = registers[i];
    }
    for (uint32_t i = 0; i < 5; i++)
        item->out[i] = registers[i];
    item->out[5] = registers[NUMBER];
}

/* Switch the cache bit and the MMU on or off together, over an identity map. */
static void cache(struct cpu *self, uint32_t on);

static void run(struct cpu *self, struct item *items, uint32_t number)
{
    struct item *item = &items[number];
    uint64_t in[6], value = 0;
    for (uint32_t i = 0; i < 6; i++)
        in[i] = item->in[i] + (item->from[i] ? items[item->from[i] - 1].out[0] : 0);
    self->caught = 0;
    item->changed = 0;
    switch (item->kind) {
    case DO_CALL:
        call(self, item, in);
        break;
    case DO_LOAD:
        probe_begin(self);
        value = load(item->size, (word)in[0]);
        probe_end(self);
        break;
    case DO_STORE:
        probe_begin(self);
        store(item->size, (word)in[0], in[1]);
        probe_end(self);
        break;
    case DO_FETCH:
        value = fetch(self, (word)in[0]);
        break;
    case DO_PUT:
        put(self, item, (word)in[5]);
        break;
    case DO_AWAIT:
        while ((int32_t)(self->head->turn - (uint32_t)in[0]) < 0) {
            xen_call(XEN_SCHED_OP, SCHEDOP_YIELD, 0, 0, 0, 0);
            self->head->polls++;
        }
        barrier();
        break;
    case DO_SPIN: {
        uint64_t until = now() + frequency() / 1000000 * in[0];
        while (now() < until)
            ;
        break;
    }
    case DO_INTERRUPT: {
        uint64_t until = now() + frequency() / 1000000 * in[0];
        /* one that was taken during an earlier item counts */
        while (!self->interrupt && now() < until) {
            interrupts(1);
            xen_call(XEN_SCHED_OP, SCHEDOP_YIELD, 0, 0, 0, 0);
            interrupts(0);
        }
        value = (uint64_t)self->interrupt - 1;
        self->interrupt = 0;
        break;
    }
    case DO_CACHE:
        cache(self, (uint32_t)in[0]);
        break;
    default:
        break;
    }
    if (item->kind != DO_CALL || self->caught)
        item->out[0] = self->caught ? 0 : value;
    if (self->caught) {
        item->out[1] = self->syndrome;
        item->out[2] = self->address;
        item->out[3] = self->pc;
        item->out[4] = self->status;
    }
    item->outcome = self->caught ? self->caught : OUTCOME_VALUE;
    barrier();
    self->head->position = number + 1;
}

static void serve(struct cpu *self)
{
    struct head *head = self->head;
    volatile uint32_t *request = &head->request;
    for (;;) {
        uint32_t wanted = *request;
        if (wanted == head->done) {
            head->polls++;
            xen_call(XEN_SCHED_OP, SCHEDOP_YIELD, 0, 0, 0, 0);
            continue;
        }
        barrier();
        head->position = 0;
        uint32_t count = head->count < head->capacity ? head->count : head->capacity;
        for (uint32_t i = 0; i < count; i++)
            run(self, self->items, i);
        barrier();
        head->done = wanted;
    }
}

/* ---- stage 1: blocks of 1 GB, the identity, for whoever wants the MMU on */

#ifdef __aarch64__
static uint64_t stage1[512] __attribute__((aligned(4096)));

static void cache(struct cpu *self, uint32_t on)
{
    word control;
    (void)self;
    for (uint32_t i = 0; i < 512; i++)
        stage1[i] = (uint64_t)i << 30 | 0x701;          /* valid block, accessed, inner shareable, attribute 0 */
    __asm__ volatile("msr mair_el1, %0; msr tcr_el1, %1; msr ttbr0_el1, %2; isb; tlbi vmalle1; dsb sy; isb"
                     :: "r"(0xfful), "r"(25ul | 1ul << 8 | 1ul << 10 | 3ul << 12 | 1ul << 23 | 5ul << 32), "r"(stage1)
                     : "memory");
    __asm__ volatile("mrs %0, sctlr_el1" : "=r"(control));
    control = on ? control | 5 : control & ~(word)5;
    __asm__ volatile("msr sctlr_el1, %0; isb" :: "r"(control) : "memory");
}
#else
static uint64_t stage1[4] __attribute__((aligned(4096)));

static void cache(struct cpu *self, uint32_t on)
{
    word control;
    (void)self;
    for (uint32_t i = 0; i < 4; i++)
        stage1[i] = (uint64_t)i << 30 | 0x701;
    __asm__ volatile("mcr p15, 0, %0, c10, c2, 0" :: "r"(0xff));                            /* MAIR0 */
    __asm__ volatile("mcr p15, 0, %0, c2, c0, 2" :: "r"(1u << 31 | 1u << 8 | 1u << 10 | 3u << 12));  /* TTBCR */
    __asm__ volatile("mcrr p15, 0, %0, %1, c2" :: "r"(stage1), "r"(0));                     /* TTBR0 */
    __asm__ volatile("isb; mcr p15, 0, %0, c8, c7, 0; dsb sy; isb" :: "r"(0) : "memory");   /* TLBIALL */
    __asm__ volatile("mrc p15, 0, %0, c1, c0, 0" : "=r"(control));
    control = on ? control | 5 : control & ~(word)5;
    __asm__ volatile("mcr p15, 0, %0, c1, c0, 0; isb" :: "r"(control) : "memory");
}
#endif

/* ---- start */

static void open_mailbox(struct cpu *self, uint32_t vcpu)
{
    struct head *head = self->head;
    head->version = MAILBOX_VERSION;
    head->domain = info.domain;
    head->vcpu = vcpu;
    head->capacity = info.items;
    head->head_ipa = (word)head;
    head->items_ipa = (word)self->items;
    head->ram_base = info.ram_base;
    head->ram_size = info.ram_size;
    head->hole = info.hole;
    head->hole_size = info.hole_size;
    head->entry = (word)secondary;
    head->gic = info.gic;
    head->width = WIDTH;
    head->gicd = info.gicd;
    head->gicc = info.gicc;
    head->frequency = frequency();
    barrier();
    volatile uint32_t half = 0x6C6B6C42u;
    head->magic = (uint64_t)0x786F626Cu << 32 | half;
    barrier();
}

void other(struct cpu *self);
void other(struct cpu *self)
{
    uint32_t vcpu = (uint32_t)(self - cpus);
    set_self(self);
    gic_set_up(vcpu);
    open_mailbox(self, vcpu);
    serve(self);
}

static long give_back(uint64_t page)
{
    struct { uint64_t list, extents; uint32_t order, flags; uint16_t domain; uint8_t rest[6]; } reservation;
    memset(&reservation, 0, sizeof reservation);
    reservation.list = (word)&page;
    reservation.extents = 1;
    reservation.domain = 0x7ff0;                        /* DOMID_SELF */
    barrier();
    return xen_call(XEN_MEMORY_OP, XENMEM_DECREASE_RESERVATION, (word)&reservation, 0, 0, 0);
}

void first(word base);
void first(word base)
{
    uint64_t size = info.ram_size, trimmed = 0;
    word top = base, low;
    if (info.trim && (uint64_t)info.trim * PAGE < size)
        trimmed = size - (uint64_t)info.trim * PAGE;
    low = top - info.vcpus * area_size();
    for (uint32_t i = 0; i < info.vcpus; i++) {
        word area = top - (i + 1) * area_size();
        struct cpu *self = &cpus[i];
        self->stack = area + area_size();
        self->head = (struct head *)area;
        self->items = (struct item *)(area + PAGE);
        self->slot = (uint32_t *)(area + PAGE / 2);
#ifdef __aarch64__
        self->slot[1] = 0x14000000u | (((word)call_back - (word)&self->slot[1]) >> 2 & 0x3ffffff);   /* b call_back */
#else
        self->slot[1] = 0xE51FF004u;                    /* ldr pc, [pc, #-4] */
        self->slot[2] = (word)call_back;
#endif
        self->head->low = low;
        self->head->high = base + image_size(base);
    }
    set_self(&cpus[0]);
    /* what the loader left: nobody would expect it in fresh RAM, and it must not go back to Xen's heap */
    if (info.old_base + image_size(base) <= low || info.old_base >= base + image_size(base))
        memset((void *)info.old_base, 0, image_size(base));
    if (info.tree + info.tree_size <= low || info.tree >= base + image_size(base))
        memset((void *)info.tree, 0, info.tree_size);
    for (uint64_t i = 0; i < trimmed / PAGE; i++)
        if (give_back((info.ram_base + size) / PAGE - 1 - i) != 1)
            cpus[0].head->trim_error++;
    info.ram_size -= trimmed;
    gic_set_up(0);
    open_mailbox(&cpus[0], 0);
    for (uint32_t i = 1; i < info.vcpus; i++)
        firmware_call(PSCI_CPU_ON, i, (word)secondary, (word)&cpus[i]);
    serve(&cpus[0]);
}
