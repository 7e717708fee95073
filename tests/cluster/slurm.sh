#!/usr/bin/env bash
# Run a real Slurm cluster on this machine, with its files in one folder: munge, slurmctld, and two slurmd as nodes n1
# and n2. Needs root and Debian.
#
#   tests/cluster/slurm.sh install          install Debian's packages slurm-wlm and munge if they are missing
#   tests/cluster/slurm.sh start FOLDER     start the cluster and wait until both nodes are idle
#   tests/cluster/slurm.sh node FOLDER n1   restart the slurmd of one node
#   tests/cluster/slurm.sh stop FOLDER      stop all processes of the cluster
#
# Each node offers two GPUs, which are copies of /dev/null: CUDA_VISIBLE_DEVICES is set as on a real cluster, but the
# GPUs do not exist.
#
# A test run that is killed cannot stop its cluster. `start` therefore stops a cluster that an earlier run left behind,
# unless the process that started it still exists.
set -euo pipefail

command=${1:?use install, start, node or stop}

if [ "$command" = install ]; then
    if command -v slurmctld >/dev/null && command -v munged >/dev/null; then exit 0; fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
    exit 0
fi

folder=$(realpath -m "${2:?FOLDER is missing}")
# The path where Slurm looks by default. Snakemake's job steps do not pass on SLURM_CONF.
conf=/etc/slurm/slurm.conf

free_ports() {
    python3 -c 'import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))'
}

start_node() {
    slurmd -N "$1" -L "$folder/$1.log"
}

case $command in
start)
    if [ -e $conf ]; then
        # The first line of a file that this script wrote: "# slurm.sh PID FOLDER".
        read -r _ author pid former <$conf || true
        if [ "${author:-}" != slurm.sh ]; then
            echo "$conf already exists: this machine belongs to a cluster" >&2
            exit 2
        fi
        if kill -0 "$pid" 2>/dev/null; then
            echo "process $pid is using a test cluster in $former: wait for it, or run 'slurm.sh stop $former'" >&2
            exit 2
        fi
        "$0" stop "$former"
    fi
    mkdir -p "$folder"/{state,n1,n2}
    chmod 755 "$folder"
    read -r port port1 port2 < <(free_ports)
    head -c 128 /dev/urandom >"$folder/munge.key"
    chmod 400 "$folder/munge.key"
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
        --seed-file "$folder/munge.seed" --log-file "$folder/munged.log"
    mknod "$folder/gpu0" c 1 3
    mknod "$folder/gpu1" c 1 3
    echo "Name=gpu File=$folder/gpu[0-1]" >/etc/slurm/gres.conf
    memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    cat >$conf <<END
# slurm.sh $PPID $folder
ClusterName=test
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthInfo=socket=$folder/munge.socket,cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=5,bf_interval=5
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=300
JobRequeue=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
MinJobAge=60000
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$port1 Sockets=1 CoresPerSocket=2 RealMemory=$memory Gres=gpu:2
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$port2 Sockets=1 CoresPerSocket=2 RealMemory=$memory Gres=gpu:2
PartitionName=main Nodes=n[1-2] Default=YES State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n[1-2] State=UP PriorityTier=2
END
    slurmctld
    start_node n1
    start_node n2
    for _ in $(seq 1500); do
        if [ "$(sinfo --noheader --partition main --Node --format %T 2>/dev/null | grep -c idle)" = 2 ]; then exit 0; fi
        sleep 0.2
    done
    echo "the nodes are still not idle after five minutes:" >&2
    sinfo --Node --long >&2 || true
    tail -n 5 "$folder"/*.log >&2
    "$0" stop "$folder"
    exit 1
    ;;
node)
    start_node "$3"
    ;;
stop)
    # Cancel all jobs first: without the daemons, nothing would end them.
    if timeout 10 scancel --user root 2>/dev/null; then
        for _ in $(seq 600); do
            if [ -z "$(squeue --noheader 2>/dev/null)" ]; then break; fi
            sleep 0.2
        done
    fi
    rm -f $conf /etc/slurm/gres.conf
    for name in n1 n2 slurmctld munged; do
        if [ -f "$folder/$name.pid" ]; then
            kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
        fi
    done
    pkill -f "^slurmstepd" 2>/dev/null || true
    ;;
*)
    echo "unknown command: $command (use install, start, node or stop)" >&2
    exit 2
    ;;
esac
