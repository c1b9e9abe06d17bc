#!/usr/bin/env bash
#
# bench/copy.sh: how long an offline migration takes, beside PostgreSQL's own tools and pgcopydb.
#
# One source and one target with equal settings. Each round moves the same database with every
# tool, each time into a new database; who goes first changes. Timed is all a user waits for:
# schema, rows, indexes, keys, sequences.
#
# pgbaton's time includes ANALYZE of every table and of whole partitioned ones, pgcopydb's VACUUM
# ANALYZE of each table. pg_dump and pg_restore leave statistics to the user: PostgreSQL's manual
# advises ANALYZE after a restore. So they have two columns: "bare", as they end, and "+ANALYZE",
# the same run with `vacuumdb --analyze-only -j JOBS` behind it: nearly the same end (vacuumdb 15
# passes over partitioned tables as wholes).
#
# The limit is a bare binary COPY through a pipe into a truncated table (FREEZE), one table after
# the other, and then the indexes; it has the same two columns, and is not taken where tables are
# many.
#
#   ROUNDS=2 SCALE=30 JOBS=4 bench/copy.sh [workload...]
#
# Workloads: pgbench, small (2,000 tables), indexed (8 secondary indexes and a GIN one), wide
# (TOASTed text and jsonb), leaves (200 partitions).
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

ROUNDS=${ROUNDS:-2}
SCALE=${SCALE:-30}
JOBS=${JOBS:-4}
WORKLOADS=("$@")
[ ${#WORKLOADS[@]} -gt 0 ] || WORKLOADS=(pgbench small indexed wide leaves)
PGCOPYDB=$(command -v pgcopydb || true)

bench_server source
bench_server target

make_pgbench() { pgbench -i -q -s "$SCALE" "$(bench_uri source pgbench)" >/dev/null 2>&1; }
make_small() {
	for ((i = 0; i < 2000; i++)); do
		echo "CREATE TABLE t$i (id int PRIMARY KEY, name text, at timestamptz DEFAULT now());
			INSERT INTO t$i SELECT g, md5(g::text) FROM generate_series(1, 100) g;"
	done | psql -qX -v ON_ERROR_STOP=1 "$(bench_uri source small)"
}
make_indexed() {
	bench_sql source "
		CREATE TABLE indexed (id bigint PRIMARY KEY, a int, b int, c text, d timestamptz,
			e numeric, f uuid, g int, h text, tags int[]);
		INSERT INTO indexed SELECT i, i % 1000, hashint4(i), md5(i::text),
			'2020-01-01'::timestamptz + i * interval '1 s', i * 1.5, md5((-i)::text)::uuid,
			i / 100, 'h' || i % 5000, ARRAY[i % 100, i % 77, i % 53]
			FROM generate_series(1, 400000) i;
		CREATE INDEX ON indexed (a); CREATE INDEX ON indexed (b); CREATE INDEX ON indexed (c);
		CREATE INDEX ON indexed (d); CREATE INDEX ON indexed (e); CREATE INDEX ON indexed (f);
		CREATE INDEX ON indexed (g, a); CREATE INDEX ON indexed (h, d);
		CREATE INDEX ON indexed USING gin (tags)" indexed
}
make_wide() {
	bench_sql source "
		CREATE TABLE wide (id bigint PRIMARY KEY, body text, doc jsonb);
		INSERT INTO wide SELECT i,
			(SELECT string_agg(md5((i * 100 + k)::text), ' ') FROM generate_series(1, 200) k),
			jsonb_build_object('id', i, 'tags', (SELECT jsonb_agg(md5((i + k)::text)) FROM generate_series(1, 60) k))
			FROM generate_series(1, 30000) i" wide
}
make_leaves() {
	bench_sql source "
		CREATE TABLE leaves (id bigint, at int, v text, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
		DO \$\$ BEGIN FOR i IN 0..199 LOOP
			EXECUTE format('CREATE TABLE leaf_%s PARTITION OF leaves FOR VALUES IN (%s)', i, i);
		END LOOP; END \$\$;
		INSERT INTO leaves SELECT i, i % 200, md5(i::text) FROM generate_series(1, 1000000) i;
		CREATE INDEX ON leaves (v)" leaves
}

to() { bench_uri target "$1"; }
from() { bench_uri source "$1"; }

run_pgbaton() { # workload
	"$PGBATON" run --mode offline --source "$(from "$1")" --target "$(to "$1")" --jobs "$JOBS" \
		--admin 127.0.0.1:0 --state-dir "$BENCH_DIR/state" ${LOG_LEVEL:+--log-level "$LOG_LEVEL"} >"$BENCH_DIR/pgbaton.log" 2>&1
}
run_dump() {
	pg_dump -Fd -Z0 -j "$JOBS" -f "$BENCH_DIR/dump" "$(from "$1")"
	pg_restore -j "$JOBS" -d "$(to "$1")" "$BENCH_DIR/dump"
}
run_pgcopydb() {
	"$PGCOPYDB" clone --source "$(from "$1")" --target "$(to "$1")" --dir "$BENCH_DIR/pgcopydb" \
		--table-jobs "$JOBS" --index-jobs "$JOBS" >"$BENCH_DIR/pgcopydb.log" 2>&1
}
run_pipe() {
	pg_dump --section=pre-data "$(from "$1")" | psql -qX "$(to "$1")" >/dev/null
	bench_sql source "SELECT relname FROM pg_class WHERE relkind = 'r'
		AND relnamespace = 'public'::regnamespace" "$1" | while read -r table; do
		psql -qX -c "COPY $table TO STDOUT (FORMAT binary)" "$(from "$1")" |
			psql -qX -1 -c "TRUNCATE $table" -c "COPY $table FROM STDIN (FORMAT binary, FREEZE)" "$(to "$1")"
	done
	pg_dump --section=post-data "$(from "$1")" | psql -qX "$(to "$1")" >/dev/null
}

# What a tool without statistics leaves to the user; nothing for the others.
analyze() { # tool workload
	case $1 in dump | pipe) vacuumdb -q --analyze-only -j "$JOBS" "$(to "$2")" ;; esac
}

# A tool's times go to its files; what it left behind is removed outside of the time.
timed() { # tool workload
	local start
	PGOPTIONS='-c client_min_messages=warning' bench_sql target "DROP DATABASE IF EXISTS $2"
	bench_sql target "CREATE DATABASE $2"
	bench_sql target CHECKPOINT
	start=$(bench_now_ms)
	"run_$1" "$2" || { tail -n 20 "$BENCH_DIR/$1.log" >&2; echo "bench: $1 failed" >&2; exit 1; }
	echo $(($(bench_now_ms) - start)) >>"$BENCH_DIR/$2.$1"
	analyze "$1" "$2"
	echo $(($(bench_now_ms) - start)) >>"$BENCH_DIR/$2.$1.analyzed"
	rm -rf "$BENCH_DIR/dump" "$BENCH_DIR/state" "$BENCH_DIR/pgcopydb"
}

# Once is enough of half a minute and more.
too_slow() { # workload tool
	[ -s "$BENCH_DIR/$1.$2" ] && [ "$(tail -n 1 "$BENCH_DIR/$1.$2")" -gt 30000 ]
}

cell() { # workload tool: the median and how many times pgbaton's it is
	[ -s "$BENCH_DIR/$1.$2" ] || { printf ' %15s' -; return; }
	local ms
	ms=$(bench_median <"$BENCH_DIR/$1.$2")
	printf ' %7.0f (%4.2fx)' "$ms" "$(awk "BEGIN { print $ms / $3 }")"
}

printf '%-8s %7s %15s %15s %15s %15s %15s   (ms, medians of %d; -j %d; x: times of pgbaton)\n' \
	workload pgbaton 'restore bare' '+ANALYZE' pgcopydb 'pipe bare' '+ANALYZE' "$ROUNDS" "$JOBS"
for workload in "${WORKLOADS[@]}"; do
	bench_sql source "CREATE DATABASE $workload"
	"make_$workload"
	bench_sql source "VACUUM ANALYZE" "$workload"
	tools=(pgbaton dump)
	[ -z "$PGCOPYDB" ] || tools+=(pgcopydb)
	case $workload in pgbench | indexed | wide) tools+=(pipe) ;; esac
	[ -z "${TOOLS:-}" ] || read -ra tools <<<"$TOOLS"
	for ((round = 0; round < ROUNDS; round++)); do
		for ((i = 0; i < ${#tools[@]}; i++)); do
			tool=${tools[(i + round) % ${#tools[@]}]}
			too_slow "$workload" "$tool" || timed "$tool" "$workload"
		done
	done
	ours=$(bench_median <"$BENCH_DIR/$workload.pgbaton")
	printf '%-8s %7.0f' "$workload" "$ours"
	for tool in dump dump.analyzed pgcopydb pipe pipe.analyzed; do
		cell "$workload" "$tool" "$ours"
	done
	echo
	bench_sql source "DROP DATABASE $workload"
	bench_sql target "DROP DATABASE $workload"
done
