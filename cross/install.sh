#!/bin/sh
# Builds the C library and installs it: header, static and shared library, pkg-config file, CMake package.
#   cross/install.sh PREFIX [TARGET]        TARGET as of rustc --print target-list; default: this machine's
# With CARGO=cargo-zigbuild, TARGET may end in the version of glibc, as .2.28; CARGO_FLAGS are flags for it. LINKER, by
# default cc, makes the shared library: a C compiler for TARGET. BINUTILS is what stands before the names of ld, ar, nm and
# objcopy, as aarch64-linux-gnu-. RISSOLE_PROFILE is one of Cargo.toml, by default release. What is installed may be moved as a
# whole.
set -eu
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
case $1 in /*) prefix=$1 ;; *) prefix=$PWD/$1 ;; esac
target=${2:-}
profile=${RISSOLE_PROFILE:-release}

# The library alone, not the command line; the rest of the features as in the workspace, so that nothing of what
# tract needs is built twice.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
# A program goes on with every library of the same binary interface, and with no other.
abi=$(sed -n 's/^pub const ABI_VERSION: u32 = \([0-9]*\);$/\1/p' src/capi/mod.rs)
soname=librissole.so.${abi:?is not in src/capi/mod.rs}
# shellcheck disable=SC2086  # words
"${CARGO:-cargo}" rustc ${CARGO_FLAGS:-} --package rissole --lib --profile "$profile" --locked --features c-library \
    --crate-type staticlib ${target:+--target "$target"}

# What a static library leaves to the linker on this system.
system_libraries='-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc'
out=${CARGO_TARGET_DIR:-target}${target:+/${target%.2.*}}/$profile
lib=$prefix/lib
mkdir -p "$prefix/include" "$lib/pkgconfig" "$lib/cmake/rissole"
install -m 644 include/rissole.h include/rissole.hpp "$prefix/include/"

# Crates below have names of their own, which are not for the users of this library and meet those of other libraries in
# Rust: all becomes one object, in which only ours are seen. Bitcode, for rustc alone, cannot be joined.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
binutils=${BINUTILS:-}
"${binutils}nm" "$out/librissole.a" 2>/dev/null | sed -n 's/^[0-9a-f]* T \(rissole_[a-z_]*\)$/--undefined=\1/p' >"$work/names"
"${binutils}ld" -r --gc-sections -T cross/join.ld "@$work/names" -o "$work/all.o" --whole-archive "$out/librissole.a" 2>"$work/log" ||
    { cat "$work/log" >&2; exit 1; }
"${binutils}objcopy" --strip-unneeded --remove-section=.llvmbc --remove-section=.llvmcmd \
    --wildcard --keep-global-symbol='rissole_*' "$work/all.o" "$work/rissole.o"
rm -f "$lib/librissole.a"
"${binutils}ar" rcs "$lib/librissole.a" "$work/rissole.o"
chmod 644 "$lib/librissole.a"

# Not by rustc, which exports what the crates below do.
echo '{ global: rissole_*; local: *; };' >"$work/names"
# shellcheck disable=SC2086  # words
${LINKER:-cc} -shared -o "$lib/librissole.so.$version" -Wl,-soname,"$soname" -Wl,--version-script="$work/names" \
    -Wl,--whole-archive "$lib/librissole.a" -Wl,--no-whole-archive $system_libraries \
    -Wl,--gc-sections -Wl,--strip-all -Wl,-z,defs -Wl,-z,noexecstack
chmod 644 "$lib/librissole.so.$version"
ln -sf "librissole.so.$version" "$lib/$soname"
ln -sf "librissole.so.$version" "$lib/librissole.so"
sed -e "s|@VERSION@|$version|" -e "s|@LIBRARIES@|$system_libraries|" \
    cross/rissole.pc.in >"$lib/pkgconfig/rissole.pc"
sed -e "s|@VERSION@|$version|" -e "s|@LIBRARIES@|$(printf %s "$system_libraries" | sed 's/-l//g; s/ /;/g')|" \
    cross/rissoleConfig.cmake.in >"$lib/cmake/rissole/rissoleConfig.cmake"
sed "s|@VERSION@|$version|" cross/rissoleConfigVersion.cmake.in >"$lib/cmake/rissole/rissoleConfigVersion.cmake"
echo "installed rissole $version in $prefix"
