#!/usr/bin/env bash
#
# bench/apply.sh: how fast a backlog is applied, beside PostgreSQL's own subscription.
#
# One source, two targets with equal settings, both fed by the same transactions. Each round
# makes a backlog while both applies are stopped (the subscription disabled, pgbaton paused and
# its log filled), then lets one drain alone, then the other; who goes first alternates. The
# time is from letting go until the last transaction's mark is seen on the target.
#
#   ROUNDS=3 TRANSACTIONS=40000 SCALE=10 LANES=4 bench/apply.sh [workload...]
#
# Workloads: tpcb, random (single-row writes that never coalesce), wide, hot, nokey.
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

ROUNDS=${ROUNDS:-3}
TRANSACTIONS=${TRANSACTIONS:-40000}
SCALE=${SCALE:-10}
LANES=${LANES:-4}
CLIENTS=4
WORKLOADS=("$@")
[ ${#WORKLOADS[@]} -gt 0 ] || WORKLOADS=(tpcb random wide hot nokey)

bench_server source
bench_server native
bench_server pgbaton
pgbench -i -q -s "$SCALE" "$(bench_uri source)" >/dev/null 2>&1
wide_columns=$(for i in $(seq 1 20); do printf ', c%d text DEFAULT md5(%d::text)' "$i" "$i"; done)
bench_sql source "
	ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY;
	CREATE TABLE mark (id int PRIMARY KEY, n bigint);
	INSERT INTO mark VALUES (1, 0);
	CREATE TABLE r (id bigint PRIMARY KEY, v int, t text);
	INSERT INTO r SELECT g, 0, md5(g::text) FROM generate_series(1, 1000000) g;
	CREATE SEQUENCE r_new START 10000000;
	CREATE TABLE w (id int PRIMARY KEY$wide_columns);
	INSERT INTO w SELECT g FROM generate_series(1, 100000) g;
	CREATE TABLE h (id int PRIMARY KEY, n bigint);
	INSERT INTO h VALUES (1, 0);
	CREATE TABLE k (a int, b text);
	INSERT INTO k SELECT g, md5(g::text) FROM generate_series(1, 200000) g;
	ALTER TABLE k REPLICA IDENTITY FULL;"
bench_sql source "VACUUM ANALYZE"
pg_dump -s "$(bench_uri source)" | psql -qX "$(bench_uri native)" >/dev/null
bench_sql source "CREATE PUBLICATION native FOR ALL TABLES"
bench_sql native "CREATE SUBSCRIPTION native CONNECTION '$(bench_uri source)' PUBLICATION native WITH (binary = true)"
bench_until native "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
bench_pgbaton source pgbaton --lanes "$LANES"
bench_sql source "CREATE INDEX ON k (a)" # the source's own: the targets have to find the rows without

cat >"$BENCH_DIR/random.sql" <<'SQL'
\set id random(1, 1000000)
UPDATE r SET v = v + 1 WHERE id = :id;
INSERT INTO r VALUES (nextval('r_new'), 1, 'new');
\set gone random(1, 1000000)
DELETE FROM r WHERE id = :gone;
SQL
cat >"$BENCH_DIR/wide.sql" <<'SQL'
\set id random(1, 100000)
UPDATE w SET c1 = md5(random()::text), c7 = c1, c19 = 'x' WHERE id = :id;
SQL
echo 'UPDATE h SET n = n + 1 WHERE id = 1;' >"$BENCH_DIR/hot.sql"
cat >"$BENCH_DIR/nokey.sql" <<'SQL'
\set a random(1, 200000)
UPDATE k SET b = b || 'x' WHERE a = :a;
SQL

backlog() { # workload
	local count=$TRANSACTIONS clients=$CLIENTS
	local script=(-f "$BENCH_DIR/$1.sql")
	case $1 in
	tpcb) script=(-b tpcb-like -s "$SCALE") ;;
	hot) clients=1 ;;
	nokey) count=${NOKEY_UPDATES:-400} clients=1 ;;
	esac
	pgbench -n -M prepared -c "$clients" -j 2 -t "$((count / clients))" "${script[@]}" \
		"$(bench_uri source)" >/dev/null 2>&1
}

MARK=0
native_drain() {
	bench_sql native "ALTER SUBSCRIPTION native ENABLE"
	bench_until native "SELECT n = $MARK FROM mark"
	bench_sql native "ALTER SUBSCRIPTION native DISABLE"
	bench_until native "SELECT count(*) = 0 FROM pg_stat_subscription WHERE pid IS NOT NULL"
}
pgbaton_drain() {
	"$PGBATON" resume >/dev/null
	bench_until pgbaton "SELECT n = $MARK FROM mark"
	"$PGBATON" pause >/dev/null
}
timed() { # function
	local start
	start=$(bench_now_ms)
	"$1"
	echo $(($(bench_now_ms) - start))
}
logged() { # all of the backlog is in pgbaton's log
	local lsn
	lsn=$(bench_sql source "SELECT pg_current_wal_lsn()")
	bench_until source "SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE slot_name = 'pgbaton'"
}

"$PGBATON" pause >/dev/null
bench_sql native "ALTER SUBSCRIPTION native DISABLE"
printf '%-8s %14s %14s %8s   (ms, median of %d; backlog of %d transactions, %d lanes)\n' \
	workload native pgbaton ratio "$ROUNDS" "$TRANSACTIONS" "$LANES"
for workload in "${WORKLOADS[@]}"; do
	: >"$BENCH_DIR/native.ms"
	: >"$BENCH_DIR/pgbaton.ms"
	for round in $(seq 1 "$ROUNDS"); do
		backlog "$workload"
		MARK=$((MARK + 1))
		bench_sql source "UPDATE mark SET n = $MARK"
		logged
		order=(native pgbaton)
		[ $((round % 2)) = 0 ] && order=(pgbaton native)
		for side in "${order[@]}"; do
			timed "${side}_drain" >>"$BENCH_DIR/$side.ms"
		done
	done
	n=$(bench_median <"$BENCH_DIR/native.ms")
	p=$(bench_median <"$BENCH_DIR/pgbaton.ms")
	printf '%-8s %14.0f %14.0f %8.2f\n' "$workload" "$n" "$p" "$(awk "BEGIN { print $n / $p }")"
done
"$PGBATON" resume >/dev/null
