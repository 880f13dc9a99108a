#!/bin/sh
# Installs the servers that Beamish is compared with, from the distribution, and does not let them start: the bench runs
# them itself, with directories and ports of their own. Leaves everything alone where it is installed already.
set -eu

missing=
command -v prosody >/dev/null || missing="$missing prosody"
command -v ejabberdctl >/dev/null || [ -x /usr/sbin/ejabberdctl ] || missing="$missing ejabberd"
[ -n "$missing" ] || exit 0
# what the tests of federation with prosody need besides
case $missing in *prosody*) missing="$missing lua-unbound" ;; esac

as_root=
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || { echo "not installed:$missing (apt-get install$missing)" >&2; exit 1; }
    as_root='sudo -n'
fi
command -v apt-get >/dev/null || { echo "not installed, and there is no apt-get:$missing" >&2; exit 1; }

# Debian starts what it installs unless this says no (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null || true
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
