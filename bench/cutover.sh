#!/usr/bin/env bash
#
# bench/cutover.sh: the longest that any client waited while its database was switched to another
# server, beside the recipe with pgbouncer. A cutover each by turns, every one of a new database.
#
# pgbench keeps a rate of transactions through the listener (prepared statements) or through
# pgbouncer (transaction pooling, which before 1.21 has no prepared statements: simple protocol).
# The recipe: a native subscription has copied and follows; PAUSE, wait until it has applied what the
# source has, set the sequences, name the new server, RELOAD, RESUME. It is a shell script with a call of
# psql for each of these steps, as it is usually written, all over loopback and without a pause between
# its looks. RECIPE=sessions is the fastest that could be made of it: its sessions are open beforehand,
# and the server itself waits.
#
# Latency is pgbench's own (--log), from the moment at which the transaction was due, so that what
# queued up behind a held one counts; "own" is from its first statement on. Counted are transactions
# that ended later than half a second before the switch was asked for; "usual" is the worst of those
# before. After each round the target has to hold exactly what pgbench was told.
#
#   CLIENTS=20 RATE=1000 TABLES=100 SEQUENCES=10 ROUNDS=10 SIDES="pgbaton pgbouncer" MODE=prepared \
#   RECIPE=script bench/cutover.sh
#
# KEEP=DIR keeps each cutover's own report, pgbaton's log and pgbench's there.
# One line a cutover on stderr, the summary on stdout. Exit code 1 when a client saw an error or a
# row was lost. Needs Debian's pgbouncer for that side.
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

CLIENTS=${CLIENTS:-20}
RATE=${RATE:-1000}
TABLES=${TABLES:-100}
SEQUENCES=${SEQUENCES:-10}
ROUNDS=${ROUNDS:-10}
SIDES=${SIDES:-pgbaton pgbouncer}
MODE=${MODE:-prepared}
RECIPE=${RECIPE:-script}
ROWS=${ROWS:-1000}
POOL=${POOL:-20}
BEFORE=${BEFORE:-2} # seconds from the load's start to the switch, and the same after it
case $SIDES in
*pgbouncer*) command -v pgbouncer >/dev/null || { echo "bench: pgbouncer is not installed" >&2; exit 1; } ;;
esac
[ "$SEQUENCES" -le "$TABLES" ] || { echo "bench: at most as many sequences as tables" >&2; exit 2; }
export PGSSLMODE=disable

# Each a session of its own, as under systemd: the kernel shares the processors out by session
# (autogroup), and whoever is in pgbench's would have less of them.
printf '#!/bin/sh\nexec setsid "%s" "$@"\n' "$PGBATON" >"$BENCH_DIR/pgbaton"
chmod 755 "$BENCH_DIR/pgbaton"
PGBATON=$BENCH_DIR/pgbaton

BENCH_CONF="max_connections = $((CLIENTS * 2 + 100))
		max_locks_per_transaction = $((TABLES / 10 + 100))"
bench_server source
bench_server target

# The application's role has a password, the same verifier on both servers.
bench_sql source "CREATE ROLE app LOGIN PASSWORD 'secret'"
bench_sql target "CREATE ROLE app LOGIN PASSWORD '$(bench_sql source "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'")'"
for side in source target; do
	bench_as_server sed -i '1i host all app 127.0.0.1/32 scram-sha-256' "$BENCH_DIR/$side/pg_hba.conf"
	bench_sql "$side" "SELECT pg_reload_conf()" >/dev/null
done
export PGPASSWORD=secret

# --- the load ---

# Tables 1 to SEQUENCES have a sequence and get rows; each transaction inserts into one of them and
# updates another: at random, or with many clients always the same for one client. For pgbench
# prepares a statement when a client first comes to it, and waits for that with all clients of its
# thread: were that one held, the others could not end their transactions, and the hold not begin.
choice="random(1, $SEQUENCES)"
[ "$CLIENTS" -le 50 ] || choice="1 + :client_id % $SEQUENCES"
for ((i = 1; i <= SEQUENCES; i++)); do
	cat <<-SQL
		$([ "$i" = 1 ] && printf '%sset id random(1, %d)\n%sset k %s\n%sif' \\ "$ROWS" \\ "$choice" \\ || printf '%selif' \\) :k = $i
		BEGIN;
		UPDATE t$((SEQUENCES + i <= TABLES ? SEQUENCES + i : i)) SET v = v + 1 WHERE id = :id;
		INSERT INTO t$i (v) VALUES (:id);
		SELECT v FROM t$((TABLES - i + 1)) WHERE id = :id;
		COMMIT;
	SQL
done >"$BENCH_DIR/load.sql"
printf '%s\n' '\endif' >>"$BENCH_DIR/load.sql"
{
	for ((i = 1; i <= TABLES; i++)); do
		if [ "$i" -le "$SEQUENCES" ]; then id=bigserial; else id=bigint; fi
		echo "CREATE TABLE t$i (id $id PRIMARY KEY, v bigint NOT NULL, pad text DEFAULT repeat('x', 80));"
	done
	echo "DO \$\$BEGIN FOR i IN $((SEQUENCES + 1)) .. $TABLES LOOP EXECUTE format(
		'INSERT INTO t%s SELECT g, 0 FROM generate_series(1, $ROWS) g', i); END LOOP; END\$\$;"
	echo "SELECT format('ALTER TABLE %I OWNER TO app', relname) FROM pg_class
		WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \\gexec"
} >"$BENCH_DIR/schema.sql"
bench_sql source "CREATE DATABASE model"
psql -qX "$(bench_uri source model)" -1 -v ON_ERROR_STOP=1 -f "$BENCH_DIR/schema.sql"

# How many rows were inserted, or -1 where a sequence would give a number again.
inserted() { # server database
	local sum=0 good=true i
	for ((i = 1; i <= SEQUENCES; i++)); do
		sum="$sum + (SELECT count(*) FROM t$i)"
		good="$good AND NOT EXISTS (SELECT FROM t$i, t${i}_id_seq WHERE id > last_value)"
	done
	bench_sql "$1" "SELECT CASE WHEN $good THEN $sum ELSE -1 END" "$2"
}

load_begin() { # port database mode
	rm -f "$BENCH_DIR"/log.*
	(cd "$BENCH_DIR" && exec pgbench -n -M "$3" -c "$CLIENTS" -j 2 -R "$RATE" -T 600 -f load.sql \
		--log --log-prefix=log -h 127.0.0.1 -p "$1" -U app "$2" >pgbench.out 2>&1) &
	LOAD_PID=$!
	BENCH_PIDS+=("$LOAD_PID")
	# All clients are in, and have worked for a while.
	until [ "$(cat "$BENCH_DIR"/log.* 2>/dev/null | awk '{ seen[$1] } END { print length(seen) }')" = "$CLIENTS" ]; do
		kill -0 "$LOAD_PID" 2>/dev/null || { cat "$BENCH_DIR/pgbench.out" >&2; exit 1; }
		sleep 0.1
	done
	sleep "$BEFORE"
}

# Ends the load as pgbench's own clock does. RESULT is "worst own usual" in ms, transactions, errors.
load_end() { # when the switch was asked for, ms
	local status=0 failed
	sleep "$BEFORE"
	kill -ALRM "$LOAD_PID"
	wait "$LOAD_PID" || status=$?
	failed=$(sed -n 's/^number of failed transactions: \([0-9]*\).*/\1/p' "$BENCH_DIR/pgbench.out")
	[ "$status" = 0 ] || tail -n 5 "$BENCH_DIR/pgbench.out" >&2
	failed=$((${failed:-0} + (status != 0) + $(grep -c 'client.*aborted' "$BENCH_DIR/pgbench.out" || true)))
	RESULT=$(cat "$BENCH_DIR"/log.* | awk -v asked="$1" -v failed="$failed" '
		{ n++; at = $5 * 1000 + $6 / 1000 }
		at < asked - 500 { if (at > asked - 1500 && $3 > usual) usual = $3; next }
		{ if ($3 > worst) worst = $3; if ($3 - $7 > own) own = $3 - $7 }
		END { printf "%.1f %.1f %.1f %d %d\n", worst / 1000, own / 1000, usual / 1000, n, failed }')
}

# --- pgbaton ---

round_pgbaton() { # database
	local port asked
	port=$(bench_free_port)
	PGBATON_ADMIN=127.0.0.1:$(bench_free_port)
	export PGBATON_ADMIN
	"$PGBATON" run --source "$(bench_uri source "$1")" --target "$(bench_uri target "$1")" \
		--state-dir "$BENCH_DIR/state.$1" --admin "$PGBATON_ADMIN" \
		--listen "127.0.0.1:$port" 2>"$BENCH_DIR/pgbaton.log" &
	PGBATON_PID=$!
	BENCH_PIDS+=("$PGBATON_PID")
	"$PGBATON" wait --for following --timeout 300 || { tail "$BENCH_DIR/pgbaton.log" >&2; exit 1; }
	load_begin "$port" "$1" "$MODE"
	asked=$(bench_now_ms)
	"$PGBATON" cutover --json >"$BENCH_DIR/cutover.json" ||
		{ cat "$BENCH_DIR/cutover.json" >&2; tail "$BENCH_DIR/pgbaton.log" >&2; exit 1; }
	load_end "$asked"
	RESULT="$RESULT $(sed -n 's/.*"hold_ms": *\([0-9.]*\).*/\1/p' "$BENCH_DIR/cutover.json" | head -n 1)"
	"$PGBATON" finish >/dev/null
	wait "$PGBATON_PID"
	[ -z "${KEEP:-}" ] || for file in cutover.json pgbaton.log; do cp "$BENCH_DIR/$file" "$KEEP/$1.$file"; done
}

# --- the recipe ---

declare -A URI=() IN=() OUT=()
session() { # name uri: for ask; RECIPE=sessions: a psql that is open beforehand
	local in out
	URI[$1]=$2
	[ "$RECIPE" = sessions ] || return 0
	mkfifo "$BENCH_DIR/$1.in" "$BENCH_DIR/$1.out"
	psql -qXAt -v ON_ERROR_STOP=1 "$2" <"$BENCH_DIR/$1.in" >"$BENCH_DIR/$1.out" &
	exec {in}>"$BENCH_DIR/$1.in" {out}<"$BENCH_DIR/$1.out"
	IN[$1]=$in OUT[$1]=$out
	rm "$BENCH_DIR/$1.in" "$BENCH_DIR/$1.out"
}
ask() { # name sql: the first line of the answer
	local line
	[ "$RECIPE" = sessions ] || { psql -qXAt -v ON_ERROR_STOP=1 "${URI[$1]}" <<<"$2"; return; }
	printf '%s\n' "$2" >&"${IN[$1]}"
	read -r line <&"${OUT[$1]}" || { echo "bench: $1: the session has ended" >&2; return 1; }
	printf '%s\n' "$line"
}
close_session() { # name
	[ "$RECIPE" = sessions ] || return 0
	local in=${IN[$1]} out=${OUT[$1]}
	exec {in}>&- {out}<&-
}

bouncer_ini() { # database server
	bench_as_server tee "$BENCH_DIR/bouncer.ini" >/dev/null <<-INI
		[databases]
		$1 = host=127.0.0.1 port=${BENCH_PORT[$2]} user=app password=secret
		[pgbouncer]
		listen_addr = 127.0.0.1
		listen_port = $BOUNCER_PORT
		unix_socket_dir =
		auth_type = any
		admin_users = bench
		pool_mode = transaction
		default_pool_size = $POOL
		max_client_conn = 10000
		server_tls_sslmode = disable
		log_connections = 0
		log_disconnections = 0
	INI
}

wait_level() { # subscription lsn
	local level="EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '$1' AND replay_lsn >= '$2')"
	if [ "$RECIPE" = sessions ]; then
		ask source "DO \$wait\$ BEGIN
			WHILE NOT $level LOOP PERFORM pg_sleep(0.001); END LOOP; END \$wait\$; SELECT 1;" >/dev/null
		return
	fi
	until [ "$(ask source "SELECT $level;")" = t ]; do :; done
}

round_pgbouncer() { # database
	local asked lsn sequences held
	pg_dump -s "$(bench_uri source "$1")" | psql -qX "$(bench_uri target "$1")" >/dev/null
	bench_sql source "CREATE PUBLICATION $1 FOR ALL TABLES" "$1"
	bench_sql target "CREATE SUBSCRIPTION $1 CONNECTION '$(bench_uri source "$1")' PUBLICATION $1
		WITH (binary = true)" "$1"
	bench_sql target "DO \$wait\$ BEGIN
		WHILE NOT (SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel) LOOP
			COMMIT; PERFORM pg_sleep(0.01); END LOOP; END \$wait\$" "$1"
	BOUNCER_PORT=$(bench_free_port)
	bouncer_ini "$1" source
	bench_as_server setsid pgbouncer -q "$BENCH_DIR/bouncer.ini" 2>"$BENCH_DIR/bouncer.log" &
	BENCH_PIDS+=("$!")
	until BOUNCER_PID=$(pgrep -f "^pgbouncer -q $BENCH_DIR/bouncer.ini"); do sleep 0.05; done
	BENCH_PIDS+=("$BOUNCER_PID")
	load_begin "$BOUNCER_PORT" "$1" simple
	session console "postgresql://bench@127.0.0.1:$BOUNCER_PORT/pgbouncer"
	session source "$(bench_uri source "$1")"
	session target "$(bench_uri target "$1")"
	ask console "SHOW VERSION;" >/dev/null
	ask source "SELECT 1;" >/dev/null
	ask target "SELECT 1;" >/dev/null

	asked=$(bench_now_ms)
	ask console "PAUSE $1; SHOW VERSION;" >/dev/null
	lsn=$(ask source "SELECT pg_current_wal_insert_lsn();")
	wait_level "$1" "$lsn"
	sequences=$(ask source "SELECT string_agg(format('setval(%L, %s)', schemaname || '.' || sequencename,
		last_value), ', ') FROM pg_sequences WHERE last_value IS NOT NULL;")
	[ -z "$sequences" ] || ask target "SELECT $sequences;" >/dev/null
	bouncer_ini "$1" target
	ask console "RELOAD; RESUME $1; SHOW VERSION;" >/dev/null
	held=$(($(bench_now_ms) - asked))

	load_end "$asked"
	RESULT="$RESULT $held"
	close_session console
	close_session source
	close_session target
	kill "$BOUNCER_PID"
	bench_sql target "DROP SUBSCRIPTION $1" "$1"
}

# --- by turns ---

for side in $SIDES; do : >"$BENCH_DIR/$side.rounds"; done
printf '%-10s %5s %9s %9s %9s %9s %9s %6s   ms\n' side round worst own usual held 'tx' errors >&2
for ((round = 1; round <= ROUNDS; round++)); do
	read -ra order <<<"$SIDES"
	[ $((round % 2)) = 1 ] || mapfile -t order < <(printf '%s\n' "${order[@]}" | tac)
	for side in "${order[@]}"; do
		db=${side}_$round
		bench_sql source "CREATE DATABASE $db TEMPLATE model"
		bench_sql target "CREATE DATABASE $db"
		"round_$side" "$db"
		read -r worst own usual n errors held <<<"$RESULT"
		there=$(inserted target "$db")
		if [ "$there" != "$n" ]; then
			echo "bench: $side: pgbench was told of $n transactions, the target has $there" >&2
			errors=$((errors + 1))
		fi
		[ -z "${KEEP:-}" ] || cat "$BENCH_DIR"/log.* >"$KEEP/$db.pgbench"
		printf '%-10s %5d %9.1f %9.1f %9.1f %9.1f %9d %6d\n' "$side" "$round" "$worst" "$own" "$usual" \
			"$held" "$n" "$errors" | tee -a "$BENCH_DIR/$side.rounds" >&2
		bench_sql source "DROP DATABASE $db WITH (FORCE)"
		bench_sql target "DROP DATABASE $db WITH (FORCE)"
	done
done

printf '\n%d cutovers each: %d clients, %d tx/s, %d tables, %d sequences; latency in ms\n' \
	"$ROUNDS" "$CLIENTS" "$RATE" "$TABLES" "$SEQUENCES"
printf '%-10s %13s %13s %13s %13s %13s %7s\n' side 'median worst' 'worst of all' 'own, worst' 'usual, worst' \
	'held, median' errors
column() { awk -v c="$2" '{ print $c }' "$BENCH_DIR/$1.rounds"; } # side column
most() { sort -n | tail -n 1; }
bad=0
for side in $SIDES; do
	errors=$(column "$side" 8 | awk '{ n += $1 } END { print n + 0 }')
	bad=$((bad + errors))
	printf '%-10s %13.1f %13.1f %13.1f %13.1f %13.1f %7d\n' "$side" "$(column "$side" 3 | bench_median)" \
		"$(column "$side" 3 | most)" "$(column "$side" 4 | most)" "$(column "$side" 5 | most)" \
		"$(column "$side" 6 | bench_median)" "$errors"
done
if [ "$SIDES" = 'pgbaton pgbouncer' ]; then
	awk -v a="$(column pgbouncer 3 | bench_median)" -v b="$(column pgbaton 3 | bench_median)" \
		-v c="$(column pgbouncer 3 | most)" -v d="$(column pgbaton 3 | most)" \
		'BEGIN { printf "pgbouncer/pgbaton: median %.1f, worst %.1f\n", a / b, c / d }'
fi
[ "$bad" = 0 ]
