#!/usr/bin/env bash
#
# bench/large.sh: a transaction of a million rows, from its COMMIT on the source until it is
# visible on the target: PostgreSQL's own subscription with streaming = on, with streaming =
# parallel (16 and newer), and pgbaton.
#
# One source with a database for each of them (decoding skips the others'), three targets with
# equal settings. Each round inserts ROWS rows and updates all of them, in each database in turn;
# who comes first changes from round to round. The last statement of a transaction changes a mark,
# whose sight ends the time.
#
#   ROWS=1000000 ROUNDS=3 LANES=4 MAJOR=17 bench/large.sh
#
# Servers of MAJOR come from the system or from the cache that tools/deps --test fills; without
# MAJOR the newest that is there.
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

ROWS=${ROWS:-1000000}
ROUNDS=${ROUNDS:-3}
LANES=${LANES:-4}

cache=${PGBATON_CACHE:-}
if [ -z "$cache" ]; then
	if [ "$(id -u)" = 0 ]; then cache=/var/cache/pgbaton; else cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgbaton; fi
fi
for major in ${MAJOR:-18 17 16}; do
	for dir in "/usr/lib/postgresql/$major/bin" "$cache/pg/$major/bin"; do
		[ -x "$dir/initdb" ] && PGBIN=$dir && break 2
	done
done
version=$("$PGBIN/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
SIDES=(native pgbaton)
[ "$version" -lt 16 ] || SIDES=(native parallel pgbaton)

schema="
	CREATE TABLE big (id int PRIMARY KEY, n bigint NOT NULL, t text NOT NULL);
	CREATE TABLE mark (id int PRIMARY KEY, n bigint);"

sql() { # server database sql
	psql -qXAt -v ON_ERROR_STOP=1 "$(bench_uri "$1" "$2")" -c "$3"
}
database() { [ "$1" = pgbaton ] && echo postgres || echo "$1"; } # side: its database on the source

bench_server source
for side in "${SIDES[@]}"; do
	db=$(database "$side")
	bench_server "$side"
	[ "$db" = postgres ] || sql source postgres "CREATE DATABASE $db"
	sql source "$db" "$schema INSERT INTO mark VALUES (1, 0)"
	sql "$side" postgres "$schema"
	[ "$side" != pgbaton ] || continue
	streaming=on
	[ "$side" = native ] || streaming=parallel
	sql source "$db" "CREATE PUBLICATION $side FOR ALL TABLES"
	sql "$side" postgres "CREATE SUBSCRIPTION $side CONNECTION '$(bench_uri source "$db")'
		PUBLICATION $side WITH (binary = true, streaming = $streaming)"
	bench_until "$side" "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
done
bench_pgbaton source pgbaton --lanes "$LANES" --schema none

# Sleeps in the server between its looks, so that looking costs nothing.
visible_ms() { # side mark
	psql -qXAt -v ON_ERROR_STOP=1 "$(bench_uri "$1")" -c "DO \$\$ BEGIN
		WHILE (SELECT n FROM mark) IS DISTINCT FROM $2 LOOP
			COMMIT; PERFORM pg_sleep(0.002);
		END LOOP; END \$\$" -c "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
}

MARK=0
measure() { # side sql: appends the milliseconds between COMMIT and sight
	local committed seen
	MARK=$((MARK + 1))
	committed=$(sql source "$(database "$1")" "
		BEGIN; $2; UPDATE mark SET n = $MARK;
		SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint; COMMIT;")
	seen=$(visible_ms "$1" "$MARK")
	echo $((seen - committed)) >>"$BENCH_DIR/$1.$3"
}

declare -A work=(
	[insert]="INSERT INTO big SELECT g, g, md5(g::text) FROM generate_series(1, $ROWS) g"
	[update]="UPDATE big SET n = n + 1"
)
for round in $(seq 1 "$ROUNDS"); do
	for kind in insert update; do
		for i in $(seq 1 ${#SIDES[@]}); do
			side=${SIDES[$(((i + round) % ${#SIDES[@]}))]}
			measure "$side" "${work[$kind]}" "$kind"
		done
	done
	for side in "${SIDES[@]}"; do
		measure "$side" "TRUNCATE big" truncate
	done
done

streamed=$(sql source postgres "SELECT count(*) FROM pg_stat_replication_slots WHERE stream_txns > 0")
[ "$streamed" = ${#SIDES[@]} ] || { echo "bench: not every slot has streamed" >&2; exit 1; }
printf '%-8s' rows
printf ' %10s' "${SIDES[@]}"
printf '   ratio   (ms, median of %d; %d rows, PostgreSQL %s, %d lanes; ratio: native / pgbaton)\n' \
	"$ROUNDS" "$ROWS" "$version" "$LANES"
for kind in insert update; do
	printf '%-8s' "$kind"
	for side in "${SIDES[@]}"; do
		printf ' %10.0f' "$(bench_median <"$BENCH_DIR/$side.$kind")"
	done
	printf ' %7.2f\n' "$(awk "BEGIN { print $(bench_median <"$BENCH_DIR/native.$kind") / $(bench_median <"$BENCH_DIR/pgbaton.$kind") }")"
done
