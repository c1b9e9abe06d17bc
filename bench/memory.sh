#!/usr/bin/env bash
#
# bench/memory.sh: the most memory that pgbaton ever held (VmHWM), one process for each case.
#
# Each case starts the process afresh, lets it work through what it is made for until all of
# it is on the target, and reads VmHWM from /proc. The limit is 256 MB; a row of 200 MB may add
# twice its own size. All of it in its default sizes takes less than five minutes on an idle machine.
#
#   BACKLOG_MB=1024 ROWS=1000000 bench/memory.sh [case...]
#
#   backlog          a log of BACKLOG_MB and more, while the apply is paused, then drained
#   large            one transaction that inserts ROWS rows, then one that updates them all
#   subtransactions  one transaction with SUBTRANSACTIONS of them, of which half roll back
#   interleaved      64 transactions side by side, INTERLEAVED_ROWS rows each
#   row              one row of ROW_MB: inserted, updated; a text, and a bytea
#   tables           TABLES tables, each written to, and their status asked for
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

BACKLOG_MB=${BACKLOG_MB:-256}
ROWS=${ROWS:-10000000}
SUBTRANSACTIONS=${SUBTRANSACTIONS:-1000000}
INTERLEAVED_ROWS=${INTERLEAVED_ROWS:-10000}
ROW_MB=${ROW_MB:-200}
TABLES=${TABLES:-10000}
LANES=${LANES:-}
LIMIT_MB=256
# subtransactions last: a walsender that starts again may have to read them once more, without
# streaming them, and is busy for minutes before it sends what comes behind.
CASES=("$@")
[ ${#CASES[@]} -gt 0 ] || CASES=(backlog large interleaved row tables subtransactions)

BENCH_CONF='max_locks_per_transaction = 1024'
bench_server source
bench_server target

MARK=0
# Everything before is on the target.
applied() {
	MARK=$((MARK + 1))
	bench_sql source "UPDATE mark SET n = $MARK"
	bench_until target "SELECT n = $MARK FROM mark"
}

case_backlog() {
	"$PGBATON" pause >/dev/null
	cat >"$BENCH_DIR/load.sql" <<-'SQL'
		\set id random(1, 100000000)
		INSERT INTO b SELECT :id, repeat(md5(:id::text), 16) FROM generate_series(1, 150);
		UPDATE h SET n = n + 1 WHERE id = 1 + :id % 1000;
	SQL
	while [ "$("$PGBATON" status --json | jq '.log.bytes_on_disk')" -lt $((BACKLOG_MB * 1024 * 1024)) ]; do
		pgbench -n -M prepared -c 4 -j 2 -t 100 -f "$BENCH_DIR/load.sql" "$(bench_uri source)" >/dev/null 2>&1
	done
	"$PGBATON" resume >/dev/null
	applied
}

case_large() {
	bench_sql source "INSERT INTO l SELECT g, g, md5(g::text) FROM generate_series(1, $ROWS) g"
	applied
	bench_sql source "UPDATE l SET v = v + 1"
	applied
}

case_subtransactions() {
	bench_sql source "DO \$\$ BEGIN
		FOR i IN 1..$SUBTRANSACTIONS LOOP
			BEGIN
				INSERT INTO s VALUES (i, 'text of a row');
				IF i % 2 = 0 THEN RAISE EXCEPTION 'not this one'; END IF;
			EXCEPTION WHEN raise_exception THEN NULL;
			END;
		END LOOP; END \$\$"
	applied
}

case_interleaved() {
	{
		echo 'BEGIN;'
		for _ in $(seq 1 20); do
			echo "INSERT INTO i SELECT :client_id, md5(g::text) FROM generate_series(1, $INTERLEAVED_ROWS / 20) g;"
		done
		echo 'COMMIT;'
	} >"$BENCH_DIR/interleaved.sql"
	pgbench -n -c 64 -j 2 -t 1 -f "$BENCH_DIR/interleaved.sql" "$(bench_uri source)" >/dev/null 2>&1
	applied
}

case_row() { # text | bytea
	local value="repeat('0123456789abcdef', $ROW_MB * 65536)"
	[ "$1" = bytea ] && value="convert_to($value, 'UTF8')"
	bench_sql source "INSERT INTO row_$1 VALUES (1, $value)"
	applied
	bench_sql source "UPDATE row_$1 SET v = $value || 'x'"
	applied
}

case_tables() {
	bench_sql source "DO \$\$ BEGIN FOR i IN 1..$TABLES LOOP
		EXECUTE format('INSERT INTO t%s VALUES (1, 1)', i); END LOOP; END \$\$"
	applied
	"$PGBATON" status --json >/dev/null
	bench_sql source "DO \$\$ BEGIN FOR i IN 1..$TABLES LOOP
		EXECUTE format('UPDATE t%s SET v = 2', i); COMMIT; END LOOP; END \$\$"
	applied
}

bench_sql source "
	CREATE TABLE mark (id int PRIMARY KEY, n bigint);
	INSERT INTO mark VALUES (1, 0);
	CREATE TABLE b (id bigint, t text);
	ALTER TABLE b REPLICA IDENTITY FULL;
	CREATE TABLE h (id int PRIMARY KEY, n bigint);
	INSERT INTO h SELECT g, 0 FROM generate_series(1, 1000) g;
	CREATE TABLE l (id int PRIMARY KEY, v int, t text);
	CREATE TABLE s (id int PRIMARY KEY, t text);
	CREATE TABLE i (client int, t text);
	CREATE TABLE row_text (id int PRIMARY KEY, v text);
	CREATE TABLE row_bytea (id int PRIMARY KEY, v bytea);
	ALTER TABLE row_text ALTER v SET STORAGE EXTERNAL;
	ALTER TABLE row_bytea ALTER v SET STORAGE EXTERNAL"
case " ${CASES[*]} " in
*' tables '*)
	for from in $(seq 1 1000 "$TABLES"); do
		bench_sql source "DO \$\$ BEGIN FOR i IN $from..least($from + 999, $TABLES) LOOP
			EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v int)', i); END LOOP; END \$\$"
	done
	;;
esac

# The process starts again for each case, so that none is charged with another's peak.
measure() { # name function limit args...
	local name=$1 function=$2 limit=$3 peak
	shift 3
	bench_pgbaton source target ${LANES:+--lanes "$LANES"}
	"$function" "$@"
	peak=$(awk '/^VmHWM/ { print int($2 / 1024 + 0.5) }' "/proc/$PGBATON_PID/status")
	printf '%-20s %8d %8d   %s\n' "$name" "$peak" "$limit" "$([ "$peak" -le "$limit" ] && echo ok || echo TOO MUCH)"
	bench_pgbaton_stop
}

bench_pgbaton source target ${LANES:+--lanes "$LANES"} # the copy is not measured here
bench_pgbaton_stop
printf '%-20s %8s %8s   (MB, VmHWM of the process)\n' case peak limit
for name in "${CASES[@]}"; do
	case $name in
	row)
		measure "row of text" case_row $((LIMIT_MB + 2 * ROW_MB)) text
		measure "row of bytea" case_row $((LIMIT_MB + 2 * ROW_MB)) bytea
		;;
	*) measure "$name" "case_$name" $LIMIT_MB ;;
	esac
done
