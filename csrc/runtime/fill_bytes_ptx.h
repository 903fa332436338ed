// fill_bytes.cu, SHA-256 991a9f52630a5efdcbd6c45d82ce52355c8994dd9baecd0c5f3c97e0ad7adf21
#pragma once

// Compiled by scripts/compile_kernels.py, which is to be run again after a change of the source.

namespace searchpipe::runtime {

inline constexpr char kFillBytesPtx[] = R"ptx(
.version 7.5
.target sm_75
.address_size 64
    // .globl   fill_bytes
.visible .entry fill_bytes(
    .param .u64 fill_bytes_param_0,
    .param .u64 fill_bytes_param_1,
    .param .u64 fill_bytes_param_2,
    .param .u64 fill_bytes_param_3,
    .param .u64 fill_bytes_param_4,
    .param .u64 fill_bytes_param_5
)
{
    .reg .pred  %p<7>;
    .reg .b32   %r<23>;
    .reg .b64   %rd<49>;
    ld.param.u64    %rd15, [fill_bytes_param_0];
    ld.param.u64    %rd16, [fill_bytes_param_1];
    ld.param.u64    %rd17, [fill_bytes_param_2];
    ld.param.u64    %rd18, [fill_bytes_param_3];
    ld.param.u64    %rd19, [fill_bytes_param_4];
    ld.param.u64    %rd20, [fill_bytes_param_5];
    mov.u32     %r2, %ctaid.x;
    cvt.u32.u64     %r1, %rd20;
    div.u32     %r3, %r2, %r1;
    mul.lo.s32  %r4, %r3, %r1;
    sub.s32     %r5, %r2, %r4;
    mov.u32     %r6, %ntid.x;
    mov.u32     %r7, %tid.x;
    mad.lo.s32  %r8, %r5, %r6, %r7;
    cvt.u64.u32     %rd1, %r8;
    cvt.u64.u32     %rd47, %r3;
    setp.ge.s64     %p1, %rd47, %rd18;
    @%p1 bra    $L__BB0_10;
    mov.u32     %r9, %nctaid.x;
    div.u32     %r10, %r9, %r1;
    cvt.u64.u32     %rd3, %r10;
    cvt.u32.u64     %r11, %rd19;
$L__BB0_2:
    .pragma "nounroll";
    mul.lo.s64  %rd5, %rd47, %rd17;
    add.s64     %rd6, %rd15, %rd5;
    neg.s64     %rd21, %rd6;
    and.b64     %rd22, %rd21, 15;
    min.s64     %rd7, %rd22, %rd16;
    sub.s64     %rd8, %rd16, %rd7;
    shr.s64     %rd23, %rd8, 63;
    shr.u64     %rd24, %rd23, 60;
    add.s64     %rd25, %rd8, %rd24;
    shr.s64     %rd9, %rd25, 4;
    and.b64     %rd10, %rd25, -16;
    add.s64     %rd11, %rd7, %rd5;
    setp.le.s64     %p2, %rd9, %rd1;
    @%p2 bra    $L__BB0_5;
    mov.u64     %rd48, %rd1;
$L__BB0_4:
    .pragma "nounroll";
    cvta.to.global.u64  %rd30, %rd15;
    add.s64     %rd31, %rd30, %rd11;
    shl.b64     %rd32, %rd48, 4;
    add.s64     %rd33, %rd31, %rd32;
    st.global.v4.u32    [%rd33], {%r11, %r11, %r11, %r11};
    cvt.u64.u32     %rd34, %r6;
    and.b64     %rd35, %rd20, 4294967295;
    mul.lo.s64  %rd36, %rd35, %rd34;
    add.s64     %rd48, %rd48, %rd36;
    setp.lt.s64     %p3, %rd48, %rd9;
    @%p3 bra    $L__BB0_4;
$L__BB0_5:
    setp.le.s64     %p4, %rd7, %rd1;
    @%p4 bra    $L__BB0_7;
    add.s64     %rd37, %rd5, %rd1;
    cvta.to.global.u64  %rd38, %rd15;
    add.s64     %rd39, %rd38, %rd37;
    add.s64     %rd40, %rd6, %rd1;
    cvt.u32.u64     %r13, %rd40;
    shl.b32     %r14, %r13, 3;
    and.b32     %r15, %r14, 24;
    shr.u32     %r17, %r11, %r15;
    st.global.u8    [%rd39], %r17;
$L__BB0_7:
    sub.s64     %rd41, %rd8, %rd10;
    setp.le.s64     %p5, %rd41, %rd1;
    @%p5 bra    $L__BB0_9;
    add.s64     %rd42, %rd11, %rd1;
    add.s64     %rd43, %rd42, %rd10;
    cvta.to.global.u64  %rd44, %rd15;
    add.s64     %rd45, %rd44, %rd43;
    add.s64     %rd46, %rd15, %rd43;
    cvt.u32.u64     %r18, %rd46;
    shl.b32     %r19, %r18, 3;
    and.b32     %r20, %r19, 24;
    shr.u32     %r22, %r11, %r20;
    st.global.u8    [%rd45], %r22;
$L__BB0_9:
    add.s64     %rd47, %rd47, %rd3;
    setp.lt.s64     %p6, %rd47, %rd18;
    @%p6 bra    $L__BB0_2;
$L__BB0_10:
    ret;
}
)ptx";

}  // namespace searchpipe::runtime
