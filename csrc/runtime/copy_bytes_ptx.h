// copy_bytes.cu, SHA-256 a0bfc5bf6ca78424b367fe3f3a3742dd0f607430bcfe65212e733cfa047ddfb9
#pragma once

// Compiled by scripts/compile_kernels.py, which is to be run again after a change of the source.

namespace searchpipe::runtime {

inline constexpr char kCopyBytesPtx[] = R"ptx(
.version 7.5
.target sm_75
.address_size 64
    // .globl   copy_bytes
.visible .entry copy_bytes(
    .param .u64 copy_bytes_param_0,
    .param .u64 copy_bytes_param_1,
    .param .u64 copy_bytes_param_2
)
{
    .reg .pred  %p<31>;
    .reg .b16   %rs<5>;
    .reg .b32   %r<23>;
    .reg .b64   %rd<186>;
    ld.param.u64    %rd34, [copy_bytes_param_0];
    ld.param.u64    %rd35, [copy_bytes_param_1];
    ld.param.u64    %rd36, [copy_bytes_param_2];
    mov.u32     %r1, %ctaid.x;
    mov.u32     %r2, %ntid.x;
    mul.wide.u32    %rd37, %r1, %r2;
    mov.u32     %r3, %tid.x;
    cvt.u64.u32     %rd38, %r3;
    add.s64     %rd1, %rd37, %rd38;
    xor.b64     %rd39, %rd35, %rd34;
    and.b64     %rd40, %rd39, 15;
    setp.eq.s64     %p1, %rd40, 0;
    and.b64     %rd41, %rd39, 3;
    setp.eq.s64     %p2, %rd41, 0;
    selp.b64    %rd42, 4, 1, %p2;
    selp.b64    %rd43, 16, %rd42, %p1;
    neg.s64     %rd44, %rd34;
    add.s64     %rd2, %rd43, -1;
    and.b64     %rd3, %rd2, %rd44;
    cvt.u16.u64     %rs1, %rd43;
    setp.eq.s16     %p3, %rs1, 16;
    @%p3 bra    $L__BB0_5;
    setp.ne.s16     %p4, %rs1, 4;
    @%p4 bra    $L__BB0_8;
    min.s64     %rd53, %rd3, %rd36;
    sub.s64     %rd54, %rd36, %rd53;
    and.b64     %rd55, %rd54, %rd2;
    sub.s64     %rd56, %rd54, %rd55;
    shr.s64     %rd4, %rd56, 2;
    setp.ge.s64     %p7, %rd1, %rd4;
    @%p7 bra    $L__BB0_11;
    shl.b64     %rd57, %rd1, 2;
    add.s64     %rd58, %rd57, -1;
    not.b64     %rd67, %rd3;
    not.b64     %rd68, %rd36;
    max.s64     %rd69, %rd67, %rd68;
    sub.s64     %rd70, %rd58, %rd69;
    cvta.to.global.u64  %rd71, %rd35;
    add.s64     %rd178, %rd71, %rd70;
    mov.u32     %r4, %nctaid.x;
    mul.wide.u32    %rd72, %r4, %r2;
    shl.b64     %rd6, %rd72, 2;
    cvta.to.global.u64  %rd73, %rd34;
    add.s64     %rd177, %rd73, %rd70;
    mov.u64     %rd179, %rd1;
$L__BB0_4:
    .pragma "nounroll";
    ld.global.u32   %r6, [%rd178];
    st.global.u32   [%rd177], %r6;
    add.s64     %rd179, %rd179, %rd72;
    add.s64     %rd178, %rd178, %rd6;
    add.s64     %rd177, %rd177, %rd6;
    setp.lt.s64     %p10, %rd179, %rd4;
    @%p10 bra   $L__BB0_4;
    bra.uni     $L__BB0_11;
$L__BB0_5:
    min.s64     %rd83, %rd3, %rd36;
    sub.s64     %rd84, %rd36, %rd83;
    and.b64     %rd85, %rd84, %rd2;
    sub.s64     %rd86, %rd84, %rd85;
    shr.s64     %rd14, %rd86, 4;
    setp.ge.s64     %p13, %rd1, %rd14;
    @%p13 bra   $L__BB0_11;
    shl.b64     %rd87, %rd1, 4;
    add.s64     %rd88, %rd87, -1;
    not.b64     %rd97, %rd3;
    not.b64     %rd98, %rd36;
    max.s64     %rd99, %rd97, %rd98;
    sub.s64     %rd100, %rd88, %rd99;
    cvta.to.global.u64  %rd101, %rd34;
    add.s64     %rd181, %rd101, %rd100;
    mov.u32     %r9, %nctaid.x;
    mul.wide.u32    %rd102, %r9, %r2;
    shl.b64     %rd16, %rd102, 4;
    cvta.to.global.u64  %rd103, %rd35;
    add.s64     %rd180, %rd103, %rd100;
    mov.u64     %rd182, %rd1;
$L__BB0_7:
    .pragma "nounroll";
    ld.global.v4.u32    {%r11, %r12, %r13, %r14}, [%rd180];
    st.global.v4.u32    [%rd181], {%r11, %r12, %r13, %r14};
    add.s64     %rd182, %rd182, %rd102;
    add.s64     %rd181, %rd181, %rd16;
    add.s64     %rd180, %rd180, %rd16;
    setp.lt.s64     %p16, %rd182, %rd14;
    @%p16 bra   $L__BB0_7;
    bra.uni     $L__BB0_11;
$L__BB0_8:
    min.s64     %rd113, %rd3, %rd36;
    sub.s64     %rd114, %rd36, %rd113;
    and.b64     %rd115, %rd114, %rd2;
    sub.s64     %rd116, %rd114, %rd115;
    setp.ge.s64     %p19, %rd1, %rd116;
    @%p19 bra   $L__BB0_11;
    add.s64     %rd119, %rd1, -1;
    not.b64     %rd128, %rd3;
    not.b64     %rd129, %rd36;
    max.s64     %rd130, %rd128, %rd129;
    sub.s64     %rd131, %rd119, %rd130;
    cvta.to.global.u64  %rd132, %rd34;
    add.s64     %rd184, %rd132, %rd131;
    cvta.to.global.u64  %rd133, %rd35;
    add.s64     %rd183, %rd133, %rd131;
    mov.u32     %r21, %nctaid.x;
    mul.wide.u32    %rd26, %r21, %r2;
    mov.u64     %rd185, %rd1;
$L__BB0_10:
    .pragma "nounroll";
    ld.global.u8    %rs2, [%rd183];
    st.global.u8    [%rd184], %rs2;
    add.s64     %rd184, %rd184, %rd26;
    add.s64     %rd183, %rd183, %rd26;
    add.s64     %rd185, %rd185, %rd26;
    setp.lt.s64     %p22, %rd185, %rd116;
    @%p22 bra   $L__BB0_10;
$L__BB0_11:
    min.s64     %rd143, %rd3, %rd36;
    setp.ge.s64     %p25, %rd1, %rd143;
    @%p25 bra   $L__BB0_13;
    cvta.to.global.u64  %rd144, %rd35;
    add.s64     %rd145, %rd144, %rd1;
    ld.global.u8    %rs3, [%rd145];
    cvta.to.global.u64  %rd146, %rd34;
    add.s64     %rd147, %rd146, %rd1;
    st.global.u8    [%rd147], %rs3;
$L__BB0_13:
    sub.s64     %rd157, %rd36, %rd143;
    and.b64     %rd158, %rd157, %rd2;
    setp.ge.s64     %p28, %rd1, %rd158;
    @%p28 bra   $L__BB0_15;
    add.s64     %rd168, %rd143, %rd1;
    sub.s64     %rd171, %rd157, %rd158;
    add.s64     %rd172, %rd168, %rd171;
    cvta.to.global.u64  %rd173, %rd35;
    add.s64     %rd174, %rd173, %rd172;
    ld.global.u8    %rs4, [%rd174];
    cvta.to.global.u64  %rd175, %rd34;
    add.s64     %rd176, %rd175, %rd172;
    st.global.u8    [%rd176], %rs4;
$L__BB0_15:
    ret;
}
)ptx";

}  // namespace searchpipe::runtime
