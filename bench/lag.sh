#!/usr/bin/env bash
#
# bench/lag.sh: from a commit on the source to its commit on the target, for every transaction
# of a steady load, beside PostgreSQL's own subscription.
#
# No polling and no probe: each transaction writes a row of pgbench_history. The source says
# when it committed it (track_commit_timestamp); on the target the row's xmin is looked up among
# the commit records of its WAL (pg_waldump), whose time is that server's own clock for both
# sides (pg_xact_commit_timestamp would give the source's time for a subscription). All servers
# share one clock. Each side works alone in its phases: the subscription is disabled, or the
# pgbaton process stopped; a phase begins when nothing is behind. Who goes first alternates.
#
#   RATES="500 2000" ROUNDS=3 SECONDS_EACH=10 LANES= bench/lag.sh
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

RATES=${RATES:-500 2000}
ROUNDS=${ROUNDS:-3}
SECONDS_EACH=${SECONDS_EACH:-10}
SCALE=${SCALE:-10}
CLIENTS=4
LANES=${LANES:-}

BENCH_CONF='track_commit_timestamp = on'
bench_server source
BENCH_CONF=
bench_server native
bench_server pgbaton
pgbench -i -q -s "$SCALE" "$(bench_uri source)" >/dev/null 2>&1
bench_sql source "ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY"
bench_sql source "VACUUM ANALYZE"
pg_dump -s "$(bench_uri source)" | psql -qX "$(bench_uri native)" >/dev/null
bench_sql source "CREATE PUBLICATION native FOR ALL TABLES"
bench_sql native "CREATE SUBSCRIPTION native CONNECTION '$(bench_uri source)' PUBLICATION native WITH (binary = true)"
bench_until native "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
bench_sql native "ALTER SUBSCRIPTION native DISABLE"

native_begin() { bench_sql native "ALTER SUBSCRIPTION native ENABLE"; }
native_end() {
	bench_sql native "ALTER SUBSCRIPTION native DISABLE"
	bench_until native "SELECT count(*) = 0 FROM pg_stat_subscription WHERE pid IS NOT NULL"
}
pgbaton_begin() { bench_pgbaton source pgbaton ${LANES:+--lanes "$LANES"}; }
pgbaton_end() { bench_pgbaton_stop; }

# All that the source has is on that side. Ids are not committed in their order.
caught_up() { # side
	local rows
	rows=$(bench_sql source "SELECT count(*) FROM pgbench_history")
	bench_until "$1" "SELECT count(*) = $rows FROM pgbench_history"
}

# Lags in microseconds, one a line, of the rows with ids above the given one.
lags() { # side first-id wal-position
	local side=$1 first=$2 start=$3 end
	# Commits may be asynchronous; this one is not, and lies behind them.
	bench_sql "$side" "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'bench', '')" >/dev/null
	end=$(bench_sql "$side" "SELECT pg_current_wal_flush_lsn()")
	bench_as_server env TZ=UTC "$PGBIN/pg_waldump" -p "$BENCH_DIR/$side/pg_wal" -r Transaction \
		-s "$start" -e "$end" >"$BENCH_DIR/waldump"
	sed -n 's/.* tx: *\([0-9]*\), .* desc: COMMIT \([0-9-]* [0-9:.]* UTC\).*/\1\t\2/p' \
		"$BENCH_DIR/waldump" >"$BENCH_DIR/commits"
	psql -qXAt -v ON_ERROR_STOP=1 "$(bench_uri source)" >"$BENCH_DIR/source.us" <<-SQL
		COPY (SELECT id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint
		FROM pgbench_history WHERE id > $first) TO STDOUT
	SQL
	psql -qXAt -v ON_ERROR_STOP=1 "$(bench_uri "$side")" >"$BENCH_DIR/target.us" <<-SQL
		CREATE TEMP TABLE commits (xid xid, at timestamptz);
		\copy commits FROM '$BENCH_DIR/commits'
		COPY (SELECT h.id, (extract(epoch FROM c.at) * 1000000)::bigint
		FROM pgbench_history h JOIN commits c ON c.xid = h.xmin WHERE h.id > $first) TO STDOUT
	SQL
	awk 'NR == FNR { at[$1] = $2; next }
	     $1 in at { print $2 - at[$1]; n++ }
	     END { if (n != length(at)) { print "bench: " length(at) - n " rows without a commit" > "/dev/stderr"; exit 1 } }' \
		"$BENCH_DIR/source.us" "$BENCH_DIR/target.us"
}

phase() { # side rate
	local side=$1 rate=$2 first start
	"${side}_begin"
	caught_up "$side"
	first=$(bench_sql source "SELECT coalesce(max(id), 0) FROM pgbench_history")
	start=$(bench_sql "$side" "SELECT pg_current_wal_flush_lsn()")
	pgbench -n -M prepared -c "$CLIENTS" -j 2 -R "$rate" -T "$SECONDS_EACH" "$(bench_uri source)" >/dev/null 2>&1
	caught_up "$side"
	"${side}_end"
	lags "$side" "$first" "$start" >>"$BENCH_DIR/$side.lags"
}

percentile() { # file percent
	sort -n "$1" | awk -v p="$2" '{ v[NR] = $1 } END { i = int(NR * p / 100 + 0.5); print v[i < 1 ? 1 : i] / 1000 }'
}

printf '%-10s %10s %10s %10s   (ms from commit to commit, %d phases of %d s each)\n' \
	'tx/s' native pgbaton ratio "$ROUNDS" "$SECONDS_EACH"
for rate in $RATES; do
	: >"$BENCH_DIR/native.lags"
	: >"$BENCH_DIR/pgbaton.lags"
	for round in $(seq 1 "$ROUNDS"); do
		order=(native pgbaton)
		[ $((round % 2)) = 0 ] && order=(pgbaton native)
		for side in "${order[@]}"; do phase "$side" "$rate"; done
	done
	for p in 50 95 99 99.9; do
		n=$(percentile "$BENCH_DIR/native.lags" $p)
		b=$(percentile "$BENCH_DIR/pgbaton.lags" $p)
		printf '%-10s %10.2f %10.2f %10.2f\n' "$rate p$p" "$n" "$b" "$(awk "BEGIN { print $b / $n }")"
	done
done
