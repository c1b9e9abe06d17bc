# asyncpg: a protocol of its own, binary; statements that stay prepared, transactions with a cursor,
# and COPY, whose Query it sends behind extended messages without a Sync.
# usage: python3 async_pg.py ID STOP_FILE (the protocol: tests/integration/test_drivers.c)
import asyncio
import os
import sys

import asyncpg

ADD = """WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = $1 RETURNING id, n)
    INSERT INTO entries SELECT id, n, inet_server_port(), current_setting('app.driver') FROM up
    RETURNING n, port"""


async def main(id, stop):
    # No connection parameter: PGHOST and the rest.
    connection = await asyncpg.connect()
    await connection.execute("SET app.driver = 'asyncpg'")
    kept = await connection.prepare(ADD)
    turn = 0
    while not os.path.exists(stop):
        if turn % 3 == 0:
            done = await kept.fetchrow(id)
        elif turn % 3 == 1:
            async with connection.transaction():
                done = await connection.fetchrow(ADD, id)
                async with connection.transaction():
                    numbers = "SELECT i FROM generate_series(1, 20) i"
                    total = sum([row[0] async for row in connection.cursor(numbers, prefetch=7)])
                    if total != 210:
                        raise ValueError("the cursor's rows add up to %d" % total)
        else:
            async with connection.transaction():
                n = await connection.fetchval(
                    "UPDATE ledger SET n = n + 1 WHERE id = $1 RETURNING n", id)
                port = await connection.fetchval("SELECT inet_server_port()")
                setting = await connection.fetchval("SELECT current_setting('app.driver')")
                await connection.copy_records_to_table("entries", records=[(id, n, port, setting)])
                done = (n, port)
        print("ack %d %d" % tuple(done), flush=True)
        turn += 1
        await asyncio.sleep(0.01)
    await connection.close()
    print("done", flush=True)


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
