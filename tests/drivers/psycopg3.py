# psycopg 3: prepared from the first execution on, transactions, pipelines.
# usage: python3 psycopg3.py ID STOP_FILE (the protocol: tests/integration/test_drivers.c)
import os
import sys
import time

import psycopg

ADD = """WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = %s RETURNING id, n)
    INSERT INTO entries SELECT id, n, inet_server_port(), current_setting('app.driver') FROM up
    RETURNING n, port"""


def ack(cursor):
    print("ack %d %d" % cursor.fetchone(), flush=True)


def main(id, stop):
    # No connection parameter: PGHOST and the rest.
    with psycopg.connect(autocommit=True, prepare_threshold=0) as connection:
        connection.execute("SET app.driver = 'psycopg'")
        turn = 0
        while not os.path.exists(stop):
            if turn % 3 == 0:
                ack(connection.execute(ADD, [id]))
            elif turn % 3 == 1:
                with connection.transaction():
                    cursor = connection.execute(ADD, [id])
                ack(cursor)
            else:
                with connection.pipeline():
                    both = [connection.execute(ADD, [id]) for _ in range(2)]
                for cursor in both:
                    ack(cursor)
            turn += 1
            time.sleep(0.01)
    print("done", flush=True)


main(int(sys.argv[1]), sys.argv[2])
