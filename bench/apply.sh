#!/usr/bin/env bash
#
# bench/apply.sh: how fast a backlog is applied, beside PostgreSQL's own tools.
#
# One source, two targets with equal settings, both fed by the same transactions. In each round
# one side goes first in turn, and everything else rests.
#
# tpcb, random (single-row writes that never coalesce), wide, hot, nokey: beside a subscription.
# The backlog is made while both applies are stopped: the subscription disabled, pgbaton paused
# with all of it in its log. The time is from its beginning (by the server's log, and by pgbaton's)
# until the last transaction's mark is seen on the target.
#
# receive: beside pg_recvlogical --file=/dev/null. A TPC-B backlog is made while pgbaton does not
# run at all; each has a slot behind it, with the same options. The time is from streaming
# (both say when) until pg_recvlogical has received it, and until pgbaton has received it, put
# it in its log and applied it: the mark is seen on the target.
#
#   ROUNDS=3 TRANSACTIONS=60000 NOKEY=2000 SCALE=10 LANES=4 bench/apply.sh [workload...]
#
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

ROUNDS=${ROUNDS:-3}
TRANSACTIONS=${TRANSACTIONS:-60000}
NOKEY=${NOKEY:-2000}
SCALE=${SCALE:-10}
LANES=${LANES:-4}
CLIENTS=4
WORKLOADS=("$@")
[ ${#WORKLOADS[@]} -gt 0 ] || WORKLOADS=(tpcb random wide hot nokey receive)

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

count=0 # of the backlog's transactions
backlog() { # workload
	local clients=$CLIENTS
	local script=(-f "$BENCH_DIR/$1.sql")
	count=$TRANSACTIONS
	case $1 in
	tpcb | receive) script=(-b tpcb-like -s "$SCALE") ;;
	hot) clients=1 ;;
	nokey) count=$NOKEY clients=1 ;;
	esac
	pgbench -n -M prepared -c "$clients" -j 2 -t "$((count / clients))" "${script[@]}" \
		"$(bench_uri source)" >/dev/null 2>&1
	[ "$1" != random ] || count=$((count * 3)) # each statement is one
}

MARK=0
mark() {
	MARK=$((MARK + 1))
	bench_sql source "UPDATE mark SET n = $MARK"
}
logged() { # all of it is in pgbaton's log
	local lsn
	lsn=$(bench_sql source "SELECT pg_current_wal_lsn()")
	bench_until source "SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE slot_name = 'pgbaton'"
}

# ---- what is in the log (or a subscription's slot) already ----

native_start() { bench_sql native "ALTER SUBSCRIPTION native ENABLE"; }
native_stop() {
	bench_sql native "ALTER SUBSCRIPTION native DISABLE"
	bench_until native "SELECT count(*) = 0 FROM pg_stat_subscription WHERE pid IS NOT NULL"
}
pgbaton_start() { "$PGBATON" resume >/dev/null; }
pgbaton_stop() { "$PGBATON" pause >/dev/null; }

# Both say when they begin. The looker is there before: a psql that still starts when all is
# applied would be what is measured.
native_started() { sed -n 's/^\(.*\) \[.* apply worker for subscription "native" has started$/\1/p' "$BENCH_DIR/native.log"; }
pgbaton_started() { sed -n 's/^\([^ ]*\) .* apply goes on$/\1/p' "$BENCH_DIR/pgbaton.log"; }

drain() { # side
	local looker
	PGAPPNAME=looker bench_when "$1" "SELECT n = $MARK FROM mark" >"$BENCH_DIR/end" &
	looker=$!
	bench_until "$1" "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'looker'"
	"$1_start"
	wait "$looker"
	echo $(($(cat "$BENCH_DIR/end") - $(date -d "$("$1_started" | tail -n 1)" +%s%3N))) >>"$BENCH_DIR/$1.ms"
	"$1_stop"
}
drain_round() { # workload
	backlog "$1"
	mark
	logged
	for side in "${order[@]}"; do drain "$side"; done
}

# ---- what is on the source ----

# Both slots stand behind the same checkpoint: neither has older WAL to read again.
receive_prepare() {
	pgbaton_start
	bench_sql source CHECKPOINT
	mark
	logged
	bench_until pgbaton "SELECT n = $MARK FROM mark"
	bench_pgbaton_stop
	bench_sql source "SELECT pg_create_logical_replication_slot('bench', 'pgoutput')" >/dev/null
}
receive_pgbaton() {
	local end start
	bench_when pgbaton "SELECT n = $MARK FROM mark" >"$BENCH_DIR/end" &
	local watcher=$!
	bench_pgbaton source pgbaton --lanes "$LANES"
	wait "$watcher"
	end=$(cat "$BENCH_DIR/end")
	start=$(sed -n 's/^\([^ ]*\) .* receiver .* streaming from .*/\1/p' "$BENCH_DIR/pgbaton.log" | tail -n 1)
	echo $((end - $(date -d "$start" +%s%3N))) >>"$BENCH_DIR/pgbaton.ms"
}
receive_native() { # up to the position before the last transaction
	"$PGBIN/pg_recvlogical" -d "$(bench_uri source)" -S bench --start --no-loop -v -f /dev/null -E "$1" \
		-o proto_version=1 -o publication_names=pgbaton -o binary=true -o messages=true \
		2> >(while read -r line; do
			case $line in *"streaming initiated"*) bench_now_ms ;; esac
		done >"$BENCH_DIR/start")
	local end
	end=$(bench_now_ms)
	echo $((end - $(cat "$BENCH_DIR/start"))) >>"$BENCH_DIR/native.ms"
}
receive_round() {
	local end
	receive_prepare
	backlog receive
	end=$(bench_sql source "SELECT pg_current_wal_insert_lsn()")
	mark # the first beyond the end: pg_recvlogical leaves when it comes
	for side in "${order[@]}"; do "receive_$side" "$end"; done
	pgbaton_stop
	bench_sql source "SELECT pg_drop_replication_slot('bench')" >/dev/null
}

# ---- the rounds ----

report() { # workload beside
	local n p
	n=$(bench_median <"$BENCH_DIR/native.ms")
	p=$(bench_median <"$BENCH_DIR/pgbaton.ms")
	awk -v w="$1" -v beside="$2" -v count="$count" -v n="$n" -v p="$p" 'BEGIN {
		printf "%-8s %8d  %-14s %7d ms %8d/s   pgbaton %7d ms %8d/s   %8.2f\n",
			w, count, beside, n, count * 1000 / n, p, count * 1000 / p, n / p }'
}

"$PGBATON" pause >/dev/null
native_stop
echo "PostgreSQL $(bench_sql source 'SHOW server_version'), $(nproc) cores, $LANES lanes, medians of $ROUNDS rounds; last column: ratio"
for workload in "${WORKLOADS[@]}"; do
	: >"$BENCH_DIR/native.ms"
	: >"$BENCH_DIR/pgbaton.ms"
	for round in $(seq 1 "$ROUNDS"); do
		order=(native pgbaton)
		[ $((round % 2)) = 0 ] && order=(pgbaton native)
		if [ "$workload" = receive ]; then receive_round; else drain_round "$workload"; fi
	done
	beside=subscription
	[ "$workload" = receive ] && beside=pg_recvlogical
	report "$workload" "$beside"
done
