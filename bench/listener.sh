#!/usr/bin/env bash
#
# bench/listener.sh: what standing in front of a server costs, beside pgbouncer.
#
# pgbench -S direct, through pgbaton's listener, and through pgbouncer with session and with
# transaction pooling; in each cell the four take turns, in both orders. CPU is what the process
# in between used, per query. Then COPY out of a large table, and the memory of idle clients.
# All on one machine: pgbench and the server take their share of the same processors.
#
#   CLIENTS="1 8 50 500" MODES="simple prepared" TLS="plain tls" TRANSACTIONS=20000 ROUNDS=1 \
#   COPY_MB=1000 IDLE=5000 THREADS=  bench/listener.sh
#
# COPY_MB=0 and IDLE=0 leave these parts out. An idle client needs about 3 MB, for the server's
# process; there are as many as memory allows. Needs Debian's pgbouncer.
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

CLIENTS=${CLIENTS-1 8 50 500}
MODES=${MODES-simple prepared}
TLS=${TLS-plain tls}
TRANSACTIONS=${TRANSACTIONS:-20000}
ROUNDS=${ROUNDS:-1}
COPY_MB=${COPY_MB-1000}
IDLE=${IDLE-5000}
THREADS=${THREADS:-}
most=$(awk '/^MemAvailable/ { printf "%d", $2 / 3000 }' /proc/meminfo)
[ "$IDLE" -le "$most" ] || IDLE=$most
command -v pgbouncer >/dev/null || { echo "bench: pgbouncer is not installed" >&2; exit 1; }

export PGSSLMODE=disable # pgbaton goes to the server as its own session does; pgbouncer without TLS
# Each a session of its own, as under systemd: the kernel shares the processors out by session
# (autogroup), and whoever is in pgbench's would have less of them.
printf '#!/bin/sh\nexec setsid "%s" "$@"\n' "$PGBATON" >"$BENCH_DIR/pgbaton"
chmod 755 "$BENCH_DIR/pgbaton"
PGBATON=$BENCH_DIR/pgbaton

bench_server source
bench_server target
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
	-keyout "$BENCH_DIR/key.pem" -out "$BENCH_DIR/cert.pem" 2>/dev/null
for file in key cert; do
	install -m 600 "$BENCH_DIR/$file.pem" "$BENCH_DIR/server.$file"
done
[ "$(id -u)" != 0 ] || chown "$BENCH_USER" "$BENCH_DIR"/server.*
bench_as_server tee -a "$BENCH_DIR/source/postgresql.conf" >/dev/null <<-CONF
	max_connections = $((IDLE > 1100 ? IDLE + 200 : 1300))
	shared_buffers = 256MB
	ssl = on
	ssl_cert_file = '$BENCH_DIR/server.cert'
	ssl_key_file = '$BENCH_DIR/server.key'
CONF
bench_as_server "$PGBIN/pg_ctl" -D "$BENCH_DIR/source" -w -s -l "$BENCH_DIR/source.log" restart
pgbench -i -q -s 10 "$(bench_uri source)" >/dev/null 2>&1

# --- what stands in between ---

declare -A PORT PID
PORT[direct]=${BENCH_PORT[source]}
bouncer() { # pool mode, size
	PORT[$1]=$(bench_free_port)
	bench_as_server tee "$BENCH_DIR/$1.ini" >/dev/null <<-INI
		[databases]
		postgres = host=127.0.0.1 port=${BENCH_PORT[source]} user=bench
		[pgbouncer]
		listen_addr = 127.0.0.1
		listen_port = ${PORT[$1]}
		unix_socket_dir =
		auth_type = any
		pool_mode = $1
		default_pool_size = $2
		max_client_conn = 10000
		ignore_startup_parameters = extra_float_digits
		server_tls_sslmode = disable
		client_tls_sslmode = allow
		client_tls_key_file = $BENCH_DIR/server.key
		client_tls_cert_file = $BENCH_DIR/server.cert
		log_connections = 0
		log_disconnections = 0
		server_idle_timeout = 1
	INI
	bench_as_server setsid pgbouncer -q "$BENCH_DIR/$1.ini" 2>"$BENCH_DIR/$1.log" &
	BENCH_PIDS+=("$!")
	until PID[$1]=$(pgrep -f "^pgbouncer -q $BENCH_DIR/$1.ini"); do :; done
	BENCH_PIDS+=("${PID[$1]}")
}
bouncer session 600
bouncer transaction 20
PORT[pgbaton]=$(bench_free_port)
# Only the listener's work is measured: a small database follows beside it, and stays idle.
bench_pgbaton source target --listen "127.0.0.1:${PORT[pgbaton]}" --listen-trust 127.0.0.0/8 \
	--listen-tls-cert "$BENCH_DIR/cert.pem" --listen-tls-key "$BENCH_DIR/key.pem" \
	--listen-max-clients 6000 ${THREADS:+--listen-threads "$THREADS"}
PID[pgbaton]=${BENCH_PIDS[-1]}

# --- throughput ---

cpu_ticks() { # path
	[ "$1" = direct ] && { echo 0; return; }
	awk '{ print $14 + $15 }' "/proc/${PID[$1]}/stat"
}

# A number of transactions, not a time: pgbench's clock runs while it connects, and that is long
# with hundreds of clients.
one_run() { # path clients mode sslmode: "tps cpu_us"
	local before after out threads=2 each
	[ "$2" -gt 1 ] || threads=1
	each=$((TRANSACTIONS * ($2 < 100 ? 1 : 2) / $2))
	before=$(cpu_ticks "$1")
	out=$(PGSSLMODE=$4 pgbench -n -S -M "$3" -c "$2" -j "$threads" -t "$each" \
		-h 127.0.0.1 -p "${PORT[$1]}" -U bench postgres 2>&1) || { echo "$out" >&2; exit 1; }
	after=$(cpu_ticks "$1")
	awk -v ticks=$((after - before)) '
		/actually processed/ { n = $NF } /^tps/ { tps = $3 }
		END { print tps, (n > 0 ? ticks * 10000 / n : 0) }' <<<"$out"
}

field() { # path column; "-" where it was not run
	[ -s "$BENCH_DIR/$1.runs" ] || { echo -; return; }
	cut -d' ' -f"$2" "$BENCH_DIR/$1.runs" | bench_median
}

cell() { # clients mode tls
	local sslmode=disable path round order
	local paths=(direct session transaction pgbaton)
	[ "$3" = plain ] || sslmode=require
	# With transaction pooling pgbouncer 1.18 knows no prepared statements.
	[ "$2" = simple ] || paths=(direct session pgbaton)
	for path in direct session transaction pgbaton; do : >"$BENCH_DIR/$path.runs"; done
	for round in $(seq "$ROUNDS"); do
		order=("${paths[@]}")
		[ $((round % 2)) = 1 ] || mapfile -t order < <(printf '%s\n' "${paths[@]}" | tac)
		for path in "${order[@]}"; do
			one_run "$path" "$1" "$2" "$sslmode" >>"$BENCH_DIR/$path.runs"
		done
	done
	awk -v head="$(printf '%7s %-8s %-5s' "$1" "$2" "$3")" \
		-v d="$(field direct 1)" -v s="$(field session 1)" -v t="$(field transaction 1)" \
		-v p="$(field pgbaton 1)" -v sc="$(field session 2)" -v tc="$(field transaction 2)" \
		-v pc="$(field pgbaton 2)" '
		function n(x, f) { return x == "-" ? x : sprintf(f, x) }
		BEGIN {
			printf "%s %9s %9s %9s %9s %8s %8s %7s %7s %7s\n", head, n(d, "%.0f"), n(s, "%.0f"),
				n(t, "%.0f"), n(p, "%.0f"), n(p / s, "%.2f"), t == "-" ? "-" : n(p / t, "%.2f"),
				n(sc, "%.1f"), n(tc, "%.1f"), n(pc, "%.1f")
		}'
}

if [ -n "$CLIENTS" ]; then
	printf '%46s %31s %26s\n' 'pgbench -S, tps' 'pgbaton/pgbouncer' 'CPU us a query'
	printf '%7s %-8s %-5s %9s %9s %9s %9s %8s %8s %7s %7s %7s\n' clients mode tls direct session \
		transact pgbaton session transact session transac pgbaton
fi
for tls in $TLS; do
	for clients in $CLIENTS; do
		for mode in $MODES; do
			cell "$clients" "$mode" "$tls"
		done
	done
done

# --- bulk ---

copy_run() { # path: "ms cpu_ms"
	local before after start end
	before=$(cpu_ticks "$1")
	start=$(bench_now_ms)
	PGSSLMODE=disable psql -qXAt -h 127.0.0.1 -p "${PORT[$1]}" -U bench postgres \
		-c "COPY bulk TO STDOUT" >/dev/null
	end=$(bench_now_ms)
	after=$(cpu_ticks "$1")
	echo $((end - start)) $(((after - before) * 10))
}

if [ "$COPY_MB" -gt 0 ]; then
	bench_sql source "CREATE UNLOGGED TABLE bulk AS SELECT repeat('x', 999) AS t
		FROM generate_series(1, $COPY_MB * 1000)"
	printf '\nCOPY of %s MB out: ms, CPU ms in between\n' "$COPY_MB"
	for path in direct session transaction pgbaton; do : >"$BENCH_DIR/$path.runs"; done
	for path in direct session transaction pgbaton pgbaton transaction session direct; do
		copy_run "$path" >>"$BENCH_DIR/$path.runs"
	done
	for path in direct session transaction pgbaton; do
		printf '  %-12s %7.0f %7.0f\n' "$path" "$(field "$path" 1)" "$(field "$path" 2)"
	done
	bench_sql source "DROP TABLE bulk"
fi

# --- memory ---

rss_kb() { awk '/^VmRSS/ { print $2 }' "/proc/${PID[$1]}/status"; }

# Idle clients: connected, each has run a query, and now they wait.
idle_clients() { # port count
	perl -MIO::Socket::INET -e '
		my ($port, $count) = @ARGV;
		my $params = join("", map { "$_\0" } user => "bench", database => "postgres") . "\0";
		my $query = "Q" . pack("N", 4 + 9) . "SELECT 1\0";
		my @open;
		for (1 .. $count) {
			my $s = IO::Socket::INET->new("127.0.0.1:$port") or die "connect: $!";
			print $s pack("NN", 8 + length $params, 196608) . $params;
			$s->flush;
			wait_ready($s);
			print $s $query;
			$s->flush;
			wait_ready($s);
			push @open, $s;
		}
		print "ready\n";
		STDOUT->flush;
		<STDIN>;
		sub wait_ready {
			my ($s) = @_;
			while (1) {
				my $type = take($s, 1);
				my $body = take($s, unpack("N", take($s, 4)) - 4);
				die "refused: $body" if $type eq "E";
				return if $type eq "Z";
			}
		}
		sub take {
			my ($s, $n) = @_;
			my $bytes = "";
			while (length $bytes < $n) {
				sysread($s, $bytes, $n - length $bytes, length $bytes) or die "closed";
			}
			return $bytes;
		}' "$1" "$2"
}

if [ "$IDLE" -gt 0 ]; then
	ulimit -n 20000
	before=$(rss_kb pgbaton)
	coproc IDLERS { idle_clients "${PORT[pgbaton]}" "$IDLE"; }
	read -r line <&"${IDLERS[0]}"
	[ "$line" = ready ] || exit 1
	after=$(rss_kb pgbaton)
	printf '\n%d idle clients: %.1f kB each\n' "$IDLE" \
		"$(awk -v k=$((after - before)) -v n="$IDLE" 'BEGIN { print k / n }')"
	echo >&"${IDLERS[1]}"
fi
