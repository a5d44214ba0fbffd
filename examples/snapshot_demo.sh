#!/bin/sh
# Checkpoints a running server, kills it, and restores it: it goes on counting where it was. Needs root and no GPU.
#
#   sudo make snapshot            or, with forethaw and CRIU installed: sudo examples/snapshot_demo.sh
#
# PORT=8080 is taken for the server; another one is used when it is set.
set -eu

here=$(dirname "$(readlink -f "$0")")
port=${PORT:-8080}
[ "$(id -u)" = 0 ] || { echo "checkpoint and restore need root: sudo make snapshot" >&2; exit 2; }
if python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; then
    echo "port $port is taken; name another one: PORT=8081 make snapshot" >&2
    exit 2
fi
work=$(mktemp -d)
server=''
placeholder=''
clean_up() {
    for pid in $server $placeholder; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean_up EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
ask() { python3 -c "
import sys, urllib.request as r
print(r.urlopen(r.Request('http://127.0.0.1:$port$2', method='$1'), timeout=10).read().decode())"; }

say "1. A server with threads, a child process, pipes, sockets, shared memory and an open file"
sed "s/:8080/:$port/" "$here/counter_server.toml" >"$work/replica.toml"
setsid python3 "$here/counter_server.py" --port "$port" --directory "$work/server" </dev/null >"$work/log" 2>&1 &
server=$!
until grep -q http "$work/log"; do sleep 0.1; kill -0 "$server" || { cat "$work/log" >&2; exit 1; }; done
ask POST /increment; ask POST /increment; ask POST /increment

say "2. forethaw checkpoint $server SNAPSHOT --replica counter_server.toml --end"
forethaw checkpoint "$server" "$work/snapshot" --replica "$work/replica.toml" --end --state "$work/state"
server=''

say "3. forethaw inspect SNAPSHOT"
forethaw inspect "$work/snapshot"

say "4. forethaw restore SNAPSHOT"
forethaw restore "$work/snapshot" --state "$work/state" | tee "$work/restored"
placeholder=$(sed -n 's/^placeholder_pid: //p' "$work/restored")
[ -n "$placeholder" ] || exit 1

say "5. It counts on where it was, in namespaces of its own"
ask POST /increment
