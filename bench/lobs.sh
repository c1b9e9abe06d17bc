#!/usr/bin/env bash
#
# bench/lobs.sh: large objects: a whole offline migration beside pg_dump and pg_restore, and how
# long the comparison at a cutover holds writers, as a superuser of the target (pages of
# pg_largeobject) and as an ordinary user (lo_get and lo_put).
#
#   WORKLOADS='small large' OBJECTS=100000 FILES=20 FILE_MB=15 JOBS=4 bench/lobs.sh
#
# small: OBJECTS of 1 kB; large: FILES of FILE_MB MiB. Random bytes: nothing is compressed.
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

OBJECTS=${OBJECTS:-100000}
FILES=${FILES:-20}
FILE_MB=${FILE_MB:-15}
JOBS=${JOBS:-4}

bench_server source
bench_server target
bench_sql target "CREATE ROLE plain LOGIN; GRANT bench TO plain;
	GRANT SET ON PARAMETER session_replication_role TO plain"

make_small() {
	bench_sql source "CREATE EXTENSION pgcrypto;
		SELECT count(lo_from_bytea(0, gen_random_bytes(1000))) FROM generate_series(1, $OBJECTS);
		DROP EXTENSION pgcrypto" small >/dev/null
}
make_large() {
	head -c "${FILE_MB}M" /dev/urandom >"$BENCH_DIR/file"
	chmod 644 "$BENCH_DIR/file"
	bench_sql source "SELECT count(lo_import('$BENCH_DIR/file')) FROM generate_series(1, $FILES)" \
		large >/dev/null
}

new_target() { # workload
	bench_sql target "DROP DATABASE IF EXISTS $1 WITH (FORCE)" -c "CREATE DATABASE $1" \
		-c "GRANT CREATE ON DATABASE $1 TO plain"
	bench_sql target "GRANT ALL ON SCHEMA public TO plain" "$1"
}

target_as() { # workload user
	bench_uri target "$1" | sed "s/bench@/$2@/"
}

timed() { # command...
	local began
	began=$(bench_now_ms)
	"$@" >"$BENCH_DIR/out" 2>&1 || { tail "$BENCH_DIR/out" >&2; exit 1; }
	echo $(($(bench_now_ms) - began))
}

dump_restore() {
	pg_dump -Fc -Z0 -b -f "$BENCH_DIR/dump" "$(bench_uri source "$1")"
	pg_restore -d "$(bench_uri target "$1")" "$BENCH_DIR/dump"
}

offline() { # workload user
	"$PGBATON" run --mode offline --source "$(bench_uri source "$1")" --target "$(target_as "$1" "$2")" \
		--jobs "$JOBS" --admin 127.0.0.1:0 --state-dir "$BENCH_DIR/state-offline-$1-$2"
}

# Two figures: the rehearsal's comparison, and that of a cutover right behind it.
compared() { # workload user
	export PGBATON_ADMIN
	PGBATON_ADMIN=127.0.0.1:$(bench_free_port)
	"$PGBATON" run --source "$(bench_uri source "$1")" --target "$(target_as "$1" "$2")" --jobs "$JOBS" \
		--state-dir "$BENCH_DIR/state-$1-$2" --admin "$PGBATON_ADMIN" --hold-timeout 60 \
		2>"$BENCH_DIR/pgbaton.log" &
	BENCH_PIDS+=("$!")
	"$PGBATON" wait --for following --timeout 100
	"$PGBATON" cutover --rehearse --json | grep -o '"large_objects_ms": [0-9.]*' | grep -o '[0-9.]*$'
	"$PGBATON" cutover --json | grep -o '"hold_ms": [0-9.]*' | grep -o '[0-9.]*$'
	"$PGBATON" finish >/dev/null
}

printf '%-8s %-10s %14s %14s %14s\n' workload user 'copy ms' 'compared ms' 'hold ms'
for workload in ${WORKLOADS:-small large}; do
	bench_sql source "CREATE DATABASE $workload"
	"make_$workload"
	# One table: without any there would be nothing to follow.
	bench_sql source "CREATE TABLE t (id int PRIMARY KEY)" "$workload"
	new_target "$workload"
	printf '%-8s %-10s %14d\n' "$workload" 'pg_dump' "$(timed dump_restore "$workload")"
	for user in bench plain; do
		new_target "$workload"
		copy=$(timed offline "$workload" "$user")
		new_target "$workload"
		read -r -d '' rehearsed held < <(compared "$workload" "$user") || true
		printf '%-8s %-10s %14d %14.0f %14.0f\n' "$workload" "$user" "$copy" "$rehearsed" "$held"
	done
done
