#!/bin/sh
# Builds an S3-compatible server, versitygw (Apache-2.0), from its Go module at a pinned version.
#
#   tests/parts/build_s3.sh [DIRECTORY]     default: .parts/s3 of this checkout; the program is DIRECTORY/versitygw
#
# Why this one: it serves a plain directory over the S3 protocol, multipart uploads and ranges included, and is built in
# about a minute on two cores. The module and build caches are the project's own; a second run finds the program there.
# The checksum of every module is verified: the first look-up that fails ends the build.
set -eu

version=v1.8.0
here=$(cd "$(dirname "$0")/../.." && pwd)
home=${1:-$here/.parts/s3}

die() { echo "build_s3.sh: $*" >&2; exit 1; }

if [ -x "$home/versitygw" ] && [ "$(cat "$home/version" 2>/dev/null)" = "$version" ]; then
    echo "$home holds versitygw $version already"
    exit 0
fi
command -v go >/dev/null || die "go is missing: https://go.dev/doc/install"

mkdir -p "$home/source"
cd "$home/source"
export GOFLAGS="-mod=mod -buildvcs=false -trimpath -modcacherw" CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off
export GOMODCACHE="$home/modules" GOCACHE="$home/cache"
printf 'module forethaw.invalid/parts\n\nrequire github.com/versity/versitygw %s\n' "$version" >go.mod
go list -deps github.com/versity/versitygw/cmd/versitygw >/dev/null || die "its modules could not be fetched"
go build -ldflags "-s -w" -o "$home/versitygw.new" github.com/versity/versitygw/cmd/versitygw || die "it does not build"
mv "$home/versitygw.new" "$home/versitygw"
echo "$version" >"$home/version"
rm -rf "$home/cache" "$home/modules" "$home/source" # a gigabyte that nobody reads again
echo "built versitygw $version in $home"
