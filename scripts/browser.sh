#!/usr/bin/env bash
# Installs Chromium and its driver for the tests of the search page, where that needs no question asked:
# as root on Debian or Ubuntu. It never fails: without a browser those tests are skipped and say why.
set -uo pipefail

has_browser() {
  { command -v chromium || command -v google-chrome; } >/dev/null && command -v chromedriver >/dev/null
}

skip() {
  echo "browser.sh: $1; the tests of the search page will be skipped" >&2
  exit 0
}

has_browser && exit 0
command -v apt-get >/dev/null || skip "no apt-get here: install chromium and chromedriver by hand"
[ "$(id -u)" = 0 ] || skip "not root: run 'sudo scripts/browser.sh'"

# Bounded, so that a mirror that hangs costs minutes and not the whole job.
export DEBIAN_FRONTEND=noninteractive
apt="timeout 240 apt-get -qq -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Dpkg::Use-Pty=0"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
$apt update >"$log" 2>&1 || skip "apt-get update failed: $(tail -n 1 "$log")"
for driver in chromium-driver chromium-chromedriver; do # Debian's name, Ubuntu's name
  $apt install -y --no-install-recommends chromium "$driver" >"$log" 2>&1 && break
done
has_browser || skip "apt-get installed no chromium and chromedriver: $(tail -n 1 "$log")"
chromium --version
