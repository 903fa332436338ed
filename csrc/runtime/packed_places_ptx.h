// packed_places.cu, SHA-256 fd8ff3dac789ceb7989736ac4eca27c92e22290332353a9140d09bfd44384bd1
#pragma once

// Compiled by scripts/compile_kernels.py, which is to be run again after a change of the source.

namespace searchpipe::runtime {

inline constexpr char kPackedPlacesPtx[] = R"ptx(
.version 7.5
.target sm_75
.address_size 64
    // .globl   packed_places
.visible .entry packed_places(
    .param .u64 packed_places_param_0,
    .param .u64 packed_places_param_1,
    .param .u64 packed_places_param_2,
    .param .u64 packed_places_param_3,
    .param .u64 packed_places_param_4,
    .param .u64 packed_places_param_5,
    .param .u64 packed_places_param_6,
    .param .u64 packed_places_param_7,
    .param .u64 packed_places_param_8
)
{
    .reg .pred  %p<15>;
    .reg .b32   %r<53>;
    .reg .b64   %rd<76>;
    ld.param.u64    %rd39, [packed_places_param_0];
    ld.param.u64    %rd34, [packed_places_param_1];
    ld.param.u64    %rd40, [packed_places_param_2];
    ld.param.u64    %rd35, [packed_places_param_3];
    ld.param.u64    %rd41, [packed_places_param_4];
    ld.param.u64    %rd36, [packed_places_param_5];
    ld.param.u64    %rd42, [packed_places_param_6];
    ld.param.u64    %rd37, [packed_places_param_7];
    ld.param.u64    %rd38, [packed_places_param_8];
    cvta.to.global.u64  %rd1, %rd41;
    cvta.to.global.u64  %rd2, %rd36;
    cvta.to.global.u64  %rd3, %rd40;
    mov.u32     %r26, %ctaid.x;
    cvt.s64.s32     %rd4, %r26;
    cvta.to.global.u64  %rd43, %rd39;
    mul.wide.s32    %rd44, %r26, 4;
    add.s64     %rd45, %rd43, %rd44;
    ld.global.nc.u32    %r27, [%rd45+4];
    ld.global.nc.u32    %r1, [%rd45];
    sub.s32     %r2, %r27, %r1;
    shl.b64     %rd46, %rd42, 2;
    add.s64     %rd47, %rd43, %rd46;
    ld.global.nc.u32    %r3, [%rd47];
    setp.eq.s64     %p1, %rd36, 0;
    mov.u32     %r46, 0;
    @%p1 bra    $L__BB0_2;
    cvta.to.global.u64  %rd48, %rd34;
    shl.b64     %rd49, %rd4, 2;
    add.s64     %rd50, %rd48, %rd49;
    ld.global.nc.u32    %r46, [%rd50];
$L__BB0_2:
    mov.u32     %r48, %tid.x;
    setp.ne.s32     %p2, %r48, 0;
    @%p2 bra    $L__BB0_4;
    setp.gt.s32     %p3, %r2, 0;
    selp.b32    %r28, %r1, 0, %p3;
    cvta.to.global.u64  %rd51, %rd35;
    shl.b64     %rd52, %rd4, 2;
    add.s64     %rd53, %rd51, %rd52;
    st.global.u32   [%rd53], %r28;
$L__BB0_4:
    cvt.u32.u64     %r29, %rd37;
    cvt.u32.u64     %r30, %rd4;
    mul.lo.s32  %r7, %r30, %r29;
    sub.s32     %r31, %r7, %r1;
    add.s32     %r32, %r31, %r3;
    sub.s32     %r33, %r32, %r2;
    cvt.s64.s32     %rd5, %r33;
    setp.lt.s32     %p4, %r48, %r29;
    @%p4 bra    $L__BB0_5;
    bra.uni     $L__BB0_16;
$L__BB0_5:
    mov.u32     %r8, %ntid.x;
    @%p1 bra    $L__BB0_11;
    cvt.s64.s32     %rd54, %r48;
    add.s64     %rd55, %rd54, %rd5;
    shl.b64     %rd56, %rd55, 2;
    add.s64     %rd70, %rd1, %rd56;
    mul.wide.s32    %rd7, %r8, 4;
    add.s32     %r47, %r48, %r7;
    add.s32     %r34, %r48, %r1;
    mul.wide.s32    %rd57, %r34, 4;
    add.s64     %rd69, %rd2, %rd57;
    add.s64     %rd68, %rd1, %rd57;
    add.s64     %rd67, %rd3, %rd57;
$L__BB0_7:
    .pragma "nounroll";
    setp.lt.s32     %p6, %r48, %r2;
    @%p6 bra    $L__BB0_9;
    bra.uni     $L__BB0_8;
$L__BB0_9:
    st.global.u32   [%rd67], %r48;
    st.global.u32   [%rd68], %r47;
    setp.ge.s32     %p7, %r48, %r46;
    selp.u32    %r35, 1, 0, %p7;
    st.global.u32   [%rd69], %r35;
    bra.uni     $L__BB0_10;
$L__BB0_8:
    st.global.u32   [%rd70], %r47;
$L__BB0_10:
    add.s64     %rd70, %rd70, %rd7;
    add.s32     %r47, %r47, %r8;
    add.s64     %rd69, %rd69, %rd7;
    add.s64     %rd68, %rd68, %rd7;
    add.s64     %rd67, %rd67, %rd7;
    add.s32     %r48, %r48, %r8;
    setp.lt.s32     %p8, %r48, %r29;
    @%p8 bra    $L__BB0_7;
    bra.uni     $L__BB0_16;
$L__BB0_11:
    add.s32     %r49, %r48, %r7;
    add.s32     %r37, %r48, %r1;
    mul.wide.s32    %rd58, %r37, 4;
    add.s64     %rd73, %rd1, %rd58;
    mul.wide.s32    %rd20, %r8, 4;
    add.s64     %rd72, %rd3, %rd58;
    cvt.s64.s32     %rd59, %r48;
    add.s64     %rd60, %rd59, %rd5;
    shl.b64     %rd61, %rd60, 2;
    add.s64     %rd71, %rd1, %rd61;
$L__BB0_12:
    .pragma "nounroll";
    setp.lt.s32     %p9, %r48, %r2;
    @%p9 bra    $L__BB0_14;
    bra.uni     $L__BB0_13;
$L__BB0_14:
    st.global.u32   [%rd72], %r48;
    st.global.u32   [%rd73], %r49;
    bra.uni     $L__BB0_15;
$L__BB0_13:
    st.global.u32   [%rd71], %r49;
$L__BB0_15:
    add.s32     %r49, %r49, %r8;
    add.s64     %rd73, %rd73, %rd20;
    add.s64     %rd72, %rd72, %rd20;
    add.s64     %rd71, %rd71, %rd20;
    add.s32     %r48, %r48, %r8;
    setp.lt.s32     %p10, %r48, %r29;
    @%p10 bra   $L__BB0_12;
$L__BB0_16:
    mov.u32     %r40, %nctaid.x;
    mov.u32     %r41, %ntid.x;
    mul.lo.s32  %r19, %r40, %r41;
    mov.u32     %r42, %tid.x;
    mad.lo.s32  %r43, %r26, %r41, %r42;
    add.s32     %r51, %r43, %r3;
    cvt.s64.s32     %rd74, %r51;
    setp.ge.s64     %p11, %rd74, %rd38;
    @%p11 bra   $L__BB0_20;
    @%p1 bra    $L__BB0_19;
$L__BB0_18:
    .pragma "nounroll";
    shl.b64     %rd62, %rd74, 2;
    add.s64     %rd63, %rd3, %rd62;
    mov.u32     %r44, 0;
    st.global.u32   [%rd63], %r44;
    add.s64     %rd64, %rd2, %rd62;
    st.global.u32   [%rd64], %r44;
    add.s32     %r51, %r51, %r19;
    cvt.s64.s32     %rd74, %r51;
    setp.lt.s64     %p13, %rd74, %rd38;
    @%p13 bra   $L__BB0_18;
    bra.uni     $L__BB0_20;
$L__BB0_19:
    .pragma "nounroll";
    shl.b64     %rd65, %rd74, 2;
    add.s64     %rd66, %rd3, %rd65;
    mov.u32     %r45, 0;
    st.global.u32   [%rd66], %r45;
    add.s32     %r51, %r51, %r19;
    cvt.s64.s32     %rd74, %r51;
    setp.lt.s64     %p14, %rd74, %rd38;
    @%p14 bra   $L__BB0_19;
$L__BB0_20:
    ret;
}
)ptx";

}  // namespace searchpipe::runtime
