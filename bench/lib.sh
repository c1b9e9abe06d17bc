# lib.sh: throwaway servers and clocks for the benchmarks. Sourced, not run.
#
# Servers are Debian's (or those on PATH), on free loopback ports, durable settings off, the same
# for every side. Everything is removed at the end, also after an error.
# shellcheck shell=bash

set -euo pipefail

BENCH_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PGBATON=${PGBATON:-$BENCH_ROOT/build/pgbaton}
for dir in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)"; do
	[ -x "$dir/initdb" ] && PGBIN=$dir
done
[ -n "${PGBIN:-}" ] || { echo "bench: no PostgreSQL server found (tools/deps installs it)" >&2; exit 1; }
PATH=$PGBIN:$PATH # not the wrapper of Debian, which starts a Perl script first

BENCH_DIR=$(mktemp -d "${TMPDIR:-/tmp}/pgbaton-bench-XXXXXX")
chmod 755 "$BENCH_DIR"
BENCH_PIDS=()
declare -A BENCH_PORT=()

bench_as_server() { "$@"; }
if [ "$(id -u)" = 0 ]; then
	BENCH_USER=postgres
	id "$BENCH_USER" >/dev/null 2>&1 || BENCH_USER=nobody
	chown "$BENCH_USER" "$BENCH_DIR"
	bench_as_server() { (cd / && runuser -u "$BENCH_USER" -- "$@"); }
fi

bench_cleanup() {
	set +e
	for pid in "${BENCH_PIDS[@]}"; do
		kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
	done
	for side in "${!BENCH_PORT[@]}"; do
		bench_as_server "$PGBIN/pg_ctl" -D "$BENCH_DIR/$side" -m immediate -s stop >/dev/null 2>&1
	done
	rm -rf "$BENCH_DIR"
}
trap bench_cleanup EXIT
trap 'exit 130' INT TERM

bench_free_port() {
	perl -MIO::Socket::INET -e '
		print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport'
}

bench_server() { # name
	bench_as_server "$PGBIN/initdb" -D "$BENCH_DIR/$1" -U bench -A trust -E UTF8 --locale=C >/dev/null
	BENCH_PORT[$1]=$(bench_free_port)
	bench_as_server tee -a "$BENCH_DIR/$1/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = '127.0.0.1'
		port = ${BENCH_PORT[$1]}
		unix_socket_directories = ''
		wal_level = logical
		fsync = off
		shared_buffers = 512MB
		max_wal_size = 8GB
		checkpoint_timeout = 1h
		autovacuum = off
		max_logical_replication_workers = 8
		wal_retrieve_retry_interval = 10ms
		${BENCH_CONF:-}
	CONF
	bench_as_server "$PGBIN/pg_ctl" -D "$BENCH_DIR/$1" -w -s -l "$BENCH_DIR/$1.log" start
}

bench_uri() { # server [database]
	echo "postgresql://bench@127.0.0.1:${BENCH_PORT[$1]}/${2:-postgres}"
}

bench_sql() { # server sql [database] [psql's arguments...]
	local database=postgres
	if [ $# -gt 2 ] && [ "${3:0:1}" != - ]; then
		database=$3
		set -- "$1" "$2" "${@:4}"
	fi
	psql -qXAt -v ON_ERROR_STOP=1 "$(bench_uri "$1" "$database")" -c "$2" "${@:3}"
}

bench_now_ms() { date +%s%3N; }

# Waits until the query is true and says when that was, in ms; a hang is an error. One session that
# sleeps between its looks: a client a look would take a core from what is measured. Each look is a
# transaction, or its snapshot would keep every dead row of the hot tables.
bench_when() { # server sql
	bench_sql "$1" "
		DO \$wait\$ BEGIN
			FOR i IN 1 .. ${BENCH_PATIENCE_MS:-600000} / 2 LOOP
				IF ($2) THEN RETURN; END IF;
				PERFORM pg_sleep(0.002);
				COMMIT;
			END LOOP;
			RAISE 'never true: %', \$text\$$2\$text\$;
		END \$wait\$" -c "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
}
bench_until() { bench_when "$@" >/dev/null; } # server sql

bench_median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# pgbaton between two servers, until it follows. Further arguments go to run.
bench_pgbaton() { # source target args...
	local source=$1 target=$2
	shift 2
	PGBATON_ADMIN=127.0.0.1:$(bench_free_port)
	export PGBATON_ADMIN
	"$PGBATON" run --source "$(bench_uri "$source")" --target "$(bench_uri "$target")" \
		--state-dir "$BENCH_DIR/state" --admin "$PGBATON_ADMIN" "$@" 2>"$BENCH_DIR/pgbaton.log" &
	BENCH_PIDS+=("$!")
	PGBATON_PID=$!
	"$PGBATON" wait --for following --timeout 300 || { tail "$BENCH_DIR/pgbaton.log" >&2; exit 1; }
}

# Ends the process started last; bench_pgbaton with the same servers goes on.
bench_pgbaton_stop() {
	kill -TERM "$PGBATON_PID"
	wait "$PGBATON_PID" || { tail "$BENCH_DIR/pgbaton.log" >&2; exit 1; }
}
