#!/usr/bin/env bash
# psql, one session fed through a pipe: the simple protocol, and SQL's own PREPARE.
# usage: psql.sh ID STOP_FILE (the protocol: tests/integration/test_drivers.c)
set -euo pipefail
id=$1 stop=$2

coproc SESSION { exec psql -qXAt -F ' ' -v ON_ERROR_STOP=1; }
psql=$SESSION_PID

ask() { # SQL that returns one row
	printf '%s\n' "$1" >&"${SESSION[1]}"
	read -r answer <&"${SESSION[0]}" || { echo "psql.sh: the session has ended" >&2; exit 1; }
}

ask "SET app.driver = 'psql'; SELECT 1;"
ask "PREPARE add (int) AS
	WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = \$1 RETURNING id, n)
	INSERT INTO entries SELECT id, n, inet_server_port(), current_setting('app.driver') FROM up
	RETURNING n, port; SELECT 1;"
turn=0
until [ -e "$stop" ]; do
	if [ $((turn++ % 2)) = 0 ]; then
		ask "EXECUTE add ($id);"
		result=$answer
	else
		ask "BEGIN; EXECUTE add ($id);"
		result=$answer
		ask "COMMIT; SELECT 'committed';"
		[ "$answer" = committed ]
	fi
	echo "ack $result"
	sleep 0.01
done
printf '\\q\n' >&"${SESSION[1]}"
wait "$psql"
echo "done"
