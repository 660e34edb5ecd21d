#!/bin/sh
# Usage: emulated.sh QEMU COMMAND...    runs a command in which programs for arm64 may be started like any others.
# The kernel knows how only while this runs: nothing stays on this machine.
set -e
[ "$1" = --inside ] || exec unshare --mount --propagation private "$0" --inside "$@"
qemu=$2
shift 2
types=/proc/sys/fs/binfmt_misc
mount -t binfmt_misc binfmt_misc $types
# An ELF program of 64 bits, little-endian, for machine 0xb7. F: qemu is opened here, and so is found in any root as well.
# P: argv[0] stays what it was.
name=qemu-aarch64-$$
printf %s ":$name:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:$qemu:FP" > $types/register
trap "echo -1 > $types/$name" EXIT
# That of AWS Graviton2. A newer one would authenticate pointers, in software: 20 times as slow.
export QEMU_CPU=neoverse-n1
"$@"
