/* arm32: the header of a Linux zImage, the way into C, the vectors, and the probes. */
    .arch   armv7ve
    .arch_extension virt
    .arm
    .section .head, "ax"
    .globl _start

    .macro  address register, symbol
    movw    \register, #:lower16:(\symbol - (9f + 8))
    movt    \register, #:upper16:(\symbol - (9f + 8))
9:  add     \register, pc, \register
    .endm

_start:
    .rept   8
    nop
    .endr
    b       enter
    .word   0x016f2818              /* at 0x24 */
    .word   0                       /* anywhere */
    .word   0x10000                 /* what payload.lds allows */
    .word   0x04030201
enter:
    address sp, stack_top
    mov     r0, r2
    adr     r1, _start
    bl      place                   /* (tree, base) -> the new base */
    adr     r1, _start
    address r2, _end
    mov     r3, r0
1:  ldmia   r1!, {r4-r7}
    stmia   r3!, {r4-r7}
    cmp     r1, r2
    blo     1b
    dsb     sy
    mcr     p15, 0, r0, c7, c5, 0   /* ICIALLU */
    dsb     sy
    isb
    adr     r1, _start
    adr     r2, moved
    sub     r2, r2, r1
    add     pc, r2, r0
moved:
    address sp, stack_top
    address r2, vectors
    mcr     p15, 0, r2, c12, c0, 0  /* VBAR */
    isb
    adr     r0, _start
    bl      first
1:  wfi
    b       1b

    .globl  secondary
secondary:                          /* r0: the vCPU's struct cpu */
    ldr     sp, [r0]
    address r2, vectors
    mcr     p15, 0, r2, c12, c0, 0
    isb
    bl      other
1:  wfi
    b       1b

    .globl  xen_call
xen_call:                           /* (number, a0..a4) */
    push    {r4, r12, lr}
    mov     r12, r0
    mov     r0, r1
    mov     r1, r2
    mov     r2, r3
    ldr     r3, [sp, #12]
    ldr     r4, [sp, #16]
    hvc     #0xEA1
    pop     {r4, r12, pc}
    .globl  firmware_call
firmware_call:                      /* (function, a1..a3) */
    hvc     #0
    bx      lr

    .globl  load1, load2, load4, load8, store1, store2, store4, store8, jump
load1:
    ldrb    r0, [r0]
    bx      lr
load2:
    ldrh    r0, [r0]
    bx      lr
load4:
    ldr     r0, [r0]
    bx      lr
load8:                              /* result in r0 and r1 */
    mov     r2, r0
    ldrd    r0, r1, [r2]
    bx      lr
store1:                             /* value in r2 and r3 */
    strb    r2, [r0]
    bx      lr
store2:
    strh    r2, [r0]
    bx      lr
store4:
    str     r2, [r0]
    bx      lr
store8:
    strd    r2, r3, [r0]
    bx      lr
jump:
    push    {r4, lr}
    blx     r0
    pop     {r4, pc}

    .globl  call_slot, call_back
call_slot:                          /* (r0..r12 in and out, slot) */
    push    {r4-r12, lr}
    push    {r0, r1}
    mov     lr, r0
    ldmia   lr, {r0-r12}
    ldr     pc, [sp, #4]
call_back:
    ldr     lr, [sp]
    stmia   lr, {r0-r12}
    add     sp, sp, #8
    pop     {r4-r12, pc}

    .macro  save kind
    srsdb   sp!, #0x13              /* return address and status to SVC's stack */
    cps     #0x13
    push    {r0-r12, lr}
    mov     r1, #\kind
    b       taken
    .endm

    .align  5
vectors:
    b       .
    b       undefined
    b       .
    b       fetch_abort
    b       data_abort
    b       .
    b       interrupt
    b       .
undefined:
    sub     lr, lr, #4
    save    4
fetch_abort:
    sub     lr, lr, #4
    save    3
data_abort:                         /* aborts from Xen come with the address of the instruction itself */
    save    2
interrupt:
    sub     lr, lr, #4
    save    1
taken:
    mov     r0, sp
    bl      exception               /* (frame, kind) */
    pop     {r0-r12, lr}
    rfeia   sp!
    .section .note.GNU-stack, "", %progbits
