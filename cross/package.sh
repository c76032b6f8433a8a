#!/usr/bin/env bash
# Packs a release: program, shipped bundle, C library, licences and SBOM, as rissole-VERSION-TARGET.tar.xz and as a .deb.
#   cross/package.sh OUT [aarch64|armv7]        by default for this machine, which is x86-64
# Needs cargo-about and cargo-cyclonedx (cargo install …), xz, and dpkg-deb; for ARM it fetches the rest as cross/ci/check-arm
# does. RISSOLE_PROFILE is by default dist.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
[ $# -ge 1 ] || usage
mkdir -p "$1"
out=$(cd "$1" && pwd)
build=build named=
case ${2:-} in
    '')
        target=x86_64-unknown-linux-gnu architecture=amd64
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        ;;
    aarch64 | armv7)
        # shellcheck source=cross/ci/arm
        . cross/ci/arm "$2"
        build=zigbuild named=$target.$glibc
        CARGO_FLAGS="--config $work/config.toml ${CARGO_FLAGS:-}"
        case $2 in aarch64) architecture=arm64 ;; armv7) architecture=armhf ;; esac
        ;;
    *) usage ;;
esac
# Where a panic happened is told by the place in the sources, not by that of this machine's copy of them.
cat >"$work/paths.toml" <<PATHS
[target.$target]
rustflags = ["--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=crates", "--remap-path-prefix=$PWD=rissole"]
PATHS
export CARGO_FLAGS="--config $work/paths.toml ${CARGO_FLAGS:-}"
export RISSOLE_PROFILE="${RISSOLE_PROFILE:-dist}"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
name=rissole-$version-$target
root=$work/$name

# shellcheck disable=SC2086  # words
"${CARGO:-cargo}" $build $CARGO_FLAGS --profile "$RISSOLE_PROFILE" --locked --package rissole ${named:+--target "$named"}
install -D -m 755 "${CARGO_TARGET_DIR:-target}${named:+/$target}/$RISSOLE_PROFILE/rissole" "$root/bin/rissole"
"${BINUTILS:-}strip" "$root/bin/rissole"
cross/install.sh "$root" ${named:+"$named"}

# The same sources give the same packages. Not told before: build scripts that see another date begin anew.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

documents=$root/share/doc/rissole
mkdir -p "$root/share/rissole/models" "$documents"
cp -r models/avatars64 "$root/share/rissole/models/"
cp -r README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE examples "$documents/"
sed 's|/usr/local/|/usr/|g' cross/rissole.service >"$documents/rissole.service"
cargo about generate --frozen --target "$target" --manifest-path Cargo.toml --config cross/about.toml cross/about.hbs \
    --output-file "$documents/licences.txt"
# The tool writes beside each manifest: where the sources may be written to.
mkdir "$work/sources"
cp -r Cargo.toml Cargo.lock src tools benches "$work/sources/"
cargo cyclonedx --quiet --manifest-path "$work/sources/Cargo.toml" --format json --target "$target" --override-filename sbom
sed "s|$work/sources|/rissole|g" "$work/sources/sbom.json" >"$documents/sbom.cdx.json"

chmod -R u=rwX,go=rX "$root"
tar --directory "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --create "$name" | xz -T0 >"$out/$name.tar.xz"

# The same files below /usr.
glibc=$(readelf --wide --version-info "$root/bin/rissole" | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -uV | tail -n 1)
mkdir -p "$work/deb/DEBIAN"
mv "$root" "$work/deb/usr"
cat >"$work/deb/DEBIAN/control" <<CONTROL
Package: rissole
Version: $version
Architecture: $architecture
Maintainer: The rissole project
Section: graphics
Priority: optional
Installed-Size: $(du -sk "$work/deb/usr" | cut -f 1)
Depends: libc6 (>= $glibc), libgcc-s1 | libgcc1
Description: image generation on edge devices
 Draws pictures by latent diffusion one block at a time, guided by the nearest
 neighbours in a memory-mapped block database, within a RAM budget. With the C
 library, its header, and the bundle avatars64.
CONTROL
{
    echo 'rissole: under the MIT licence, as follows, or under Apache-2.0 (/usr/share/common-licenses/Apache-2.0).'
    echo 'What is compiled into it, and under which licences: licences.txt beside this file.'
    echo
    cat LICENSE-MIT
} >"$work/deb/usr/share/doc/rissole/copyright"
gzip -9n <CHANGELOG.md >"$work/deb/usr/share/doc/rissole/changelog.gz"
rm "$work/deb/usr/share/doc/rissole/CHANGELOG.md"
echo "librissole ${version%%.*} rissole (>= $version)" >"$work/deb/DEBIAN/shlibs"
echo 'activate-noawait ldconfig' >"$work/deb/DEBIAN/triggers"
dpkg-deb --root-owner-group -Zxz --build "$work/deb" "$out/rissole_${version}_$architecture.deb" >/dev/null

for file in "$work"/deb/usr/bin/rissole "$work"/deb/usr/lib/librissole.a "$work"/deb/usr/lib/librissole.so \
    "$out/$name.tar.xz" "$out/rissole_${version}_$architecture.deb"; do
    echo "$(stat -Lc %s "$file") $(basename "$file")"
done
