/* arm64: the header of a Linux Image, the way into C, the vectors, and the probes. */
    .section .head, "ax"
    .globl _start
_start:
    b       enter
    .long   0
    .quad   0                       /* offset in RAM */
    .quad   0x10000                 /* at least what payload.lds allows */
    .quad   0xa                     /* little-endian, 4 KB pages, anywhere */
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

enter:
    adrp    x1, stack_top
    add     x1, x1, :lo12:stack_top
    mov     sp, x1
    adr     x1, _start
    bl      place                   /* (tree, base) -> the new base */
    adr     x1, _start
    adrp    x2, _end
    add     x2, x2, :lo12:_end
    mov     x3, x0
1:  ldp     x4, x5, [x1], #16
    stp     x4, x5, [x3], #16
    cmp     x1, x2
    b.lo    1b
    dsb     sy
    ic      iallu
    dsb     sy
    isb
    adr     x1, _start
    adr     x2, moved
    sub     x2, x2, x1
    add     x2, x2, x0
    br      x2
moved:
    adrp    x1, stack_top
    add     x1, x1, :lo12:stack_top
    mov     sp, x1
    adr     x2, vectors
    msr     vbar_el1, x2
    isb
    adr     x0, _start
    bl      first
1:  wfi
    b       1b

    .globl  secondary
secondary:                          /* x0: the vCPU's struct cpu */
    ldr     x1, [x0]
    mov     sp, x1
    adr     x2, vectors
    msr     vbar_el1, x2
    isb
    bl      other
1:  wfi
    b       1b

    .globl  xen_call
xen_call:                           /* (number, a0..a4) */
    mov     x16, x0
    mov     x0, x1
    mov     x1, x2
    mov     x2, x3
    mov     x3, x4
    mov     x4, x5
    hvc     #0xEA1
    ret
    .globl  firmware_call
firmware_call:                      /* (function, a1..a3) */
    hvc     #0
    ret

    .globl  load1, load2, load4, load8, store1, store2, store4, store8, jump
load1:
    ldrb    w0, [x0]
    ret
load2:
    ldrh    w0, [x0]
    ret
load4:
    ldr     w0, [x0]
    ret
load8:
    ldr     x0, [x0]
    ret
store1:
    strb    w1, [x0]
    ret
store2:
    strh    w1, [x0]
    ret
store4:
    str     w1, [x0]
    ret
store8:
    str     x1, [x0]
    ret
jump:
    stp     x29, x30, [sp, #-16]!
    blr     x0
    ldp     x29, x30, [sp], #16
    ret

    .globl  call_slot, call_back
call_slot:                          /* (31 registers in and out, slot) */
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #96]
    sub     sp, sp, #256
    msr     elr_el1, x1             /* no register is left for a branch: return into the slot */
    mrs     x2, daif
    mov     x3, #5                  /* EL1h */
    orr     x2, x2, x3
    msr     spsr_el1, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
call_back:
    stp     x0, x1, [sp]
    ldr     x0, [sp, #352]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    ldp     x2, x3, [sp]
    stp     x2, x3, [x0]
    add     sp, sp, #256
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret

    .macro  vector kind
    .align  7
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    mov     x1, #\kind
    b       taken
    .endm

    .align  11
vectors:
    .irp    kind, 3, 3, 3, 3, 0, 1, 3, 2, 3, 3, 3, 3, 3, 3, 3, 3
    vector  \kind
    .endr
    .align  7
taken:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x2, elr_el1
    mrs     x3, spsr_el1
    stp     x30, x2, [sp, #240]
    str     x3, [sp, #256]
    mov     x0, sp
    bl      exception               /* (frame, kind) */
    ldp     x30, x2, [sp, #240]
    ldr     x3, [sp, #256]
    msr     elr_el1, x2
    msr     spsr_el1, x3
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp]
    add     sp, sp, #272
    eret
    .section .note.GNU-stack, "", %progbits
