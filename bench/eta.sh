#!/usr/bin/env bash
#
# bench/eta.sh: how honest the ETA of a copy is.
#
# Copies a pgbench database with a table of text and five more indexes, asks the status each second,
# and compares what it said with what remained until rows and indexes were in. Printed: each sample;
# then the median of the errors (in parts of what remained) after the first fifth of the time, and
# how many of those samples had no number.
#
#   SCALE=80 JOBS=2 bench/eta.sh
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

SCALE=${SCALE:-80}
JOBS=${JOBS:-2}

bench_server source
bench_server target
pgbench -i -q -s "$SCALE" "$(bench_uri source)" >/dev/null 2>&1
bench_sql source "
	CREATE TABLE note (id bigint PRIMARY KEY, aid int, body text);
	INSERT INTO note SELECT i, i, repeat(md5(i::text), 6) FROM generate_series(1, $SCALE * 10000) i;
	CREATE INDEX ON pgbench_accounts (bid); CREATE INDEX ON pgbench_accounts (abalance, aid);
	CREATE INDEX ON note (aid); CREATE INDEX ON note (md5(body)); CREATE INDEX ON note (left(body, 20));
	ANALYZE"
echo "$(bench_sql source "SELECT pg_size_pretty(pg_database_size(current_database()))"), $JOBS jobs"

PGBATON_ADMIN=127.0.0.1:$(bench_free_port)
export PGBATON_ADMIN
"$PGBATON" run --source "$(bench_uri source)" --target "$(bench_uri target)" --jobs "$JOBS" \
	--state-dir "$BENCH_DIR/state" --admin "$PGBATON_ADMIN" 2>"$BENCH_DIR/pgbaton.log" &
BENCH_PIDS+=("$!")
"$PGBATON" wait --for copying --timeout 60
begin=$(bench_now_ms)
("$PGBATON" wait --for catching_up --timeout 600 && bench_now_ms >"$BENCH_DIR/end") &
BENCH_PIDS+=("$!")
while [ ! -s "$BENCH_DIR/end" ]; do
	status=$("$PGBATON" status --json --tables 0)
	echo "$(bench_now_ms) $(jq -r '"\(.state) \(.eta.seconds) \(.index.done)/\(.index.count) \(.eta.unknown)"' <<<"$status")" \
		>>"$BENCH_DIR/samples"
	sleep 1
done
awk -v begin="$begin" -v end="$(cat "$BENCH_DIR/end")" '
	$2 == "copying" && $1 < end {
		at = ($1 - begin) / 1000; left = (end - $1) / 1000
		printf "%5.1f s: said %6s, remained %5.1f, steps %s\n", at, $3, left, $4
		if (at < (end - begin) / 5000 || left < 0.5) next
		samples++
		if ($3 == "null") unknown++; else { e = ($3 - left) / left; print (e < 0 ? -e : e) > "'"$BENCH_DIR"'/errors" }
	}
	END { printf "%.1f s in all; %d samples after the first fifth, %d without a number\n", (end - begin) / 1000, samples, unknown }
' "$BENCH_DIR/samples"
echo "median error: $(bench_median <"$BENCH_DIR/errors")"
