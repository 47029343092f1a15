#!/bin/busybox sh
# First process of the nested machine: loads the modules, gives the host's root file system the
# mounts programs expect, and runs in there what the host sent along.
# Everything printed here goes to the kernel console, which the host shows only on failure.
set -u
/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo "nested: kernel up after $(cut -d' ' -f1 /proc/uptime) s"

for module in /modules/*.ko; do
    insmod "$module" || echo "nested: $module does not load"
done

mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose host0 /host ||
    echo "nested: the host's files cannot be mounted"

mount -t proc proc /host/proc
mount -t sysfs sysfs /host/sys
mount -t devtmpfs devtmpfs /host/dev
mkdir -p /host/dev/pts /host/dev/shm
mount -t devpts devpts /host/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /host/dev/shm
# State of the programs: 9p with a loose cache is for reading.
mount -t tmpfs -o mode=755 tmpfs /host/run
mkdir -m 1777 /host/run/lock /host/run/tmp
mkdir /host/run/nested
mv /jobs.json /host/run/nested/jobs.json

hostname nested
ip link set lo up
echo "nested: ready after $(cut -d' ' -f1 /proc/uptime) s"

runner=$(cat /runner)
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/run/tmp TMPDIR=/run/tmp \
    chroot /host "$runner" nested-runner /run/nested/jobs.json
echo "nested: $runner ended with status $?"
poweroff -f
