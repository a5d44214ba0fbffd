#!/bin/sh
# Installs CRIU 4.2.1 or newer, with its own loader and libraries beside it, into one directory.
#
#   restore_driver/criu/install.sh [DIRECTORY]     default: /usr/local/lib/forethaw/criu
#
# Why not `apt-get install criu`: Debian 12's 3.17.1 fails on current kernels (vdso) and Debian 13's 4.1.1
# cannot dump TCP sockets on kernels from 6.16. 4.2.1, of Debian's testing suite "forky", can, but its
# libraries are newer than a stable system's. So the package and everything it links to are downloaded from
# the mirror that this system's apt already uses, unpacked in a directory of their own, and never mixed with
# the system: apt is given lists, cache and an empty status file of its own, and nothing is installed.
# FORETHAW_DEBIAN_MIRROR and FORETHAW_DEBIAN_SUITE override the mirror and the suite.
#
# Two paths are patched, since CRIU is started as root within containers, whose /etc and /run are theirs: glibc's
# loader reads /etc/ld.so.preload before anything else, and CRIU believes what /run/criu.kdat says of the kernel. An
# installation of before that is installed anew.
set -eu

home=${1:-/usr/local/lib/forethaw/criu}
suite=${FORETHAW_DEBIAN_SUITE:-forky}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

die() { echo "install.sh: $*" >&2; exit 1; }

command -v apt-get >/dev/null || die "apt-get is missing; install where there is one, copy the directory, and name it by FORETHAW_CRIU"
command -v dpkg-deb >/dev/null || die "dpkg-deb is missing; apt-get install dpkg"
preload=/etc/ld.so.preload
cache=/run/criu.kdat
if [ -x "$home/criu" ] && ! grep -aqF "$preload" "$home/lib/loader" && ! grep -aqF "$cache" "$home/criu.bin" &&
    grep -q inhibit-cache "$home/criu" && "$home/criu" --version 2>/dev/null | grep -q '^Version: 4\.\([2-9]\|[1-9][0-9]\)'; then
    echo "$home holds $("$home/criu" --version | head -n 1 | cut -d' ' -f2) already"
    exit 0
fi

find_mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\/debian\)\/\{0,1\} .*/\2/p'
    sed -n 's/^URIs: *\([^ ]*\/debian\)\/\{0,1\}$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null
}
mirror=${FORETHAW_DEBIAN_MIRROR:-$(find_mirror | head -n 1)}
[ -n "$mirror" ] || die "no Debian mirror in /etc/apt; name one: FORETHAW_DEBIAN_MIRROR=http://deb.debian.org/debian"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/sources.d" "$work/root"
: >"$work/status"
if [ -r "$keyring" ]; then signed="[signed-by=$keyring] "; else signed=""; fi
echo "deb $signed$mirror $suite main" >"$work/sources.list"

apt() {
    apt-get -qq -o Dir::State::Lists="$work/lists" -o Dir::State::Status="$work/status" \
        -o Dir::Cache="$work/cache" -o Dir::Etc::SourceList="$work/sources.list" \
        -o Dir::Etc::SourceParts="$work/sources.d" -o APT::Sandbox::User=root \
        -o APT::Install-Recommends=false -o Acquire::Retries=3 "$@"
}
echo "fetching CRIU from suite $suite of $mirror"
apt update || die "the list of packages could not be fetched from $mirror, suite $suite"
apt --download-only -y install criu >/dev/null || die "CRIU and its libraries could not be downloaded"
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$work/root"
done

# Only what the loader needs: the binary, the loader and the libraries that it resolves.
mkdir -p "$work/home/lib"
loader=$(find "$work/root" -name 'ld-linux-*.so.*' | head -n 1)
libraries=$(find "$work/root" -type d -path '*/lib/*-linux-gnu' | tr '\n' ':')
cp -L "$loader" "$work/home/lib/loader"
cp "$work/root/usr/sbin/criu" "$work/home/criu.bin"
"$loader" --library-path "$libraries" --list "$work/home/criu.bin" |
    sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | while read -r library; do cp -L "$library" "$work/home/lib/"; done

# patch FILE PATH BYTES: over the beginning of the one place where the file names the path.
patch() {
    at=$(grep -aboF "$2" "$1" | cut -d: -f1)
    case $at in
    '' | *[!0-9]*) die "$1 names $2 not exactly once: this release is not known here" ;;
    esac
    printf "$3" | dd of="$1" bs=1 seek="$at" conv=notrunc 2>/dev/null
    if grep -aqF "$2" "$1"; then die "$2 in $1 could not be patched"; fi
}
patch "$work/home/lib/loader" "$preload" '\0' # the empty string, which names no file on any system
patch "$work/home/criu.bin" "$cache" './//' # in CRIU's working directory, which is the driver's own
cat >"$work/home/criu" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/lib/loader" --inhibit-cache --library-path "$here/lib" "$here/criu.bin" "$@"
WRAPPER
chmod 755 "$work/home/criu"
version=$("$work/home/criu" --version) || die "the unpacked CRIU does not run on this machine"
version=$(echo "$version" | head -n 1)

mkdir -p "$(dirname "$home")"
rm -rf "$home.new"
cp -r "$work/home" "$home.new"
rm -rf "$home"
mv "$home.new" "$home"
echo "installed CRIU ${version#Version: } in $home"
