#!/bin/sh
# Lays out the sources of client libraries whose own tests judge the server (test_suites.py) in a folder, by default .venv/suites.
# slixmpp's are in its release on PyPI; aioxmpp leaves its tests out of its own, but Debian's source package has them.
# Each must be of the version that is installed. What cannot be had is named, and its test skipped.
set -eu
python=.venv/bin/python
suites=${1:-.venv/suites}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$suites"

version() { $python -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' "$1"; }

# Replaces a folder by what is in an archive; the number says how many folders to take off.
lay_out() {
	mkdir "$work/$1"
	tar -xf "$2" -C "$work/$1" --strip-components="$3"
	rm -rf "${suites:?}/$1"
	mv "$work/$1" "$suites/$1"
	echo "$4" > "$suites/$1/.version"
}

missing() { [ "$(cat "$suites/$1/.version" 2>/dev/null)" != "$2" ]; }

slixmpp() {
	$python -m pip --quiet --disable-pip-version-check download --no-deps --no-binary slixmpp --dest "$work" "slixmpp==$1" &&
		lay_out slixmpp "$work/slixmpp-$1.tar.gz" 1 "$1"
}

# Sources by apt-get, for which the places that it knows are written down once more: nothing of the system is changed.
# Debian 13 has no aioxmpp any more, but its mirrors have Debian 12.
aioxmpp() {
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	signed=
	[ ! -e "$keyring" ] || signed=" [signed-by=$keyring]"
	# $( ) is apt's here
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Component: main' "Release: $release" | sort -u > "$work/places"
	for of in $(printf '%s\n' "$release" bookworm | sort -u); do
		sed "s|.*|deb-src$signed & $of main|" "$work/places"
	done > "$work/sources.list"
	mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
	set -- "$1" -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=
	wanted=$1
	shift
	apt-get "$@" update &&
		(cd "$work" && apt-get "$@" source --download-only --tar-only python-aioxmpp >/dev/null) &&
		lay_out aioxmpp "$work/python-aioxmpp_$wanted.orig.tar.gz" 0 "$wanted"
}

for library in slixmpp aioxmpp; do
	installed=$(version $library)
	missing $library "$installed" || continue
	$library "$installed" 2>"$work/why" || echo "no tests of $library $installed: $(tail -n 1 "$work/why")" >&2
done

# Libraries in other languages, for test_languages.py.
node() {
	npm install --silent --no-audit --no-fund --prefix "$suites/node" "@xmpp/client@$1"
}

mellium() {
	mkdir -p "$suites/mellium" && play=$(cd "$suites/mellium" && pwd)/play && (cd tests/interop/mellium && go build -o "$play" .)
}

if command -v npm >/dev/null && missing node 0.14.0; then
	mkdir -p "$suites/node"
	{ node 0.14.0 && echo 0.14.0 > "$suites/node/.version"; } >/dev/null 2>"$work/why" ||
		echo "no @xmpp/client: $(tail -n 1 "$work/why")" >&2
fi
# go build does nothing where nothing has changed
if command -v go >/dev/null; then
	mellium 2>"$work/why" || echo "nothing with mellium: $(tail -n 1 "$work/why")" >&2
fi
