#!/bin/sh
# Runs a command where neither the GPU nor the driver can be seen. To be called in a mount namespace of
# its own:
#
#     unshare --mount --propagation private ci/gpu/hide.sh WORK -- COMMAND...
#
# WORK/hidden-paths names what belongs to the driver, one path a line: folders become empty, files become
# files of no length. /dev gets the ordinary nodes only. The dynamic loader's cache is made anew, since
# programs (Triton) read from it where the driver is. Libraries that come with Python packages stay.
#
# HIDE_DEVICE_FILE=NAME leaves an empty file /dev/NAME behind, for programs that look for the path before
# they load the driver (JAX: /dev/nvidiactl). Nothing can be done with it.
set -eu
work=$1
shift
[ "$1" != -- ] || shift

: >> "$work/empty"
while read -r path; do
    if [ -d "$path" ]; then
        # Not every kernel lets /proc be covered; the suite's first check says so if something is left.
        mount -t tmpfs -o ro,size=4k none "$path" || echo "hide.sh: cannot hide $path" >&2
    elif [ -e "$path" ]; then
        mount --bind "$work/empty" "$(readlink -f "$path")"
    fi
done < "$work/hidden-paths"

dev=$work/dev.$$
mkdir -p "$dev"
mount -t tmpfs -o mode=755,size=64k none "$dev"
for name in null zero full random urandom tty; do
    [ -e "/dev/$name" ] || continue
    : > "$dev/$name"
    mount --bind "/dev/$name" "$dev/$name"
done
for name in shm pts mqueue; do
    [ -d "/dev/$name" ] || continue
    mkdir "$dev/$name"
    mount --rbind "/dev/$name" "$dev/$name"
done
# Programs with worker processes (a DataLoader) need it, whether or not this machine has it.
[ -d "$dev/shm" ] || { mkdir "$dev/shm" && mount -t tmpfs none "$dev/shm"; }
ln -s /proc/self/fd "$dev/fd"
ln -s /proc/self/fd/0 "$dev/stdin"
ln -s /proc/self/fd/1 "$dev/stdout"
ln -s /proc/self/fd/2 "$dev/stderr"
[ ! -d "$dev/pts" ] || ln -s pts/ptmx "$dev/ptmx"
[ -z "${HIDE_DEVICE_FILE:-}" ] || : > "$dev/$HIDE_DEVICE_FILE"
mount --move "$dev" /dev

if [ -e /etc/ld.so.cache ]; then
    if [ ! -e "$work/ld.so.cache" ]; then
        # Warns of the files of no length, and leaves them out.
        ldconfig -X -C "$work/ld.so.cache.$$" 2> /dev/null || true
        mv "$work/ld.so.cache.$$" "$work/ld.so.cache"
    fi
    mount --bind "$work/ld.so.cache" /etc/ld.so.cache
fi

unset HIDE_DEVICE_FILE
exec "$@"
